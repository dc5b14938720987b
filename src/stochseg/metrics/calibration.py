"""Are the pixel marginals right: Brier score, log likelihood, Dice of the mean; reliability.py has the ECE.

All take probabilities [b k h w], summing to 1 over k, and labels, integer [b r h w]. Each pixel of each present rater
is one observation of equal weight; 255 throughout is a missing rater, and an observation of the class `ignore` is left
out. Where classes flip, a label counts as all it may be, each as often as that is.
Probabilities come from a network, or from samples by `class_frequencies`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from stochseg.errors import InputError
from stochseg.metrics.conventions import Flip, get_convention
from stochseg.metrics.inputs import check_maps, exact_dtype
from stochseg.metrics.marginals import check_probabilities, class_frequencies, votes_for
from stochseg.metrics.reliability import ReliabilityCounts, Target, expected_calibration_error, reliability_counts

__all__ = [
    "QUBIQ_THRESHOLDS",
    "ReliabilityCounts",
    "Target",
    "brier_score",
    "class_frequencies",
    "dice_of_mean",
    "expected_calibration_error",
    "negative_log_likelihood",
    "reliability_counts",
    "soft_dice",
]

QUBIQ_THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)


def brier_score(
    probabilities: Tensor, labels: Tensor, ignore: int | None = None, flips: Sequence[Flip] | None = None
) -> Tensor:
    """Brier score of each image, float64 [b] in 0..2, lower is better.

        Brier = mean over pixels and raters of  sum_k (p_k - [y = k])^2

    Brier 1950; a proper score: expected to be least where p is how often raters choose each class. nan for an image
    whose pixels are all of the ignore class. Raises InputError for arguments that do not fit.

    >>> q = torch.tensor([[[[0.5]], [[0.5]]]])  # one image of one pixel, two classes
    >>> brier_score(q, torch.tensor([[[[1]]]])).tolist()
    [0.5]
    """
    votes = votes_for(probabilities, labels, ignore, flips).to(exact_dtype(probabilities.device))
    p = probabilities.detach().to(votes.dtype)
    loss = votes.sum(1) * (p.square().sum(1) + 1) - 2 * (votes * p).sum(1)
    return loss.sum(2).sum(1) / votes.sum((1, 2, 3))


def negative_log_likelihood(
    probabilities: Tensor,
    labels: Tensor,
    ignore: int | None = None,
    floor: float = 1e-6,
    flips: Sequence[Flip] | None = None,
) -> Tensor:
    """Negative log likelihood of each image, float64 [b], in nats, from 0 up, lower is better.

        NLL = mean over pixels and raters of  -log p_y

    A proper score, as the Brier score is. Probabilities below `floor` count as `floor`: frequencies of samples can be
    0, where the true value is infinite. nan for an image whose pixels are all of the ignore class. Raises InputError
    for arguments that do not fit.

    >>> q = torch.tensor([[[[0.5]], [[0.5]]]])
    >>> round(negative_log_likelihood(q, torch.tensor([[[[1]]]])).item(), 4)  # log 2
    0.6931
    """
    if not 0 < floor < 1:
        raise InputError(f"floor is {floor}; give a probability above 0 and below 1, such as 1e-6")
    votes = votes_for(probabilities, labels, ignore, flips).to(exact_dtype(probabilities.device))
    log_p = probabilities.detach().to(votes.dtype).clamp(min=floor).log()
    return -(votes * log_p).sum(3).sum(2).sum(1) / votes.sum((1, 2, 3))


def soft_dice(
    probabilities: Tensor,
    labels: Tensor,
    thresholds: Sequence[float] = QUBIQ_THRESHOLDS,
    ignore: int | None = None,
) -> Tensor:
    """Dice of probabilities against the mean of the raters, both cut at each threshold: float64 [b], higher is better.

        soft Dice = mean over t and c of  Dice({p_c > t}, {fraction of present raters who chose c > t}),  in 0..1

    c runs over all classes but the background and `ignore`; the Dice of two empty sets is 1. The thresholds are those
    of the QUBIQ challenge. A pixel that any present rater gives the class `ignore` is left out. Raises InputError for
    arguments that do not fit.

    >>> q = torch.tensor([[[[0.4, 0.8]], [[0.6, 0.2]]]])  # one image of 1 x 2 pixels, two classes
    >>> soft_dice(q, torch.tensor([[[[1, 0]]]]), [0.1, 0.5]).tolist()  # 2/3 at 0.1, 1 at 0.5
    [0.8333333333333333]
    """
    labels, k = check_probabilities(probabilities, labels)
    ids = list(get_convention("car").class_ids(k, ignore))
    p, f = probabilities.detach()[:, ids], class_frequencies(labels, k)[:, ids]
    if ignore is not None:
        keep = ~(labels == ignore).any(1, keepdim=True)
        p, f = p * keep, f * keep
    scores = []
    for t in thresholds:
        if not 0 <= t < 1:
            raise InputError(f"threshold {t} of soft_dice lies outside 0 (included) to 1")
        ours, theirs = p > t, f > t
        both = (ours & theirs).sum((2, 3)).to(f.dtype)
        areas = ours.sum((2, 3)) + theirs.sum((2, 3))
        scores.append((2 * both / areas).where(areas > 0, 1.0))
    if not scores:
        raise InputError("soft_dice got no thresholds; give at least one")
    return torch.stack(scores, 2).mean((1, 2))


def dice_of_mean(samples: Tensor, labels: Tensor, classes: int = 2, ignore: int | None = None) -> Tensor:
    """Dice of what more than half of the samples say against what more than half of the raters say: float64 [b].

    This is `soft_dice` of the class frequencies of the samples at the single threshold 0.5: a class is at a pixel if
    strictly more than half chose it, two of four raters do not suffice; both empty is 1; mean over all classes but
    the background. In 0..1, higher is better. samples: integer [b n h w]; labels: integer [b r h w].

    >>> samples, labels = torch.tensor([[[[1, 1]], [[1, 0]], [[1, 0]]]]), torch.tensor([[[[1, 1]]]])
    >>> round(dice_of_mean(samples, labels).item(), 4)  # {first pixel} against both pixels
    0.6667
    """
    samples, labels, _ = check_maps(samples, labels, classes)
    return soft_dice(class_frequencies(samples, classes), labels, (0.5,), ignore)
