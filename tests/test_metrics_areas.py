"""Scores of areas and of P(empty) against plain loops over pairs, and against known answers."""

from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stochseg.errors import InputError
from stochseg.metrics.areas import (
    area_crps,
    area_energy_distance,
    class_areas,
    empty_brier,
    empty_counts,
    empty_probability,
)


def drawn(seed, b=3, n=5, r=3, k=3, size=(4, 5), missing=True, common=0):
    """Maps of which about a third are of one class, the second rater of the first image missing."""
    generator = torch.Generator().manual_seed(seed)

    def some(m):
        maps = torch.randint(0, k, (b, m, *size), generator=generator)
        rare = torch.rand(b, m, *size, generator=generator) < torch.rand(b, m, 1, 1, generator=generator)
        return maps.where(rare & (torch.rand(b, m, 1, 1, generator=generator) < 0.67), common)

    samples, labels = some(n), some(r)
    if missing:
        labels[0, 1] = 255
    return samples, labels


def slow_areas(samples, labels, ids, ignore=None):
    """Each image's areas of samples [n c] and present raters [r c], and how many pixels count."""
    for s, y in zip(samples.flatten(2).numpy(), labels.flatten(2).numpy()):
        y = y[y[:, 0] != 255]
        keep = np.ones(y.shape[1], bool) if ignore is None else ~(y == ignore).any(0)
        yield (*(np.array([[(one[keep] == c).sum() for c in ids] for one in maps]) for maps in (s, y)), keep.sum())


def slow_mean_difference(x, statistic):
    pairs = [abs(a - b) for i, a in enumerate(x) for j, b in enumerate(x) if statistic == "V" or i != j]
    return np.mean(pairs)


def slow_crps(x, y, statistic):
    return np.mean([abs(a - b) for a in x for b in y]) - slow_mean_difference(x, statistic) / 2


@pytest.mark.parametrize("statistic", ["V", "U"])
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize(("k", "ignore"), [(2, None), (3, None), (3, 2), (4, 0)])
def test_scores_of_areas_agree_with_loops(k, ignore, relative, statistic):
    ids = [c for c in range(1, k) if c != ignore]
    for seed in range(3):
        samples, labels = drawn(seed, k=k, size=(2, 20), common=int(ignore == 0))
        crps, energy = [], []
        for ours, theirs, pixels in slow_areas(samples, labels, ids, ignore):
            scale = pixels if relative else 1
            each = [slow_crps(x, y, statistic) for x, y in zip(ours.T, theirs.T)]
            crps.append(np.mean(each) / scale)
            spread = [slow_mean_difference(y, statistic) for y in theirs.T]
            energy.append((2 * np.mean(each) - np.mean(spread)) / scale)
        found = area_crps(samples, labels, k, ignore, relative, statistic)
        assert found.tolist() == pytest.approx(crps, abs=1e-12)
        found = area_energy_distance(samples, labels, k, ignore, relative, statistic)
        assert found.tolist() == pytest.approx(energy, abs=1e-12)


def test_crps_is_the_integral_of_squared_differences_of_distribution_functions():
    samples, labels = drawn(7, b=1, n=6, r=1, k=2, missing=False)
    x, y = class_areas(samples)[0, :, 0], class_areas(labels)[0, 0, 0]
    steps = torch.arange(0, 21)  # areas are whole numbers, so the integral is a sum
    below = (x[:, None] <= steps).double().mean(0)
    assert area_crps(samples, labels).item() == pytest.approx((below - (y <= steps).double()).square().sum().item())


def test_areas_by_hand():
    maps = torch.tensor([[[[0, 1, 2]], [[2, 2, 3]], [[255, 255, 255]]]])
    found = class_areas(maps, 4)
    assert found[0, :2].tolist() == [[1, 1, 0], [0, 2, 1]]
    assert found[0, 2].isnan().all()
    assert class_areas(maps, 4, ignore=2)[0, :2].tolist() == [[1, 0], [0, 1]]
    assert class_areas(torch.ones(1, 1, 300, 300, dtype=torch.bool)).tolist() == [[[90000]]]


def test_crps_by_hand():
    samples = torch.tensor([[[[1, 0, 0, 0]], [[1, 1, 1, 0]]]])  # areas 1 and 3
    labels = torch.tensor([[[[1, 1, 1, 1]], [[0, 0, 0, 0]]]])  # 4 and 0
    assert area_crps(samples, labels).tolist() == [1.5]  # (3 + 1 + 1 + 3) / 4 - 1/2 * (0 + 2 + 2 + 0) / 4
    assert area_crps(samples, labels, statistic="U").tolist() == [1.0]
    assert area_crps(samples, labels, relative=True).tolist() == [0.375]
    assert area_energy_distance(samples, labels).tolist() == [1.0]  # 2 * 1.5 - 8 / 4
    assert area_crps(samples[:, :1], labels).tolist() == [2.0]  # of one sample the mean absolute error


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 7), st.integers(1, 4), st.integers(2, 4))
def test_bounds_and_invariance(seed, n, r, k):
    samples, labels = drawn(seed, n=n, r=r, k=k, missing=r > 1)
    crps, energy = area_crps(samples, labels, k), area_energy_distance(samples, labels, k)
    assert (crps >= -1e-12).all()
    assert (energy >= -1e-12).all()
    torch.testing.assert_close(area_crps(samples.flip(1), labels.flip(1), k), crps)
    torch.testing.assert_close(area_crps(samples.flip(2, 3), labels, k), crps)  # it sees areas, not places
    relative = area_crps(samples, labels, k, relative=True)
    torch.testing.assert_close(relative * 20, crps)
    assert (area_energy_distance(samples, torch.cat([samples, samples], 1), k).abs() < 1e-9).all()
    brier, p = empty_brier(samples, labels, k), empty_probability(samples, k)
    assert ((brier >= 0) & (brier <= 1) & (p >= 0) & (p <= 1)).all()
    cut = empty_counts(samples[:1], labels[:1], k) + empty_counts(samples[1:], labels[1:], k)
    whole = empty_counts(samples, labels, k)
    for ours, theirs in zip(vars(cut).values(), vars(whole).values()):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("k", "ignore"), [(2, None), (3, None), (3, 2), (3, 0)])
@pytest.mark.parametrize("bins", [1, 4, 10])
def test_scores_of_empty_agree_with_loops(k, ignore, bins):
    ids = [c for c in range(1, k) if c != ignore]
    samples, labels = drawn(bins, b=8, n=4, k=k, size=(2, 20), common=int(ignore == 0))
    table, brier, share = [[] for _ in range(bins)], [], []
    for ours, theirs, _ in slow_areas(samples, labels, ids, ignore):
        p = np.mean([x.sum() == 0 for x in ours])
        empty = [y.sum() == 0 for y in theirs]
        share.append(p)
        brier.append(np.mean([(p - e) ** 2 for e in empty]))
        table[max(ceil(p * bins) - 1, 0)] += [(p, e) for e in empty]
    found = empty_counts(samples, labels, k, bins, ignore)
    assert found.counts.tolist() == [len(row) for row in table]
    assert found.confidence.tolist() == pytest.approx([sum(p for p, _ in row) for row in table])
    assert found.accuracy.tolist() == [sum(e for _, e in row) for row in table]
    gaps = [abs(sum(p for p, _ in row) - sum(e for _, e in row)) for row in table]
    assert found.error().item() == pytest.approx(sum(gaps) / sum(len(row) for row in table))
    assert empty_brier(samples, labels, k, ignore).tolist() == pytest.approx(brier)
    if ignore is None:
        assert empty_probability(samples, k).tolist() == pytest.approx(share)
    apart = empty_counts(samples, labels, k, bins, ignore, per_image=True)
    assert apart.counts.shape == (8, bins)
    assert torch.equal(apart.accuracy.sum(0), found.accuracy)


def test_bins_hold_their_upper_edge():
    for n in range(1, 21):
        samples = torch.zeros(n + 1, n, 1, 1, dtype=torch.uint8)
        for i in range(n + 1):
            samples[i, : n - i] = 1  # P(empty) is i / n
        found = empty_counts(samples, torch.zeros(n + 1, 1, 1, 1, dtype=torch.uint8), bins=10)
        wanted = [0.0] * 10
        for i in range(n + 1):
            wanted[max(-(-10 * i // n) - 1, 0)] += 1
        assert found.counts.tolist() == wanted


def test_a_calibrated_chance_of_nothing_and_a_sure_one():
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(2000, 1, 1, 1, generator=generator)
    samples = (torch.rand(2000, 200, 1, 1, generator=generator) > p).to(torch.uint8)
    labels = (torch.rand(2000, 4, 1, 1, generator=generator) > p).to(torch.uint8)
    assert empty_counts(samples, labels).error().item() < 0.02
    # always marking something claims 0 where half the raters see nothing
    assert empty_counts(torch.ones_like(samples), labels).error().item() == pytest.approx(0.5, abs=0.02)


def test_missing_raters_and_ignored_pixels():
    samples = torch.tensor([[[[1, 0]], [[0, 0]]]])
    labels = torch.tensor([[[[0, 0]], [[255, 255]]]])
    assert empty_counts(samples, labels).counts.sum() == 1
    assert area_crps(samples, labels).tolist() == [0.25]
    assert empty_probability(labels).tolist() == [1.0]
    labels = torch.tensor([[[[2, 0]], [[0, 0]]]])  # the pixel that a sample marks is ignored
    assert area_crps(samples, labels, 3, ignore=2).tolist() == [0.0]
    assert empty_brier(samples, labels, 3, ignore=2).tolist() == [0.0]
    ignored = torch.full_like(labels, 2)
    assert empty_brier(samples, ignored, 3, ignore=2).isnan().all()
    for score in (area_crps, area_energy_distance):
        assert score(samples, ignored, 3, ignore=2).isnan().all()
        assert score(samples, ignored, 3, ignore=2, relative=True).isnan().all()
    both = empty_counts(samples.repeat(2, 1, 1, 1), torch.cat([ignored, labels]), 3, ignore=2)
    assert both.counts.sum() == 2


def test_errors_name_the_cure():
    samples, labels = drawn(0)
    with pytest.raises(InputError, match="draw more"):
        area_crps(samples[:, :1], labels, 3, statistic="U")
    with pytest.raises(InputError, match="one rater alone"):
        area_energy_distance(samples, labels[:, :1] * (labels[:, :1] != 255), 3, statistic="U")
    with pytest.raises(InputError, match="choose 'V'"):
        area_crps(samples, labels, 3, statistic="W")
    with pytest.raises(InputError, match="at least 1"):
        empty_counts(samples, labels, 3, bins=0)
    with pytest.raises(InputError, match="raise classes"):
        area_crps(samples, labels)
