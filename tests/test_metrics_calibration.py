"""Scores of pixel marginals against plain loops over observations, and against known answers."""

from math import ceil, log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stochseg import metrics
from stochseg.errors import InputError
from stochseg.metrics.reliability import FINE_BINS, ReliabilityCounts, reliability_curve

ROUNDING = 2**-25
"""Of each confidence, and so the most that an error is off."""


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


def outcomes(p, labels, target, ignore=None):
    """(confidence, whether it came true) of every observation; target: "top", "foreground" or the id of a class."""
    found = []
    for _, probabilities, c in observations(p, labels, ignore):
        if target == "top":
            confidence = max(probabilities)
            found.append((confidence, c == probabilities.index(confidence)))
        elif target == "foreground":
            found.append((1 - probabilities[0], c != 0))
        else:
            found.append((probabilities[target], c == target))
    return found


def gaps(groups):
    """The calibration error of groups of outcomes."""
    total = sum(len(group) for group in groups)
    return sum(abs(sum(conf for conf, _ in group) - sum(hit for _, hit in group)) for group in groups) / total


def slow_calibration_error(p, labels, bins, target, ignore=None):
    table = [[] for _ in range(bins)]
    for confidence, hit in outcomes(p, labels, target, ignore):
        table[max(ceil(confidence * bins) - 1, 0)].append((confidence, hit))
    return gaps(table)


def same(a, b):
    """Bit for bit."""
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("counts", "confidence", "accuracy"))


@pytest.mark.parametrize("target", ["top", "foreground"])
@pytest.mark.parametrize("ignore", [None, 2])
@pytest.mark.parametrize("bins", [1, 7, 15])
def test_calibration_error_agrees_with_a_loop(target, ignore, bins):
    p, labels = drawn(bins)
    found = metrics.expected_calibration_error(p, labels, bins, target, ignore)
    assert found.item() == pytest.approx(slow_calibration_error(p, labels, bins, target, ignore), abs=ROUNDING)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 4))
def test_counts_of_batches_add_up(seed, cut):
    p, labels = drawn(seed, b=5)
    both = metrics.reliability_counts(p[:cut], labels[:cut]) + metrics.reliability_counts(p[cut:], labels[cut:])
    torch.testing.assert_close(both.error(), metrics.expected_calibration_error(p, labels))
    assert both.counts.sum() == (5 * 3 - 1) * 20


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.sampled_from(["top", "foreground", "class"]), st.data())
def test_sums_are_the_same_to_the_last_bit_however_images_are_shared_out(seed, target, data):
    b = 7
    p, labels = drawn(seed, b=b, size=(9, 8))
    p = p.to(data.draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16])))
    whole = metrics.reliability_counts(p, labels, target=target)
    order = data.draw(st.permutations(range(b)))
    cuts = sorted(data.draw(st.sets(st.integers(1, b - 1))))
    batches = [order[i:j] for i, j in zip([0, *cuts], [*cuts, b])]
    parts = [metrics.reliability_counts(p[rows], labels[rows], target=target) for rows in batches]
    assert same(sum(parts[1:], parts[0]), whole)
    assert same(metrics.reliability_counts(p.flip(2), labels.flip(2), target=target), whole)


@pytest.mark.parametrize("ignore", [None, 0, 2])
def test_the_classwise_error_is_the_mean_of_each_class_against_the_rest(ignore):
    p, labels = drawn(3)
    each = [slow_calibration_error(p, labels, 10, c, ignore) for c in range(3) if c != ignore]
    found = metrics.reliability_counts(p, labels, 10, "class", ignore)
    assert found.counts.shape == (len(each), 10)
    assert found.error().tolist() == pytest.approx(each, abs=ROUNDING)
    whole = metrics.expected_calibration_error(p, labels, 10, "class", ignore)
    assert whole.item() == pytest.approx(sum(each) / len(each), abs=ROUNDING)


def test_of_two_classes_the_rest_of_one_is_the_other():
    p, labels = drawn(4, k=2)
    found = metrics.reliability_counts(p, labels, target="class")
    foreground = metrics.reliability_counts(p, labels, target="foreground")
    assert torch.equal(found.counts[1], foreground.counts)
    assert found.error()[1].item() == pytest.approx(foreground.error().item(), abs=2 * ROUNDING)


@settings(deadline=None, max_examples=15)
@given(
    st.integers(0, 1000), st.sampled_from([(1, "top"), (15, "foreground"), (8, "class")]), st.sampled_from([None, 1])
)
def test_the_counts_of_each_image_are_those_of_the_image_alone(seed, how, ignore):
    bins, target = how
    p, labels = drawn(seed, b=4)
    each = metrics.reliability_counts(p, labels, bins, target, ignore, per_image=True)
    for i in range(4):
        alone = metrics.reliability_counts(p[i : i + 1], labels[i : i + 1], bins, target, ignore)
        assert same(ReliabilityCounts(each.counts[i], each.confidence[i], each.accuracy[i]), alone)
    assert same(each.sum(), metrics.reliability_counts(p, labels, bins, target, ignore))


def test_an_image_of_nothing_but_ignored_pixels_has_no_error_of_its_own():
    p, labels = drawn(0, missing=False)
    labels[1] = 2
    errors = metrics.reliability_counts(p, labels, ignore=2, per_image=True).error()
    assert errors.isnan().tolist() == [False, True]
    merged = metrics.reliability_counts(p, labels, 64, ignore=2, per_image=True).equal_mass(4)
    assert merged.error().isnan().tolist() == [False, True]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 5, 15]), st.integers(1, 2))
def test_equal_mass_agrees_with_sorting(seed, bins, raters):
    generator = torch.Generator().manual_seed(seed)
    size = 30 * bins
    cells = torch.randperm(FINE_BINS, generator=generator)[:size]  # a fine bin each, so no tie can cross an edge
    p = (cells + 0.1 + 0.8 * torch.rand(size, generator=generator, dtype=torch.float64)) / FINE_BINS
    q = torch.stack([1 - p, p]).view(1, 2, 1, -1)
    labels = (torch.rand(1, raters, 1, size, generator=generator) < p).to(torch.uint8)
    ranked = sorted(outcomes(q, labels, "foreground"), key=lambda one: one[0])
    share = 30 * raters
    slow = gaps([ranked[i * share : (i + 1) * share] for i in range(bins)])
    found = metrics.expected_calibration_error(q, labels, bins, "foreground", binning="mass")
    assert found.item() == pytest.approx(slow, abs=ROUNDING)
    counts = metrics.reliability_counts(q, labels, FINE_BINS, "foreground").equal_mass(bins)
    assert counts.counts.tolist() == [share] * bins


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 20), min_size=6, max_size=40), st.integers(1, 6))
def test_groups_of_equal_mass_hold_whole_bins_in_order_and_are_as_even_as_bins_allow(counts, bins):
    fine = torch.tensor(counts, dtype=torch.float64)
    found = ReliabilityCounts(fine, fine / 2, fine / 4).equal_mass(bins)
    assert found.counts.sum() == fine.sum()
    assert torch.equal(found.confidence, found.counts / 2)
    edges = fine.cumsum(0).tolist()
    inner = found.counts.cumsum(0)[:-1].tolist()
    assert all(edge in [0, *edges] for edge in inner)
    for i, edge in enumerate(inner, 1):
        wanted = sum(counts) * i / bins
        assert abs(edge - wanted) == min(abs(other - wanted) for other in [0, *edges])


def test_equal_mass_streams():
    p, labels = drawn(9, b=4, size=(16, 16))
    parts = [metrics.reliability_counts(p[i : i + 1], labels[i : i + 1], FINE_BINS, "class") for i in range(4)]
    merged = sum(parts[1:], parts[0]).equal_mass(6)
    whole = metrics.expected_calibration_error(p, labels, 6, "class", binning="mass")
    assert torch.equal(merged.error().mean(), whole)


def test_ties_stay_in_one_group():
    q = torch.tensor([0.75] * 6 + [0.9] * 2).view(1, 1, 1, 8)
    found = reliability_curve(
        torch.cat([1 - q, q], 1), torch.ones(1, 1, 1, 8, dtype=torch.bool), 4, "foreground", None, "mass"
    )
    assert found.counts.tolist() == [6, 2]
    assert found.confidence.tolist() == pytest.approx([0.75, 0.9], abs=1e-7)
    assert found.frequency.tolist() == [1, 1]


def test_the_curve_leaves_empty_bins_out():
    p, labels = drawn(6)
    counts = metrics.reliability_counts(p, labels, 50)
    curve = reliability_curve(p, labels, 50)
    assert 0 < len(curve.counts) < 50
    assert (curve.counts > 0).all()
    gap = (curve.counts * (curve.frequency - curve.confidence).abs()).sum() / curve.counts.sum()
    assert gap.item() == pytest.approx(counts.error().item())


def test_a_confidence_on_an_edge_is_in_the_bin_below_whatever_its_type():
    p = (
        torch.arange(1, 11, dtype=torch.float64) / 10
    )  # 1 - (1 - 0.3) is a little more than 0.3, and float32 0.6 than 0.6
    for dtype in (torch.float64, torch.float32):
        q = torch.stack([1 - p, p]).to(dtype)[None, :, None]
        found = metrics.reliability_counts(q, torch.zeros(1, 1, 1, 10, dtype=torch.uint8), bins=10, target="foreground")
        assert found.counts.tolist() == [1] * 10


def test_bool_and_one_hot_labels_count_the_same():
    p, labels = drawn(8, k=2, missing=False)
    labels = labels.to(torch.uint8)
    hot = torch.nn.functional.one_hot(labels.long(), 2).movedim(-1, 2)
    expected = metrics.reliability_counts(p, labels)
    for other in (labels.bool(), hot):
        assert same(metrics.reliability_counts(p, other), expected)
        assert torch.equal(metrics.brier_score(p, other), metrics.brier_score(p, labels))
        assert torch.equal(metrics.soft_dice(p, other), metrics.soft_dice(p, labels))


def test_more_than_255_raters_are_counted():
    q = torch.tensor([[[[0.3]], [[0.7]]]], dtype=torch.float64)
    labels = torch.zeros(1, 300, 1, 1, dtype=torch.uint8)
    labels[:, :280] = 1
    found = metrics.reliability_counts(q, labels, 1)
    assert (found.counts.item(), found.accuracy.item()) == (300, 280)
    assert metrics.brier_score(q, labels).item() == pytest.approx((280 * 2 * 0.09 + 20 * 2 * 0.49) / 300)


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
    for target in ("top", "foreground", "class"):
        with pytest.raises(InputError, match="nothing was counted"):
            metrics.expected_calibration_error(q, labels, target=target, ignore=1)


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
    with pytest.raises(InputError, match="binning is 'area'"):
        metrics.expected_calibration_error(q, labels, binning="area")
    with pytest.raises(InputError, match="a curve for every class"):
        reliability_curve(q, labels, target="class")
    with pytest.raises(InputError, match="15 bins cannot be merged to 20"):
        metrics.reliability_counts(q, labels).equal_mass(20)
    with pytest.raises(InputError, match=r"threshold 1\.0"):
        metrics.soft_dice(q, labels, [1.0])
    with pytest.raises(InputError, match="no thresholds"):
        metrics.soft_dice(q, labels, [])
