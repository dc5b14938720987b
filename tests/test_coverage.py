"""Sets that cover outlines: against slow loops, nested, past the samples' union, and true to their probability."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stochseg.errors import InputError
from stochseg.metrics.coverage import (
    conformal_level,
    coverage_order,
    coverage_sets,
    covered_shares,
    covering_levels,
)


def drawn(seed: int, b: int = 2, n: int = 5, r: int = 3, k: int = 3, size: int = 6) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    q = torch.rand(b, k, size, size, generator=g).softmax(1)
    samples = torch.randint(0, k, (b, n, size, size), generator=g)
    labels = torch.randint(0, k, (b, r, size, size), generator=g)
    return q, samples, labels


@given(seed=st.integers(0, 1000), n=st.integers(1, 50))
@settings(max_examples=25, deadline=None)
def test_pixels_join_by_samples_first_and_by_q_among_equals(seed: int, n: int) -> None:
    q, samples, _ = drawn(seed, n=n, size=4)
    order = coverage_order(samples, q)
    for i in range(2):
        for c in range(3):
            count = (samples[i] == c).sum(0).flatten().tolist()
            places, likely = order[i, c].flatten().tolist(), q[i, c].flatten().tolist()
            by_place = sorted(range(16), key=lambda p: -places[p])
            assert by_place == sorted(range(16), key=lambda p: (-count[p], -likely[p]))
            assert [p >= 1 / (n + 1) for p in places] == [x >= 1 for x in count]  # exactly the union
    assert 0 <= float(order.min()) <= float(order.max()) <= 1


def test_a_sure_q_never_stands_for_a_sample() -> None:
    samples = torch.zeros(1, 3, 1, 2, dtype=torch.uint8)
    samples[0, 0, 0, 1] = 1
    q = torch.tensor([[[[0.0, 1.0]], [[1.0, 0.0]]]])  # sure of class 1 where no sample says so
    order = coverage_order(samples, q)[0, 1, 0]
    assert order[0] < 1 / 4 == order[1]


@given(seed=st.integers(0, 1000), share=st.sampled_from([0.3, 0.5, 0.9, 1.0]), ignore=st.sampled_from([None, 2]))
@settings(max_examples=25, deadline=None)
def test_covering_levels_are_the_highest_that_cover(seed: int, share: float, ignore: int | None) -> None:
    q, samples, labels = drawn(seed)
    labels[0, 1] = 255
    labels[1, 2] = 0
    order = coverage_order(samples, q)
    levels = covering_levels(order, labels, share, ignore)
    assert levels.shape == (2, 3, 3)
    for i in range(2):
        for r in range(3):
            for c in range(3):
                pixels = [
                    (y, x)
                    for y in range(6)
                    for x in range(6)
                    if labels[i, r, y, x] == c and (ignore is None or not (labels[i, :, y, x] == ignore).any())
                ]
                level = float(levels[i, r, c])
                if not pixels:
                    assert math.isnan(level)
                    continue
                values = sorted(float(order[i, c, y, x]) for y, x in pixels)
                inside = [sum(v >= t for v in values) >= share * len(pixels) - 1e-9 for t in values]
                assert level == max(t for t, fits in zip(values, inside) if fits)


def test_sets_are_nested_and_end_with_the_whole_image() -> None:
    q, samples, _ = drawn(0)
    order = coverage_order(samples, q)
    before = torch.zeros_like(order, dtype=torch.bool)
    for level in (1.1, 0.9, 0.5, 1 / 6, 0.01, 0.0):
        sets = coverage_sets(order, [level] * 3)
        assert bool((sets | ~before).all())
        before = sets
    assert bool(before.all())
    assert not coverage_sets(order, [1.1] * 3).any()
    assert coverage_sets(order, [None, 1.1, 1.1])[:, 0].all()


@given(seed=st.integers(0, 1000), coverage=st.sampled_from([0.5, 0.75, 0.9]))
@settings(max_examples=40, deadline=None)
def test_the_conformal_level_by_trying_every_one(seed: int, coverage: float) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 14, 60)
    levels = rng.integers(0, 12, 60) / 12  # with ties
    levels[rng.random(60) < 0.3] = np.nan
    names = sorted(set(groups[~np.isnan(levels)]))
    good = []
    for t in np.unique(levels[~np.isnan(levels)]):
        losses = [np.mean([v < t for v, g in zip(levels, groups) if g == name and not np.isnan(v)]) for name in names]
        if (sum(losses) + 1) / (len(names) + 1) <= 1 - coverage + 1e-12:
            good.append(t)
    if not good:
        with pytest.raises(InputError, match=f"{len(names)} groups with outlines"):
            conformal_level(levels, groups, coverage)
        return
    assert conformal_level(levels, groups, coverage) == max(good)


def test_new_groups_are_covered_as_often_as_asked() -> None:
    """Over many draws: outlines of a group are alike, groups differ; at least 80 %, and not far more."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        groups = np.repeat(np.arange(40), rng.integers(1, 8, 40))
        levels = rng.normal(0, 1, 40)[groups] + rng.normal(0, 0.5, len(groups))
        new = groups >= 20
        level = conformal_level(levels[~new], groups[~new], 0.8)
        shares, names = covered_shares(levels[new], groups[new], level)
        assert len(names) == 20
        found.append(shares.mean())
    assert 0.8 <= np.mean(found) < 0.86


def test_too_few_groups_are_told_what_they_can_answer_for() -> None:
    levels, groups = [0.5, 0.4, 0.3], ["a", "b", "c"]
    with pytest.raises(InputError, match="takes 9; ask for less, at most 0.75"):
        conformal_level(levels, groups, 0.9)
    assert conformal_level(levels, groups, 0.75) == 0.3
    with pytest.raises(InputError, match="0 groups with outlines.*another class"):
        conformal_level([np.nan], ["a"], 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conformal_level([0.5], ["a"], 1.0), "between 0 and 1"),
        (lambda: conformal_level([0.5, 0.6], ["a"], 0.5), "one group a level"),
        (lambda: coverage_order(torch.zeros(1, 2, 3, 3).long(), torch.ones(1, 2, 3, 3)), "adds up to 1"),
        (lambda: coverage_order(torch.zeros(1, 2, 3, 4).long(), torch.ones(1, 2, 3, 3) / 2), "must agree"),
        (lambda: coverage_sets(torch.zeros(1, 2, 3, 3), [0.5]), "1 levels for 2 classes"),
        (lambda: covering_levels(torch.zeros(1, 2, 3, 3), torch.zeros(1, 1, 3, 3).long(), 0.0), "share is 0"),
        (lambda: covering_levels(torch.zeros(1, 2, 3, 3), torch.zeros(1, 1, 3, 4).long()), "must agree"),
    ],
)
def test_nonsense_is_refused_in_one_line(call: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        call()  # type: ignore[operator]
    assert "\n" not in str(caught.value)
