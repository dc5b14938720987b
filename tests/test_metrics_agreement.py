"""Best-sample scores and the collective insight score against plain loops over masks, and against known answers."""

from itertools import combinations
from math import isnan, nan

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stochseg.errors import InputError
from stochseg.metrics.agreement import (
    best_sample,
    collective_insight,
    combined_sensitivity,
    diversity_agreement,
    max_dice,
    max_dice_per_rater,
)


def drawn(seed, b=2, n=5, r=3, k=3, size=(4, 5), missing=True, common=0):
    """Maps mostly of one class and often of no other, the second rater of the first image missing."""
    generator = torch.Generator().manual_seed(seed)

    def some(m):
        maps = torch.randint(0, k, (b, m, *size), generator=generator)
        rare = torch.rand(b, m, *size, generator=generator) < torch.rand(b, m, 1, 1, generator=generator)
        return maps.where(rare, common)

    samples, labels = some(n), some(r)
    samples[:, 0], labels[-1, -1] = common, common
    if missing:
        labels[0, 1] = 255
    return samples, labels


def by_image(samples, labels, ignore=None):
    """Each image as masks [maps pixels] of samples and present raters, without the ignored pixels."""
    for s, y in zip(samples.flatten(2).numpy(), labels.flatten(2).numpy()):
        y = y[y[:, 0] != 255]
        keep = np.ones(y.shape[1], bool) if ignore is None else ~(y == ignore).any(0)
        yield s[:, keep], y[:, keep]


def overlap(a, b, measure="dice"):
    both, either = (a & b).sum(), (a | b).sum()
    if either == 0:
        return 1.0
    return 2 * both / (a.sum() + b.sum()) if measure == "dice" else both / either


def slow_table(s, y, ids, measure="dice"):
    return np.array([[np.mean([overlap(one == c, other == c, measure) for c in ids]) for other in y] for one in s])


def slow_sensitivity(s, y, ids, empty=nan):
    found = []
    for c in ids:
        ours, theirs = (s == c).any(0), (y == c).any(0)
        if theirs.any():
            found.append((ours & theirs).sum() / theirs.sum())
        elif ours.any():
            found.append(empty)
        else:
            found.append(1.0)
    known = [x for x in found if not isnan(x)]
    return np.mean(known) if known else nan


def slow_diversity(s, y, ids, spread):
    def v(a, b):
        if spread == "variance":
            return np.var(a.astype(int) - b.astype(int))
        return 1 - overlap(a, b, spread)

    found = []
    for c in ids:
        ours = [v(a == c, b == c) for a, b in combinations(s, 2)]
        theirs = [v(a == c, b == c) for a, b in combinations(y, 2)]
        found.append(1 - (abs(max(ours) - max(theirs)) + abs(min(ours) - min(theirs))) / 2)
    return np.mean(found)


CASES = [(3, None), (3, 2), (2, None), (4, 0)]


@pytest.mark.parametrize(("k", "ignore"), CASES)
def test_best_scores_agree_with_loops(k, ignore):
    ids = [c for c in range(1, k) if c != ignore]
    for seed in range(4):
        samples, labels = drawn(seed, k=k, size=(2, 20), common=int(ignore == 0))
        tables = [slow_table(s, y, ids) for s, y in by_image(samples, labels, ignore)]
        forward = [t.max(0).mean() for t in tables]
        backward = [t.max(1).mean() for t in tables]
        best = [t.mean(1).max() for t in tables]
        jaccard = [slow_table(s, y, ids, "iou").mean(1).max() for s, y in by_image(samples, labels, ignore)]
        assert max_dice(samples, labels, k, ignore).tolist() == pytest.approx(forward)
        assert max_dice(samples, labels, k, ignore, over="samples").tolist() == pytest.approx(backward)
        both = [(x + y) / 2 for x, y in zip(forward, backward)]
        assert max_dice(samples, labels, k, ignore, over="both").tolist() == pytest.approx(both)
        assert best_sample(samples, labels, k, "dice", ignore).tolist() == pytest.approx(best)
        assert best_sample(samples, labels, k, "iou", ignore).tolist() == pytest.approx(jaccard)
        per_rater = max_dice_per_rater(samples, labels, k, ignore)
        assert per_rater[0, 1].isnan()
        assert per_rater[1].tolist() == pytest.approx(tables[1].max(0).tolist())


@pytest.mark.parametrize("spread", ["variance", "dice", "iou"])
@pytest.mark.parametrize(("k", "ignore"), CASES)
def test_collective_insight_and_its_parts_agree_with_loops(k, ignore, spread):
    ids = [c for c in range(1, k) if c != ignore]
    for seed in range(4):
        samples, labels = drawn(seed, k=k, size=(2, 20), common=int(ignore == 0))
        sets = list(by_image(samples, labels, ignore))
        s = [slow_sensitivity(*pair, ids) for pair in sets]
        d = [slow_table(*pair, ids).max(0).mean() for pair in sets]
        a = [slow_diversity(*pair, ids, spread) for pair in sets]
        ci = [3 * x * y * z / (x + y + z) for x, y, z in zip(s, d, a)]
        assert combined_sensitivity(samples, labels, k, ignore).tolist() == pytest.approx(s, nan_ok=True)
        assert diversity_agreement(samples, labels, k, ignore, spread).tolist() == pytest.approx(a)
        found = collective_insight(samples, labels, k, ignore, spread)
        assert found.tolist() == pytest.approx(ci, nan_ok=True)


def test_by_hand():
    samples = torch.tensor([[[[1, 1, 0, 0]], [[0, 1, 1, 0]]]])
    labels = torch.tensor([[[[1, 1, 1, 0]], [[0, 0, 1, 1]]]])
    # Dice: sample 1 with the raters 4/5 and 0, sample 2 with them 4/5 and 1/2
    assert max_dice_per_rater(samples, labels).tolist() == [pytest.approx([0.8, 0.5])]
    assert max_dice(samples, labels).tolist() == [pytest.approx(0.65)]
    assert max_dice(samples, labels, over="samples").tolist() == [pytest.approx(0.8)]
    assert best_sample(samples, labels).tolist() == [pytest.approx(0.65)]
    assert best_sample(samples, labels, measure="iou").tolist() == [pytest.approx((2 / 3 + 1 / 3) / 2)]
    assert combined_sensitivity(samples, labels).tolist() == [0.75]
    # differences: samples 1 0 -1 0, variance 1/2; raters 1 1 0 -1, variance 3/4 - 1/16
    assert diversity_agreement(samples, labels).tolist() == [pytest.approx(1 - 3 / 16)]
    assert diversity_agreement(samples, labels, spread="dice").tolist() == [pytest.approx(1 - (0.6 - 0.5))]
    product, total = 3 * 0.75 * 0.65 * 13 / 16, 0.75 + 0.65 + 13 / 16
    assert collective_insight(samples, labels).tolist() == [pytest.approx(product / total)]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 4), st.integers(2, 4))
def test_bounds_and_invariance(seed, n, r, k):
    samples, labels = drawn(seed, n=n, r=r, k=k, missing=r > 2)
    scores = (max_dice, max_dice_per_rater, best_sample, combined_sensitivity, diversity_agreement, collective_insight)
    swapped = torch.arange(256)
    swapped[1:k] = torch.arange(k - 1, 0, -1)  # the classes but the background in reverse
    for score in scores:
        found = score(samples, labels, k)
        known = found[~found.isnan()]
        assert ((known >= 0) & (known <= 1)).all()
        torch.testing.assert_close(score(samples.flip(1), labels, k), found, equal_nan=True)
        torch.testing.assert_close(score(swapped[samples], swapped[labels], k), found, equal_nan=True)
        if score is not max_dice_per_rater:
            torch.testing.assert_close(score(samples, labels.flip(1), k), found, equal_nan=True)
    assert (best_sample(samples, labels, k) <= max_dice(samples, labels, k) + 1e-12).all()
    fewer = max_dice(samples[:, :1], labels, k)
    assert (fewer <= max_dice(samples, labels, k) + 1e-12).all()


def test_the_raters_themselves_are_perfect():
    _, labels = drawn(3, missing=False)
    ones = torch.ones(2, dtype=torch.float64)
    for score in (max_dice, combined_sensitivity, diversity_agreement, collective_insight):
        torch.testing.assert_close(score(labels, labels, 3), ones)


def test_policies_where_nothing_is_marked():
    nothing, something = torch.zeros(1, 2, 2, 2, dtype=torch.uint8), torch.ones(1, 2, 2, 2, dtype=torch.uint8)
    assert max_dice(nothing, nothing).tolist() == [1.0]
    assert max_dice(nothing, nothing, absent=0.0).tolist() == [0.0]
    assert max_dice(nothing, nothing, absent="left out").isnan().all()
    assert max_dice(something, nothing, absent="left out").tolist() == [0.0]
    assert combined_sensitivity(nothing, nothing).tolist() == [1.0]
    assert combined_sensitivity(nothing, something).tolist() == [0.0]
    assert combined_sensitivity(something, nothing).isnan().all()
    assert combined_sensitivity(something, nothing, empty=1.0).tolist() == [1.0]
    assert combined_sensitivity(something, nothing, empty=0.0).tolist() == [0.0]
    assert collective_insight(something, nothing).isnan().all()
    assert collective_insight(something, nothing, empty=1.0).tolist() == [0.0]
    # an undefined class leaves the mean over classes, the other one stays
    samples = torch.tensor([[[[1, 2, 2]]]])
    assert combined_sensitivity(samples, torch.tensor([[[[0, 2, 2]]]]), 3).tolist() == [1.0]
    # S_c = D_max = 0, and raters at distance 1 against equal samples: D_a = 0
    labels = torch.tensor([[[[0, 0, 1]], [[0, 1, 0]]]])
    assert collective_insight(torch.zeros_like(labels), labels, spread="dice").tolist() == [0.0]


def test_undefined_is_nan():
    samples, labels = drawn(0, b=1, n=3, r=3, k=3, missing=False)
    assert diversity_agreement(samples[:, :1], labels, 3).isnan().all()
    assert diversity_agreement(samples, labels[:, :1], 3).isnan().all()
    assert collective_insight(samples[:, :1], labels, 3).isnan().all()
    alone = labels.clone()
    alone[:, 1:] = 255
    assert diversity_agreement(samples, alone, 3).isnan().all()
    labels[:, 0] = 2
    for score in (max_dice, max_dice_per_rater, combined_sensitivity, diversity_agreement, collective_insight):
        assert score(samples, labels, 3, ignore=2).isnan().all()
    assert best_sample(samples, labels, 3, ignore=2).isnan().all()


def test_masks_and_one_hot_score_as_maps_do():
    samples, labels = drawn(5, k=2, missing=False)
    for score in (max_dice, best_sample, collective_insight):
        torch.testing.assert_close(score(samples.bool(), labels.bool()), score(samples, labels), equal_nan=True)
        one_hot = torch.nn.functional.one_hot(samples, 2).movedim(-1, 2)
        torch.testing.assert_close(score(one_hot, labels), score(samples, labels), equal_nan=True)


def test_errors_name_the_cure():
    samples, labels = drawn(0)
    with pytest.raises(InputError, match="choose 'raters', 'samples' or 'both'"):
        max_dice(samples, labels, 3, over="labels")
    with pytest.raises(InputError, match="choose 'dice' or 'iou'"):
        best_sample(samples, labels, 3, measure="jaccard")
    with pytest.raises(InputError, match="choose 'variance', 'dice' or 'iou'"):
        diversity_agreement(samples, labels, 3, spread="std")
    with pytest.raises(InputError, match="'left out'"):
        max_dice(samples, labels, 3, absent="skip")
    with pytest.raises(InputError, match="from 0 to 1"):
        combined_sensitivity(samples, labels, 3, empty=2.0)
    with pytest.raises(InputError, match="raise classes"):
        max_dice(samples, labels)
