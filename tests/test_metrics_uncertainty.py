"""Maps of uncertainty and their correlation against plain loops over pixels, and against known answers."""

from math import log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stochseg.errors import InputError
from stochseg.metrics.calibration import class_frequencies
from stochseg.metrics.uncertainty import entropy, mutual_information, normalized_cross_correlation


def drawn(seed, b=2, n=4, r=3, k=3, size=(4, 5), missing=True, dtype=torch.float64):
    """Soft samples [b n k h w], the hard ones of the same draw, and labels; one rater is missing."""
    generator = torch.Generator().manual_seed(seed)
    soft = (2 * torch.randn(b, n, k, *size, generator=generator, dtype=torch.float64)).softmax(2).to(dtype)
    labels = torch.randint(0, k, (b, r, *size), generator=generator)
    if missing:
        labels[0, 1] = 255
    return soft, soft.argmax(2), labels


def slow_entropy(p):
    return -sum(float(x) * log(float(x)) for x in p if x > 0)


def slow_cross_correlation(soft, labels, floor=1e-8, ignore=None):
    """As the equation stands: maps of the cross entropy of each sample with the mean and with each rater."""
    found = []
    for s, y in zip(soft.flatten(3).numpy(), labels.flatten(2).numpy()):
        y = y[y[:, 0] != 255]
        keep = np.ones(y.shape[1], bool) if ignore is None else ~(y == ignore).any(0)
        s, y = s[:, :, keep], y[:, keep]
        logs = np.log(s + floor)
        ours = np.mean([-(s.mean(0) * one).sum(0) for one in logs], 0)
        each = []
        for rater in y:
            one_hot = np.eye(s.shape[1])[rater].T
            theirs = np.mean([-(one_hot * one).sum(0) for one in logs], 0)
            each.append(np.corrcoef(ours, theirs)[0, 1])
        found.append(np.mean(each))
    return found


def test_entropy_and_mutual_information_agree_with_loops():
    for seed in range(3):
        soft, hard, _ = drawn(seed)
        total, within = entropy(soft.mean(1)), mutual_information(soft)
        frequencies = class_frequencies(hard, 3)
        for i in range(2):
            for y in range(4):
                for x in range(5):
                    p = soft[i, :, :, y, x]
                    assert total[i, y, x].item() == pytest.approx(slow_entropy(p.mean(0)))
                    own = np.mean([slow_entropy(one) for one in p])
                    assert within[i, y, x].item() == pytest.approx(slow_entropy(p.mean(0)) - own, abs=1e-12)
                    of_maps = mutual_information(hard, 3)[i, y, x].item()
                    assert of_maps == pytest.approx(slow_entropy(frequencies[i, :, y, x]))


def test_one_hot_floats_and_maps_have_the_same_information():
    _, hard, _ = drawn(1)
    one_hot = torch.nn.functional.one_hot(hard, 3).movedim(-1, 2)
    torch.testing.assert_close(mutual_information(one_hot.float()), mutual_information(hard, 3))
    torch.testing.assert_close(mutual_information(one_hot, 3), mutual_information(hard, 3))
    torch.testing.assert_close(entropy(class_frequencies(hard, 3)), mutual_information(hard, 3))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(2, 5))
def test_bounds(seed, n, k):
    soft, hard, labels = drawn(seed, n=n, k=k)
    total, epistemic = entropy(soft.mean(1)), mutual_information(soft)
    assert ((epistemic >= 0) & (epistemic <= total + 1e-12) & (total <= log(k) + 1e-12)).all()
    assert (epistemic <= log(n) + 1e-12).all()
    assert (mutual_information(hard, k) <= log(min(n, k)) + 1e-12).all()
    for samples in (soft, hard):
        found = normalized_cross_correlation(samples, labels, k)
        known = found[~found.isnan()]
        assert (known.abs() <= 1 + 1e-12).all()
        again = normalized_cross_correlation(samples.flip(1, -1, -2), labels.flip(1, -1, -2), k)
        torch.testing.assert_close(again, found, equal_nan=True)


@pytest.mark.parametrize("ignore", [None, 0, 2])
@pytest.mark.parametrize("floor", [1e-8, 1e-3])
def test_cross_correlation_agrees_with_loops(ignore, floor):
    for seed in range(3):
        soft, hard, labels = drawn(seed, size=(6, 20), r=2)
        wanted = slow_cross_correlation(soft, labels, floor, ignore)
        found = normalized_cross_correlation(soft, labels, 3, ignore, floor)
        assert found.tolist() == pytest.approx(wanted)
        one_hot = torch.nn.functional.one_hot(hard, 3).movedim(-1, 2).double()
        wanted = slow_cross_correlation(one_hot, labels, floor, ignore)
        assert normalized_cross_correlation(hard, labels, 3, ignore, floor).tolist() == pytest.approx(wanted)
        assert normalized_cross_correlation(one_hot, labels, 3, ignore, floor).tolist() == pytest.approx(wanted)


def test_cross_correlation_by_hand():
    samples = torch.tensor([[[[0, 0, 1, 1]], [[0, 1, 1, 1]]]])
    labels = torch.tensor([[[[0, 1, 1, 1]], [[0, 1, 0, 1]]]])
    # ours is 0 1 0 0 but for scale and shift; the first rater is missed there half the time, the second rater half the
    # time there and always at the third pixel: correlation (1/16) / sqrt(3/16 * 11/16)
    second = (1 / 16) / (33**0.5 / 16)
    assert normalized_cross_correlation(samples, labels[:, :1]).tolist() == [pytest.approx(1)]
    assert normalized_cross_correlation(samples, labels[:, 1:]).tolist() == [pytest.approx(second)]
    assert normalized_cross_correlation(samples, labels).tolist() == [pytest.approx((1 + second) / 2)]
    # unsure where the rater is met, sure where the rater is missed
    away = torch.tensor([[[[1, 1, 0, 0]], [[1, 1, 1, 0]]]])
    assert normalized_cross_correlation(away, torch.tensor([[[[0, 0, 0, 1]]]])).item() < -0.3


def test_constant_maps_are_undefined():
    labels = torch.tensor([[[[0, 1, 1]], [[0, 0, 1]]]])
    assert normalized_cross_correlation(labels[:, :1], labels).isnan().all()  # one sample varies nowhere
    assert normalized_cross_correlation(torch.zeros_like(labels), labels).isnan().all()
    for n in (3, 7, 10):  # frequencies that are no binary fractions: rounding is no variation
        ids = torch.arange(n)[None, :, None, None] < torch.tensor([1, n - 1, 1])
        assert normalized_cross_correlation(ids.long(), labels).isnan().all()
        soft = torch.full((1, n, 3, 1, 3), 1 / 3)
        assert normalized_cross_correlation(soft, labels, 3).isnan().all()
    # class 0 has frequency 1/2 at both pixels, class 1 has 1/2 and 1/4: the first rater's map is constant
    samples = torch.tensor([[[[0, 0]], [[0, 0]], [[1, 1]], [[1, 2]]]])
    raters = torch.tensor([[[[0, 0]], [[1, 1]]]])
    assert normalized_cross_correlation(samples, raters[:, :1], 3).isnan().all()
    assert normalized_cross_correlation(samples, raters, 3).tolist() == [pytest.approx(1)]
    ignored = torch.full_like(labels, 2)
    assert normalized_cross_correlation(labels, ignored, 3, ignore=2).isnan().all()


def test_missing_raters_do_not_count():
    soft, hard, labels = drawn(0)
    for samples in (soft, hard):
        found = normalized_cross_correlation(samples, labels, 3)
        assert found[0] == normalized_cross_correlation(samples[:1], labels[:1, [0, 2]], 3)[0]


def test_bfloat16_samples():
    soft, _, labels = drawn(0, dtype=torch.bfloat16)
    assert mutual_information(soft).dtype == torch.float64
    wanted = slow_cross_correlation(soft.double(), labels)
    assert normalized_cross_correlation(soft, labels, 3).tolist() == pytest.approx(wanted)


def test_errors_name_the_cure():
    soft, hard, labels = drawn(0)
    with pytest.raises(InputError, match="class_frequencies"):
        entropy(hard)
    with pytest.raises(InputError, match="softmax"):
        entropy(soft[:, 0].log())
    with pytest.raises(InputError, match=r"\[b n k h w\]"):
        mutual_information(soft[:, 0])
    with pytest.raises(InputError, match="softmax"):
        mutual_information(2 * soft)
    with pytest.raises(InputError, match="must agree"):
        normalized_cross_correlation(soft, labels, 2)
    with pytest.raises(InputError, match="must agree"):
        normalized_cross_correlation(soft, labels[:, :, :2], 3)
    with pytest.raises(InputError, match="above 0"):
        normalized_cross_correlation(soft, labels, 3, floor=0)
    with pytest.raises(InputError, match="raise classes"):
        normalized_cross_correlation(hard, labels)
