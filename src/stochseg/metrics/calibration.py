"""Are the pixel marginals right: calibration error, Brier score, log likelihood, Dice of the mean.

All take probabilities [b k h w], summing to 1 over k, and labels, integer [b r h w]. Each pixel of each present rater
is one observation of equal weight; 255 throughout is a missing rater, and an observation of the class `ignore` is left
out. Probabilities come from a network, or from samples by `class_frequencies`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stochseg.errors import InputError
from stochseg.metrics.conventions import check_classes, get_convention
from stochseg.metrics.distances import as_uint8, check_labels, check_maps, exact_dtype

Target = Literal["top", "foreground"]
QUBIQ_THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
SUM_TOLERANCE = 0.02
"""How far from 1 the probabilities of a pixel may add up: what rounding to bfloat16 does."""


@dataclass(frozen=True)
class ReliabilityCounts:
    """Sums over observations by bin of confidence, each float64 [bins]; `+` joins batches or processes."""

    counts: Tensor
    """Observations in the bin."""
    confidence: Tensor
    """Sum of their confidences."""
    accuracy: Tensor
    """How many of them came true."""

    def __add__(self, other: "ReliabilityCounts") -> "ReliabilityCounts":
        return ReliabilityCounts(
            self.counts + other.counts, self.confidence + other.confidence, self.accuracy + other.accuracy
        )

    def curve(self) -> tuple[Tensor, Tensor]:
        """Mean confidence and frequency of being true in each bin, [bins] each; nan in an empty bin."""
        return self.confidence / self.counts, self.accuracy / self.counts

    def error(self) -> Tensor:
        """Expected calibration error, a scalar in 0..1: mean |frequency - mean confidence|, bins weighted by counts.

        Guo et al. 2017, arXiv 1706.04599, equation 3. InputError where nothing was counted.
        """
        total = self.counts.sum()
        if total == 0:
            raise InputError("no pixel was counted for the calibration error: all are of the ignore class")
        return (self.accuracy - self.confidence).abs().sum() / total


def class_frequencies(maps: Tensor, classes: int = 2) -> Tensor:
    """How often each class occurs at each pixel among maps [b n h w]: float64 [b k h w], summing to 1 over k.

    A map filled with 255 does not count; InputError where an image has no other.

    >>> class_frequencies(torch.tensor([[[[0, 1]], [[1, 1]]]])).tolist()  # one image, two maps of 1 x 2 pixels
    [[[[0.5, 0.0]], [[0.5, 1.0]]]]
    """
    votes = _votes(as_uint8(maps, "maps"), classes)
    return votes / votes.sum(1, keepdim=True)


def reliability_counts(
    probabilities: Tensor, labels: Tensor, bins: int = 15, target: Target = "top", ignore: int | None = None
) -> ReliabilityCounts:
    """The sums behind a reliability curve and the calibration error; add those of all batches, then `.error()`.

    target "top": confidence is that of the most probable class, true where the rater chose it. "foreground":
    confidence is P(not background), true where the rater's class is not 0. Bins have equal width and include their
    upper edge, the first also 0. Raises InputError where the arguments do not fit.
    """
    if bins < 1:
        raise InputError(f"bins is {bins}; give at least 1")
    votes = _votes_for(probabilities, labels, ignore)
    p = probabilities.detach().to(votes.dtype)
    if target == "top":
        confidence, top = p.max(1, keepdim=True)
        hits = votes.gather(1, top)
    elif target == "foreground":
        confidence, hits = 1 - p[:, 0], votes[:, 1:].sum(1)
    else:
        raise InputError(f"target is '{target}'; choose 'top' or 'foreground'")
    observations = votes.sum(1).flatten()
    confidence = confidence.clamp(0, 1).flatten()
    edges = torch.arange(1, bins, dtype=p.dtype, device=p.device) / bins
    index = torch.bucketize(confidence, edges)

    def by_bin(values: Tensor) -> Tensor:
        return values.new_zeros(bins).index_add_(0, index, values)

    return ReliabilityCounts(by_bin(observations), by_bin(confidence * observations), by_bin(hits.flatten()))


def expected_calibration_error(
    probabilities: Tensor, labels: Tensor, bins: int = 15, target: Target = "top", ignore: int | None = None
) -> Tensor:
    """Expected calibration error over all pixels and raters, a scalar in 0..1; arguments as `reliability_counts`.

    For data in batches add up `reliability_counts`: a mean of the errors of batches is larger than the error of all.

    >>> q = torch.tensor([[[[0.5, 0.0]], [[0.5, 1.0]]]])  # one image of 1 x 2 pixels, two classes
    >>> expected_calibration_error(q, torch.tensor([[[[0, 1]], [[1, 1]]]])).item()  # half the raters say 0, all say 1
    0.0
    """
    return reliability_counts(probabilities, labels, bins, target, ignore).error()


def brier_score(probabilities: Tensor, labels: Tensor, ignore: int | None = None) -> Tensor:
    """Brier score of each image, float64 [b] in 0..2: mean over pixels and raters of sum_k (p_k - [y = k])^2.

    nan for an image whose pixels are all of the ignore class.
    """
    votes = _votes_for(probabilities, labels, ignore)
    p = probabilities.detach().to(votes.dtype)
    loss = votes.sum(1) * (p.square().sum(1) + 1) - 2 * (votes * p).sum(1)
    return loss.sum((1, 2)) / votes.sum((1, 2, 3))


def negative_log_likelihood(
    probabilities: Tensor, labels: Tensor, ignore: int | None = None, floor: float = 1e-6
) -> Tensor:
    """Negative log likelihood of each image, float64 [b], in nats: mean over pixels and raters of -log p_y.

    Probabilities below `floor` count as `floor`: frequencies of samples can be 0, where the true value is infinite.
    nan for an image whose pixels are all of the ignore class.
    """
    votes = _votes_for(probabilities, labels, ignore)
    log_p = probabilities.detach().to(votes.dtype).clamp(min=floor).log()
    return -(votes * log_p).sum((1, 2, 3)) / votes.sum((1, 2, 3))


def soft_dice(
    probabilities: Tensor,
    labels: Tensor,
    thresholds: Sequence[float] = QUBIQ_THRESHOLDS,
    ignore: int | None = None,
) -> Tensor:
    """Dice of probabilities against the mean of the raters, both cut at each threshold: float64 [b] in 0..1.

    For every class c but the background and every threshold t: Dice of {p_c > t} and {fraction of present raters who
    chose c > t}, 1 where both are empty; then the mean over thresholds and classes. The thresholds are those of the
    QUBIQ challenge. A pixel that any present rater gives the class `ignore` is left out.
    """
    _, k = _check_probabilities(probabilities, labels)
    labels = as_uint8(labels, "labels")
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
    return torch.stack(scores).mean(0).mean(1)


def dice_of_mean(samples: Tensor, labels: Tensor, classes: int = 2, ignore: int | None = None) -> Tensor:
    """Dice of what more than half of the samples say against what more than half of the raters say: float64 [b].

    This is `soft_dice` of the class frequencies of the samples at the single threshold 0.5: a class is at a pixel if
    strictly more than half chose it, two of four raters do not suffice; both empty is 1; mean over all classes but
    the background. samples: integer [b n h w]; labels: integer [b r h w].
    """
    samples, labels, _ = check_maps(samples, labels, classes)
    return soft_dice(class_frequencies(samples, classes), labels, (0.5,), ignore)


def _votes(maps: Tensor, classes: int, ignore: int | None = None) -> Tensor:
    """How many of the present maps [b n h w] give each class but the ignored: exact dtype [b k h w]."""
    check_classes(classes, ignore)
    check_labels(maps, classes)
    votes = maps.new_zeros((maps.shape[0], classes, *maps.shape[2:]), dtype=exact_dtype(maps.device))
    for c in range(classes):
        if c != ignore:
            for some in torch.split(maps, 255, dim=1):  # sums of uint8 are much the fastest, and hold 255
                votes[:, c] += torch.eq(some, c, out=torch.empty_like(some)).sum(1, dtype=torch.uint8)
    return votes


def _votes_for(probabilities: Tensor, labels: Tensor, ignore: int | None) -> Tensor:
    labels, k = _check_probabilities(probabilities, labels)
    return _votes(labels, k, ignore)


def _check_probabilities(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, int]:
    """Labels as uint8 and the number of classes; InputError where the two do not fit or are not probabilities."""
    labels = as_uint8(labels, "labels")
    if not isinstance(probabilities, Tensor) or not probabilities.is_floating_point() or probabilities.ndim != 4:
        raise InputError("probabilities must be a float tensor [b k h w]; class_frequencies makes one from samples")
    if probabilities.shape[0] != labels.shape[0] or probabilities.shape[2:] != labels.shape[2:]:
        raise InputError(
            f"probabilities are {list(probabilities.shape)} and labels {list(labels.shape)}; "
            "[b k h w] and [b r h w] must agree in b, h and w"
        )
    off = float((probabilities.detach().sum(1) - 1).abs().max())
    low = float(probabilities.detach().min())
    if not (off <= SUM_TOLERANCE and low >= 0):
        raise InputError(
            f"probabilities add up to 1 +- {off:.3g} over classes and start at {low:.3g}; "
            "give the softmax of logits, [b k h w]"
        )
    return labels, probabilities.shape[1]
