"""Scores of pixel marginals against plain loops over observations, and against known answers."""

from math import ceil, log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stochseg import metrics
from stochseg.errors import InputError


def drawn(seed, b=2, k=3, r=3, size=(4, 5), missing=True):
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(b, k, *size, generator=generator, dtype=torch.float64).softmax(1)
    labels = torch.randint(0, k, (b, r, *size), generator=generator)
    if missing:
        labels[0, 1] = 255
    return p, labels


def observations(p, labels, ignore=None):
    """(image, probabilities of the pixel, class of the rater) of every pixel and present rater."""
    for i in range(labels.shape[0]):
        for one in labels[i]:
            for y in range(one.shape[0]):
                for x in range(one.shape[1]):
                    c = int(one[y, x])
                    if c not in (255, ignore):
                        yield i, p[i, :, y, x].tolist(), c


def slow_calibration_error(p, labels, bins, target, ignore=None):
    table = [[] for _ in range(bins)]
    for _, probabilities, c in observations(p, labels, ignore):
        if target == "top":
            confidence = max(probabilities)
            hit = c == probabilities.index(confidence)
        else:
            confidence, hit = 1 - probabilities[0], c != 0
        table[max(ceil(confidence * bins) - 1, 0)].append((confidence, hit))
    total = sum(len(row) for row in table)
    gaps = [abs(sum(conf for conf, _ in row) - sum(hit for _, hit in row)) for row in table]
    return sum(gaps) / total


@pytest.mark.parametrize("target", ["top", "foreground"])
@pytest.mark.parametrize("ignore", [None, 2])
@pytest.mark.parametrize("bins", [1, 7, 15])
def test_calibration_error_agrees_with_a_loop(target, ignore, bins):
    p, labels = drawn(bins)
    found = metrics.expected_calibration_error(p, labels, bins, target, ignore)
    assert found.item() == pytest.approx(slow_calibration_error(p, labels, bins, target, ignore), abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 4))
def test_counts_of_batches_add_up(seed, cut):
    p, labels = drawn(seed, b=5)
    both = metrics.reliability_counts(p[:cut], labels[:cut]) + metrics.reliability_counts(p[cut:], labels[cut:])
    torch.testing.assert_close(both.error(), metrics.expected_calibration_error(p, labels))
    assert both.counts.sum() == (5 * 3 - 1) * 20


def test_bins_hold_their_upper_edge():
    p = torch.tensor([0.0, 0.2, 0.4, 0.4000001, 1.0], dtype=torch.float64)
    q = torch.stack([1 - p, p])[None, :, None]
    found = metrics.reliability_counts(q, torch.zeros(1, 1, 1, 5, dtype=torch.uint8), bins=5, target="foreground")
    assert found.counts.tolist() == [2, 1, 1, 0, 1]


def test_true_probabilities_are_calibrated_and_sharpened_ones_are_not():
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(4, 1, 128, 128, generator=generator, dtype=torch.float64)
    labels = (torch.rand(4, 4, 128, 128, generator=generator, dtype=torch.float64) < p).to(torch.uint8)
    q = torch.cat([1 - p, p], 1)
    assert metrics.expected_calibration_error(q, labels).item() < 0.01
    hard = (q > 0.5).double()
    # the top class is right with probability max(p, 1 - p), 3/4 on average, and 1 was claimed
    assert metrics.expected_calibration_error(hard, labels).item() == pytest.approx(0.25, abs=0.01)
    confidence, frequency = metrics.reliability_counts(q, labels, target="foreground").curve()
    torch.testing.assert_close(confidence, frequency, atol=0.02, rtol=0)


@pytest.mark.parametrize("ignore", [None, 2])
def test_brier_and_likelihood_agree_with_a_loop(ignore):
    p, labels = drawn(5)
    brier, likelihood = [[], []], [[], []]
    for i, probabilities, c in observations(p, labels, ignore):
        brier[i].append(sum((q - (c == k)) ** 2 for k, q in enumerate(probabilities)))
        likelihood[i].append(-log(probabilities[c]))
    mean = [sum(row) / len(row) for row in brier]
    assert metrics.brier_score(p, labels, ignore).tolist() == pytest.approx(mean)
    mean = [sum(row) / len(row) for row in likelihood]
    assert metrics.negative_log_likelihood(p, labels, ignore).tolist() == pytest.approx(mean)


def test_likelihood_has_a_floor():
    q = torch.tensor([[[[1.0]], [[0.0]]]])
    labels = torch.ones(1, 1, 1, 1, dtype=torch.uint8)
    assert metrics.negative_log_likelihood(q, labels, floor=1e-3).item() == pytest.approx(-log(1e-3))


def test_brier_is_least_at_the_frequencies_of_the_raters():
    _, labels = drawn(7, missing=False)
    best = metrics.class_frequencies(labels, 3)
    other = 0.9 * best + 0.1 / 3
    assert (metrics.brier_score(best, labels) < metrics.brier_score(other, labels)).all()


def test_an_image_of_nothing_but_ignored_pixels_is_undefined():
    q, labels = torch.full((1, 2, 2, 2), 0.5), torch.ones(1, 2, 2, 2, dtype=torch.uint8)
    assert metrics.brier_score(q, labels, ignore=1).isnan().all()
    assert metrics.negative_log_likelihood(q, labels, ignore=1).isnan().all()
    with pytest.raises(InputError, match="no pixel was counted"):
        metrics.expected_calibration_error(q, labels, ignore=1)


def test_frequencies_leave_missing_maps_out_and_count_past_255():
    maps = torch.zeros(1, 300, 1, 2, dtype=torch.uint8)
    maps[:, :270, :, 0] = 1
    maps[:, 290:] = 255
    found = metrics.class_frequencies(maps)
    assert found[0, :, 0, 0].tolist() == pytest.approx([20 / 290, 270 / 290])
    assert found[0, :, 0, 1].tolist() == [1, 0]


def test_soft_dice_by_hand():
    q = torch.tensor([[[[0.4, 0.8, 0.0]], [[0.6, 0.2, 1.0]]]])
    labels = torch.tensor([[[[1, 0, 1]], [[0, 0, 1]]]])  # fractions 0.5, 0, 1
    # at 0.1: 3 pixels against 2, 2 shared; at 0.3: 2 against 2; at 0.5: 2 against 1 (a half is not more than a half)
    for threshold, dice in ((0.1, 4 / 5), (0.3, 1.0), (0.5, 2 / 3), (0.7, 1.0)):
        assert metrics.soft_dice(q, labels, [threshold]).item() == pytest.approx(dice)
    assert metrics.soft_dice(q, labels).item() == pytest.approx((4 / 5 + 1 + 2 / 3 + 1 + 1) / 5)
    assert metrics.soft_dice(q, labels * 0 + torch.tensor([1, 0, 1]), [0.5]).item() == 1


def test_dice_of_mean_is_the_dice_of_two_majorities():
    samples = torch.tensor([[[[1, 1, 0]], [[1, 0, 0]], [[1, 1, 0]], [[0, 0, 1]]]])  # majority: first pixel only
    labels = torch.tensor([[[[1, 0, 1]], [[1, 0, 1]], [[255, 255, 255]]]])
    assert metrics.dice_of_mean(samples, labels).item() == pytest.approx(2 / 3)
    assert metrics.dice_of_mean(samples * 0, labels[:, 2:].repeat(1, 2, 1, 1) * 0).item() == 1


def test_dice_of_mean_averages_classes_and_leaves_ignored_pixels_out():
    samples = torch.tensor([[[[1, 2, 1]]]])
    labels = torch.tensor([[[[1, 1, 3]]]])
    assert metrics.dice_of_mean(samples, labels, classes=4, ignore=3).item() == pytest.approx((2 / 3 + 0) / 2)


@pytest.mark.parametrize(
    ("p", "message"),
    [
        (torch.zeros(1, 2, 2, 2), "add up to 1"),
        (torch.tensor([2.0, -1.0]).view(1, 2, 1, 1).repeat(1, 1, 2, 2), "start at -1"),
        (torch.full((1, 2, 2, 2), torch.nan), "add up to"),
        (torch.full((1, 2, 2, 3), 0.5), "must agree in b, h and w"),
        (torch.ones(1, 2, 2, 2, dtype=torch.int64), "float tensor"),
        (torch.full((1, 1, 2, 2), 1.0), "classes is 1"),
    ],
)
def test_what_are_no_probabilities_says_why(p, message):
    labels = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    for score in (metrics.expected_calibration_error, metrics.brier_score, metrics.soft_dice):
        with pytest.raises(InputError, match=message):
            score(p, labels)


def test_options_out_of_range_say_why():
    q, labels = torch.full((1, 2, 2, 2), 0.5), torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    for options, message in (({"bins": 0}, "bins is 0"), ({"target": "all"}, "target is 'all'")):
        with pytest.raises(InputError, match=message):
            metrics.reliability_counts(q, labels, **options)
    with pytest.raises(InputError, match=r"threshold 1\.0"):
        metrics.soft_dice(q, labels, [1.0])
    with pytest.raises(InputError, match="no thresholds"):
        metrics.soft_dice(q, labels, [])
