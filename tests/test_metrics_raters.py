"""The raters' own score, on populations whose distribution is known."""

from itertools import combinations

import numpy as np
import pytest
import torch

from stochseg import metrics
from stochseg.errors import InputError

POPULATION = torch.tensor([[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 1, 1]], dtype=torch.uint8)
PROBABILITIES = torch.tensor([0.4, 0.3, 0.2, 0.1])


def draw(images, count, generator):
    """[images count 1 5] independent maps of the population."""
    index = torch.multinomial(PROBABILITIES, images * count, replacement=True, generator=generator)
    return POPULATION[index].view(images, count, 1, 5)


def within(values, expected):
    """Whether the mean of independent values is the expected one, to four standard errors."""
    return abs(values.mean().item() - expected) < 4 * values.std().item() / len(values) ** 0.5


@pytest.mark.parametrize(("n", "r"), [(1, 2), (4, 4), (16, 3)])
def test_expected_distance_is_what_draws_from_the_population_score(n, r):
    generator = torch.Generator().manual_seed(n)
    samples, labels = draw(2000, n, generator), draw(2000, r, generator)
    pairs = metrics.pairwise_iou(POPULATION[None, :, None], POPULATION[None, :, None])[0]
    weights = PROBABILITIES.double()
    expected = (weights @ (1 - pairs) @ weights).item() * (1 / n + 1 / r)
    scored = metrics.generalized_energy_distance(samples, labels)
    reference = metrics.raters_reference(labels, n)
    assert within(scored, expected)
    assert within(reference.ged, expected)
    assert not within(scored, 1.2 * expected)


def test_halves_match_no_better_than_many_draws_on_average():
    generator = torch.Generator().manual_seed(0)
    samples, labels = draw(1000, 16, generator), draw(1000, 4, generator)
    matched = metrics.hungarian_iou(samples, labels)
    halves = metrics.raters_reference(labels, 16).hm_iou
    assert halves.mean() < matched.mean()
    two_by_two = metrics.hungarian_iou(labels[:, :2], labels[:, 2:])
    assert within(halves - two_by_two, 0.0)


@pytest.mark.parametrize("r", [2, 3, 4, 5, 6])
def test_matched_iou_is_the_mean_over_all_splits(r):
    labels = draw(6, r, torch.Generator().manual_seed(r))
    slow = []
    for half in combinations(range(r), r // 2):  # of an even number every split is here twice, which leaves the mean
        rest = [i for i in range(r) if i not in half]
        slow.append(metrics.hungarian_iou(labels[:, list(half)], labels[:, rest], convention="ccdm"))
    found = metrics.raters_reference(labels, 16).hm_iou
    torch.testing.assert_close(found, torch.stack(slow).mean(0))


def test_raters_who_agree_are_perfect_and_many_can_be_scored():
    same = POPULATION[2].expand(1, 14, 1, 5).contiguous()
    ged, hm_iou = metrics.raters_reference(same, 16)
    assert (ged.item(), hm_iou.item()) == (0, 1)


def test_fewer_than_two_raters_are_undefined_and_missing_ones_do_not_count():
    labels = draw(3, 4, torch.Generator().manual_seed(2))
    labels[0, 1:] = 255
    labels[1, 0] = 255
    found = metrics.raters_reference(labels, 8)
    assert [bool(x.isnan()) for x in found.ged] == [True, False, False]
    assert [bool(x.isnan()) for x in found.hm_iou] == [True, False, False]
    dropped = metrics.raters_reference(labels[1:2, 1:], 8)
    np.testing.assert_allclose([found.ged[1], found.hm_iou[1]], [dropped.ged[0], dropped.hm_iou[0]])


def test_ignored_pixels_and_more_classes():
    labels = torch.tensor([[[[1, 2, 3]], [[2, 2, 3]]]])
    ged, _ = metrics.raters_reference(labels, 1, classes=4, ignore=3)
    assert ged.item() == pytest.approx((1 + 1 / 2) / 2 * (1 + 1 / 2))


def test_a_convention_without_self_pairs_expects_zero():
    unbiased = metrics.Convention("car, U", "made here", statistic="U")
    labels = draw(4, 3, torch.Generator().manual_seed(0))
    assert metrics.raters_reference(labels, 16, convention=unbiased).ged.tolist() == [0, 0, 0, 0]


def test_no_samples_say_why():
    with pytest.raises(InputError, match="n is 0"):
        metrics.raters_reference(torch.zeros(1, 2, 2, 2, dtype=torch.uint8), 0)
