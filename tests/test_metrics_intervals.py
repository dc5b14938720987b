"""Intervals and paired tests over patients: calibration on simulated data, known answers, ways to compute that agree."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from stochseg.errors import InputError
from stochseg.metrics.intervals import bootstrap_interval, bootstrap_totals_interval, paired_test


def patients(rng, count=40, mean=0.3):
    """Values of images, 1 to 8 a patient, which share the patient's own level."""
    sizes = rng.integers(1, 9, count)
    groups = np.repeat(np.arange(count), sizes)
    return mean + rng.normal(0, 0.1, count)[groups] + rng.normal(0, 0.05, len(groups)), groups


def covered(resample_images):
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(400):
        values, groups = patients(rng)
        low, high = bootstrap_interval(
            values, np.arange(len(values)) if resample_images else groups, draws=400, seed=trial
        )
        hits += low <= 0.3 <= high
    return hits / 400


def test_coverage_is_the_level_asked_for_only_if_patients_are_resampled():
    assert 0.90 <= covered(resample_images=False) <= 0.98
    assert covered(resample_images=True) < 0.75


def test_mean_by_sums_is_the_mean_draw_by_draw():
    values, groups = patients(np.random.default_rng(1), count=12)
    fast = bootstrap_interval(values, groups, draws=300, seed=4)
    slow = bootstrap_interval(values, groups, statistic=lambda drawn: drawn.mean(), draws=300, seed=4)
    assert fast == pytest.approx(slow)


def test_many_draws_in_parts_are_the_same_draws(monkeypatch):
    values, groups = patients(np.random.default_rng(2))
    whole = bootstrap_interval(values, groups, draws=500)
    monkeypatch.setattr("stochseg.metrics.intervals.DRAWS_AT_ONCE_ELEMENTS", 1000)
    assert bootstrap_interval(values, groups, draws=500) == whole


def test_level_seed_and_names():
    values, groups = patients(np.random.default_rng(3))
    names = [f"patient {g}" for g in groups]
    low, high = bootstrap_interval(values, groups)
    narrow_low, narrow_high = bootstrap_interval(values, groups, level=0.5)
    assert low < narrow_low < values.mean() < narrow_high < high
    assert bootstrap_interval(values, groups, seed=1) == bootstrap_interval(values, groups, seed=1) != (low, high)
    assert bootstrap_interval(values, names) == pytest.approx((low, high), abs=0.02)


def test_undefined_values_are_left_out():
    values, groups = patients(np.random.default_rng(4))
    expected = bootstrap_interval(values, groups)
    with_gaps = bootstrap_interval([*values, np.nan, np.nan], [*groups, groups[0], 999])
    assert with_gaps == expected


@pytest.mark.parametrize(
    ("values", "groups", "options", "message"),
    [
        ([1.0, 2.0], ["a", "a"], {}, r"1 group\(s\)"),
        ([np.nan, np.nan], ["a", "b"], {}, r"0 group\(s\)"),
        ([], [], {}, r"0 group\(s\)"),
        ([1.0, 2.0], ["a"], {}, "one group a value"),
        ([1.0, 2.0], ["a", "b"], {"level": 95}, "level is 95"),
        ([1.0, 2.0], ["a", "b"], {"draws": 0}, "draws is 0"),
    ],
)
def test_what_has_no_interval_says_why(values, groups, options, message):
    with pytest.raises(InputError, match=message):
        bootstrap_interval(values, groups, **options)


def flips_one_by_one(a, b, groups):
    """All 2^G flips of signs, written as loops, of the decimal numbers that are meant."""
    by_group = {}
    for one, two, group in zip(a, b, groups, strict=True):
        if not math.isnan(one) and not math.isnan(two):
            by_group.setdefault(group, []).append(Fraction(str(one)) - Fraction(str(two)))
    sums = [sum(values) for values in by_group.values()]
    as_extreme = 0
    for signs in itertools.product([-1, 1], repeat=len(sums)):
        flipped = sum(sign * value for sign, value in zip(signs, sums, strict=True))
        as_extreme += abs(flipped) >= abs(sum(sums))
    return Fraction(as_extreme, 2 ** len(sums))


def test_paired_test_of_tiny_data_by_hand():
    # sums of the groups: 3, -1, 1. Of the 8 flips, sums are +-5, +-3 (twice) and +-1: 6 of 8 reach |3|
    test = paired_test([2.0, 2.0, 0.0, 1.5], [0.0, 1.0, 1.0, 0.5], ["x", "x", "y", "z"])
    assert test.p_value == 0.75
    assert (test.difference, test.images, test.groups, test.undefined) == (0.75, 4, 3, 0)
    # all of 5 groups agree: only the flip of none and the flip of all are as extreme
    assert paired_test([1.0] * 5, [0.0] * 5, range(5)).p_value == 2 / 32
    same = paired_test([1.0, 2.0], [1.0, 2.0], [0, 1])
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.sampled_from([-0.3, -0.1, 0.0, 0.1, 0.2, 0.7, math.nan])),
        min_size=2,
        max_size=30,
    )
)
def test_paired_test_is_the_share_of_all_flips_counted_one_by_one(rows):
    groups, a = [g for g, _ in rows], [v for _, v in rows]
    b = [(5 * i) % 4 / 4 for i in range(len(a))]
    if len({g for g, v in rows if not math.isnan(v)}) < 2:
        with pytest.raises(InputError, match="takes at least 2"):
            paired_test(a, b, groups, draws=10)
        return
    test = paired_test(a, b, groups, draws=10)
    assert test.p_value == pytest.approx(float(flips_one_by_one(a, b, groups)))
    assert test.undefined == sum(math.isnan(v) for v in a)
    assert test.images + test.undefined == len(a)


def test_rounding_does_not_break_ties_between_flips():
    # 0.1 + 0.2 and 0.3 differ in binary, the flips that exchange them are equally extreme all the same
    assert paired_test([0.1, 0.2, -0.3, 0.3], [0.0] * 4, range(4)).p_value == float(
        flips_one_by_one([1.0, 2.0, -3.0, 3.0], [0.0] * 4, range(4))
    )


def test_random_flips_come_near_to_all_flips(monkeypatch):
    a, groups = patients(np.random.default_rng(5), count=12, mean=0.03)
    exact = paired_test(a, np.zeros_like(a), groups)
    monkeypatch.setattr("stochseg.metrics.intervals.EXACT_UP_TO_GROUPS", 1)
    drawn = paired_test(a, np.zeros_like(a), groups)
    assert 0.01 < exact.p_value < 0.99
    assert drawn.p_value == pytest.approx(exact.p_value, abs=4 * math.sqrt(exact.p_value / 10_000))
    assert drawn.p_value != exact.p_value
    assert drawn[:3] == exact[:3]
    monkeypatch.setattr("stochseg.metrics.intervals.DRAWS_AT_ONCE_ELEMENTS", 1000)
    assert paired_test(a, np.zeros_like(a), groups) == drawn
    assert paired_test(a + 10, np.zeros_like(a), groups, draws=99).p_value == 0.01  # never 0


@pytest.mark.parametrize("count", [9, 40])  # all flips, random flips
def test_exchanging_the_methods_changes_signs_alone(count):
    rng = np.random.default_rng(6)
    a, groups = patients(rng, count, mean=0.05)
    b = rng.normal(0, 0.1, len(a))
    b[3] = np.nan
    one, other = paired_test(a, b, groups, draws=500), paired_test(b, a, groups, draws=500)
    assert other.difference == -one.difference
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low))
    assert other.p_value == one.p_value
    assert other[4:] == one[4:] == (len(a) - 1, count, 1)
    assert one.low < one.difference < one.high


@pytest.mark.parametrize("count", [12, 40])  # all flips, random flips
def test_paired_test_is_calibrated_where_the_methods_are_equal(count):
    """Patients differ and share a level, methods differ by patient at random, and their mean difference is 0."""
    rng = np.random.default_rng(7)
    p_values, covered = [], 0
    for trial in range(250):
        both, groups = patients(rng, count)
        by_patient = rng.normal(0, 0.1, count)[groups]
        test = paired_test(both + by_patient + rng.normal(0, 0.05, len(both)), both, groups, draws=400, seed=trial)
        p_values.append(test.p_value)
        covered += test.low <= 0 <= test.high
    assert kstest(p_values, "uniform").pvalue > 0.01
    assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.05, abs=0.04)
    assert 0.95 - (0.09 if count < 20 else 0.05) <= covered / 250 <= 0.98  # a little less with few groups
    images_as_groups = [
        paired_test(by_patient[groups], np.zeros(len(groups)), np.arange(len(groups)), draws=200).p_value
        for by_patient, (_, groups) in ((rng.normal(0, 0.1, count), patients(rng, count)) for _ in range(60))
    ]
    assert np.mean(np.array(images_as_groups) <= 0.05) > 0.15  # what is wrong with testing images


def test_paired_test_sees_a_difference_that_two_intervals_hide():
    rng = np.random.default_rng(8)
    hard, groups = patients(rng)
    a, b = hard, hard + 0.02 + rng.normal(0, 0.01, len(hard))
    first, second = bootstrap_interval(a, groups), bootstrap_interval(b, groups)
    assert first[1] > second[0]
    test = paired_test(a, b, groups)
    assert test.p_value < 0.001
    assert test.low <= -0.02 <= test.high < 0


@pytest.mark.parametrize(
    ("a", "b", "groups", "options", "message"),
    [
        ([1.0, 2.0], [1.0, 2.0], ["a", "a"], {}, r"1 group\(s\)"),
        ([1.0, np.nan], [np.nan, 2.0], ["a", "b"], {}, r"0 group\(s\)"),
        ([1.0, 2.0], [1.0], ["a", "b"], {}, "same images"),
        ([1.0, 2.0], [1.0, 2.0], ["a"], {}, "same images"),
        ([1.0, np.inf], [1.0, 2.0], ["a", "b"], {}, "infinite"),
        ([1.0, 2.0], [1.0, 2.0], ["a", "b"], {"level": 95}, "level is 95"),
        ([1.0, 2.0], [1.0, 2.0], ["a", "b"], {"draws": 0}, "draws is 0"),
    ],
)
def test_what_cannot_be_tested_says_why(a, b, groups, options, message):
    with pytest.raises(InputError, match=message):
        paired_test(a, b, groups, **options)


def test_totals_and_groups_that_do_not_fit_say_why():
    totals = np.ones((3, 2))
    with pytest.raises(InputError, match="3 totals and 2 groups"):
        bootstrap_totals_interval(totals, ["a", "b"], lambda sums: sums[:, 0])
    with pytest.raises(InputError, match="level is 95"):
        bootstrap_totals_interval(totals, ["a", "b", "c"], lambda sums: sums[:, 0], level=95)


def test_what_is_not_finite_has_no_interval():
    with pytest.raises(InputError, match="infinity"):
        bootstrap_interval([1.0, np.inf, 2.0], ["a", "b", "c"])
    with pytest.raises(InputError, match="not finite"):
        bootstrap_totals_interval(np.array([[1.0], [np.nan]]), ["a", "b"], lambda sums: sums[:, 0])
