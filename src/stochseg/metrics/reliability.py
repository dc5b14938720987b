"""Does what is said with 70 % confidence come true 70 % of the time: reliability curves and calibration errors.

Probabilities are [b k h w], summing to 1 over k, and labels integer [b r h w]. Each pixel of each present rater is one
observation of equal weight; 255 throughout is a missing rater, and an observation of the class `ignore` is left out.
Every number here comes from sums over observations by bin of confidence. Confidences are rounded to multiples of
2^-24, by less than 3e-8, so that float64 holds these sums exactly up to 2^29 observations a bin: they depend neither
on how images are batched, nor on their order, nor on how many processes share them, to the last bit. (MPS has no
float64, and there the sums round.)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from stochseg.errors import InputError
from stochseg.metrics.conventions import Flip
from stochseg.metrics.inputs import exact_dtype
from stochseg.metrics.marginals import UNITS, votes_for

Target = Literal["top", "foreground", "class"]
Binning = Literal["width", "mass"]
FINE_BINS = 4096
"""Bins of equal width to count in where `equal_mass` is to merge them."""


@dataclass(frozen=True)
class ReliabilityCounts:
    """Sums over observations by bin of confidence, each float64 [... bins]; `+` joins batches or processes.

    The leading axes are those asked of `reliability_counts`: none, [k], [b] or [b k].
    """

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

    def sum(self, dim: int = 0) -> "ReliabilityCounts":
        """Summed over an axis, such as that of the images."""
        return ReliabilityCounts(self.counts.sum(dim), self.confidence.sum(dim), self.accuracy.sum(dim))

    def curve(self) -> tuple[Tensor, Tensor]:
        """Mean confidence and frequency of being true in each bin, [... bins] each; nan in an empty bin."""
        return self.confidence / self.counts, self.accuracy / self.counts

    def error(self) -> Tensor:
        """Expected calibration error, [...] in 0..1, lower is better.

            ECE = sum over bins of  counts / total * |frequency - mean confidence|

        Guo et al. 2017, arXiv 1706.04599, equation 3. nan where nothing was counted; InputError where that is all.
        """
        total = self.counts.sum(-1)
        if total.ndim == 0 and total == 0:
            raise InputError("nothing was counted for the calibration error; are all pixels of the ignore class?")
        return (self.accuracy - self.confidence).abs().sum(-1) / total

    def equal_mass(self, bins: int = 15) -> "ReliabilityCounts":
        """Neighbouring bins merged to `bins` groups of nearly equal counts, [... bins].

        The edge of two groups is the edge of bins nearest to the wanted share of all observations. A bin is never
        divided: one that holds more than a group's share leaves groups beside it empty. So count finely, with
        bins=FINE_BINS, add up all batches, and merge then; confidences that differ by less than 1 / FINE_BINS may
        stay together. Nguyen and O'Connor 2015, arXiv 1508.05154. InputError for more groups than bins.

        >>> counts = torch.tensor([4.0, 1, 1, 2])
        >>> ReliabilityCounts(counts, counts / 2, counts / 2).equal_mass(2).counts.tolist()
        [4.0, 4.0]
        """
        if not 1 <= bins <= self.counts.shape[-1]:
            raise InputError(
                f"{self.counts.shape[-1]} bins cannot be merged to {bins}; count with bins={FINE_BINS}, merge to fewer"
            )
        middle = self.counts.cumsum(-1) - self.counts / 2
        total = self.counts.sum(-1, keepdim=True).clamp(min=1)
        group = (bins * middle / total).long().clamp(max=bins - 1)

        def merged(values: Tensor) -> Tensor:
            return values.new_zeros((*values.shape[:-1], bins)).scatter_add_(-1, group, values)

        return ReliabilityCounts(merged(self.counts), merged(self.confidence), merged(self.accuracy))


class ReliabilityCurve(NamedTuple):
    """What to draw: the bins that hold any observation, each float64 [bins used]."""

    confidence: Tensor
    """Mean confidence of the bin."""
    frequency: Tensor
    """Share of its observations that came true."""
    counts: Tensor
    """Its observations."""


def reliability_counts(
    probabilities: Tensor,
    labels: Tensor,
    bins: int = 15,
    target: Target = "top",
    ignore: int | None = None,
    per_image: bool = False,
    flips: Sequence[Flip] | None = None,
) -> ReliabilityCounts:
    """The sums behind a reliability curve and the calibration error; add those of all batches, then `.error()`.

    target "top": confidence is that of the most probable class, true where the rater chose it. "foreground":
    confidence is P(not background), true where the rater's class is not 0. "class": each class but `ignore` against
    the rest, in the order of ids, the background among them: [k bins], or [k-1 bins] with `ignore`. per_image: keep
    the images apart, [b bins] or [b k bins], to resample patients from. flips: classes of the labels that flip, (from, to,
    probability); each label then counts as all it may be, as often as that is. Bins have equal width and include their upper
    edge, the first also 0; a confidence within 3e-8 of an edge lies on it. Raises InputError for arguments that do
    not fit.

    >>> q = torch.tensor([[[[0.25, 0.0]], [[0.75, 1.0]]]])  # one image of 1 x 2 pixels, two classes
    >>> reliability_counts(q, torch.tensor([[[[1, 1]]]]), bins=2, target="class").counts.tolist()
    [[2.0, 0.0], [0.0, 2.0]]
    """
    if not 1 <= bins <= UNITS:
        raise InputError(f"bins is {bins}; give at least 1, up to {UNITS}")
    if target not in get_args(Target):
        raise InputError(f"target is '{target}'; choose 'top', 'foreground' or 'class'")
    votes = votes_for(probabilities, labels, ignore, flips)
    exact = exact_dtype(votes.device)
    observations = votes.sum(1, dtype=votes.dtype).to(exact)
    sums = torch.stack(
        [
            _by_bin(confidence.to(exact), hits.to(exact), observations, bins, per_image)
            for confidence, hits in _outcomes(probabilities.detach(), votes, target, ignore)
        ],
        dim=2,
    )  # [3 b k bins], the classes and the images one where not asked for
    if target != "class":
        sums = sums.squeeze(2)
    return ReliabilityCounts(*(sums if per_image else sums.squeeze(1)))


def reliability_curve(
    probabilities: Tensor,
    labels: Tensor,
    bins: int = 15,
    target: Target = "top",
    ignore: int | None = None,
    binning: Binning = "width",
) -> ReliabilityCurve:
    """The reliability curve of all pixels and raters; arguments as `expected_calibration_error`, no target "class".

    >>> q = torch.tensor([[[[0.25, 0.0]], [[0.75, 1.0]]]])
    >>> confidence, frequency, counts = reliability_curve(q, torch.tensor([[[[1, 1]]]]), target="foreground")
    >>> confidence.tolist(), frequency.tolist(), counts.tolist()
    ([0.75, 1.0], [1.0, 1.0], [1.0, 1.0])
    """
    if target == "class":
        raise InputError("target 'class' has a curve for every class: reliability_counts(..., target='class').curve()")
    found = _binned(probabilities, labels, bins, target, ignore, binning)
    used = found.counts > 0
    confidence, frequency = found.curve()
    return ReliabilityCurve(confidence[used], frequency[used], found.counts[used])


def expected_calibration_error(
    probabilities: Tensor,
    labels: Tensor,
    bins: int = 15,
    target: Target = "top",
    ignore: int | None = None,
    binning: Binning = "width",
) -> Tensor:
    """Expected calibration error over all pixels and raters, a scalar in 0..1, lower is better.

    target: as in `reliability_counts`; with "class" it is the mean over the classes of each one's error against the
    rest: the classwise (Kull et al. 2019, arXiv 1910.12656) or static (Nixon et al. 2019, arXiv 1904.01685)
    calibration error. binning: bins of equal "width", or of nearly equal "mass", see `ReliabilityCounts.equal_mass`.
    For data in batches add up `reliability_counts`: a mean of the errors of batches is larger than the error of all.
    Raises InputError for arguments that do not fit, and where every pixel is of the ignore class.

    >>> q = torch.tensor([[[[0.5, 0.0]], [[0.5, 1.0]]]])  # one image of 1 x 2 pixels, two classes
    >>> expected_calibration_error(q, torch.tensor([[[[0, 1]], [[1, 1]]]])).item()  # half the raters say 0, all say 1
    0.0
    """
    found = _binned(probabilities, labels, bins, target, ignore, binning)
    if target != "class":
        return found.error()
    if not bool(found.counts.any()):
        raise InputError("nothing was counted for the calibration error; are all pixels of the ignore class?")
    return found.error().mean()


def _binned(
    probabilities: Tensor, labels: Tensor, bins: int, target: Target, ignore: int | None, binning: Binning
) -> ReliabilityCounts:
    if binning == "width":
        return reliability_counts(probabilities, labels, bins, target, ignore)
    if binning != "mass":
        raise InputError(f"binning is '{binning}'; choose 'width' or 'mass'")
    return reliability_counts(probabilities, labels, FINE_BINS, target, ignore).equal_mass(bins)


def _outcomes(p: Tensor, votes: Tensor, target: Target, ignore: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Confidence, and how many raters it came true for, at each pixel: [b h w] each, for each class asked for."""
    exact = exact_dtype(p.device)
    if target == "top":
        confidence, top = p.max(1, keepdim=True)
        yield confidence[:, 0], votes.gather(1, top)[:, 0]
    elif target == "foreground":
        yield 1 - p[:, 0].to(exact), votes[:, 1:].sum(1, dtype=votes.dtype)
    else:
        yield from ((p[:, c], votes[:, c]) for c in range(p.shape[1]) if c != ignore)


def _by_bin(confidence: Tensor, hits: Tensor, observations: Tensor, bins: int, per_image: bool) -> Tensor:
    """Sums of observations, confidence and hits [b h w], all of the exact dtype, by bin: [3 1 bins] or [3 b bins]."""
    units = (confidence.clamp(0, 1) * UNITS).round_()
    rounded = units / UNITS
    # half a unit less: an edge between two multiples is rounded to one of them just as a confidence at the edge is
    index = ((units - 0.5) * (bins / UNITS)).ceil_().sub_(1).clamp_(0, bins - 1).long()
    rows = len(confidence) if per_image else 1
    if per_image:
        index += bins * torch.arange(rows, device=index.device)[:, None, None]
    index = index.flatten()
    sums = [
        values.new_zeros(rows * bins).index_add_(0, index, values.flatten())
        for values in (observations, rounded * observations, hits)
    ]
    return torch.stack(sums).view(3, rows, bins)
