"""Bootstrap intervals over patients: coverage on simulated data, and agreement of the two ways to compute them."""

import numpy as np
import pytest

from stochseg.errors import InputError
from stochseg.metrics import bootstrap_interval


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
