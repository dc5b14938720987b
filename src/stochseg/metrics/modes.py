"""Data whose distribution of answers is known: does a model give each answer as often as it is right?

The answers of an image are its modes: maps [b m h w], a map filled with 255 being no mode (images may have fewer), with
probabilities [m] or [b m]. A sample belongs to the mode that it resembles most; how often each mode is drawn is held
against its probability. Frequencies alone can be fooled, since any map is nearest to some mode: report
`off_mode_share` beside them. And n exact draws do not reach a total variation of 0: `expected_total_variation` is what
they reach.

Where classes of a label flip independently, the modes are all 2^m outcomes of a table of flips (from, to, probability):
see flip_modes.py for their frequencies.
"""

from collections.abc import Sequence
from operator import index as as_integer
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stochseg.errors import InputError
from stochseg.metrics.conventions import Flip, check_classes
from stochseg.metrics.distances import pairwise_iou
from stochseg.metrics.inputs import check_maps, check_weights, exact_dtype

PROBABILITY_TOLERANCE = 1e-3
"""How far from 1 the probabilities of an image's modes may add up."""
MOST_FLIPS = 16
"""Flips whose 2^m modes are kept apart."""


class NearestModes(NamedTuple):
    """The mode that each sample resembles most."""

    nearest: Tensor
    """int64 [b n], its number."""
    iou: Tensor
    """float64 [b n], IoU with it, 0..1; nan throughout an image whose pixels are all left out."""
    modes: int
    """How many modes there are in all, m."""

    def frequencies(self, sample_weights: Tensor | None = None) -> Tensor:
        """`mode_frequencies`."""
        weights = weights_of_samples(sample_weights, self.iou)
        sums = weights.new_zeros(len(weights), self.modes).scatter_add_(1, self.nearest, weights)
        found = sums / weights.sum(1, keepdim=True)
        return found.masked_fill(self.iou.isnan().any(1, keepdim=True), torch.nan)

    def off_share(self, iou_below: float = 0.5, sample_weights: Tensor | None = None) -> Tensor:
        """`off_mode_share`."""
        if not 0 < iou_below <= 1:
            raise InputError(f"iou_below is {iou_below}; give an IoU above 0, up to 1")
        weights = weights_of_samples(sample_weights, self.iou)
        share = (weights * (self.iou < iou_below)).sum(1) / weights.sum(1)
        return share.masked_fill(self.iou.isnan().any(1), torch.nan)


def nearest_modes(samples: Tensor, modes: Tensor, classes: int = 2, ignore: int | None = None) -> NearestModes:
    """The mode of highest IoU for each sample, and that IoU; arguments and errors as in `mode_frequencies`.

    Take this where both frequencies and `off_share` are wanted: the IoUs are had once.
    """
    samples, modes, present = check_maps(samples, modes, classes, names=("samples", "modes"))
    iou = pairwise_iou(samples, modes, classes, ignore, absent="left out").nan_to_num(nan=1.0)  # nan: both are empty
    iou = iou.masked_fill(~present[:, None], -1.0)
    index = iou.argmax(2)  # the first of several
    best = iou.gather(2, index[:, :, None]).squeeze(2)
    if ignore is not None:
        nothing_left = (modes == ignore).any(1).flatten(1).all(1)
        best = best.masked_fill(nothing_left[:, None], torch.nan)
    return NearestModes(index, best, modes.shape[1])


def mode_frequencies(
    samples: Tensor,
    modes: Tensor,
    classes: int = 2,
    ignore: int | None = None,
    sample_weights: Tensor | None = None,
) -> Tensor:
    """How often the samples give each mode: float64 [b m] in 0..1, summing to 1 over m.

        f_j = share of the samples whose nearest mode, by mean IoU, is j

    samples: integer [b n h w]; modes: integer [b m h w], all different, a map filled with 255 being no mode, with
    frequency 0. The IoU is averaged over all classes but the background that sample or mode hold, and is 1 where
    neither holds any. Of modes equally near the first gets the sample; so of two equal maps the second gets none.
    ignore: class id whose pixels in any mode are left out of the image; nan where that leaves none.
    sample_weights: [n] or [b n], from 0 up; default equal. Raises InputError for arguments that do not fit, and for
    an image without any mode.

    >>> modes = torch.tensor([[[[0, 0]], [[1, 1]]]])  # one image of 1 x 2 pixels: nothing, or all of it
    >>> mode_frequencies(torch.tensor([[[[1, 1]], [[0, 1]], [[1, 0]], [[0, 0]]]]), modes).tolist()
    [[0.25, 0.75]]
    """
    return nearest_modes(samples, modes, classes, ignore).frequencies(sample_weights)


def off_mode_share(
    samples: Tensor,
    modes: Tensor,
    classes: int = 2,
    ignore: int | None = None,
    iou_below: float = 0.5,
    sample_weights: Tensor | None = None,
) -> Tensor:
    """Share of the samples that resemble no mode: float64 [b] in 0..1, lower is better.

    A sample is off where its IoU with the nearest mode is below `iou_below`; all else is as in `mode_frequencies`.

    >>> modes = torch.tensor([[[[0, 0, 0]], [[1, 1, 1]]]])
    >>> off_mode_share(torch.tensor([[[[1, 1, 0]], [[1, 0, 0]]]]), modes).tolist()  # IoU 2/3 and 1/3
    [0.5]
    """
    return nearest_modes(samples, modes, classes, ignore).off_share(iou_below, sample_weights)


def mode_total_variation(frequencies: Tensor, probabilities: Tensor) -> Tensor:
    """Total variation between how often modes were drawn and how likely they are: float64 [b] in 0..1, lower is better.

        TV = 1/2 sum_j |f_j - p_j|

    It is the largest error in the probability of any set of modes. frequencies: [b m]; where they add up to less than
    1, the rest belongs to no mode and counts as one of probability 0. probabilities: [m] or [b m], adding up to 1.
    nan where the frequencies are. For its value at n exact draws see `expected_total_variation`. Raises InputError
    for arguments that do not fit.

    >>> mode_total_variation(torch.tensor([[0.25, 0.75], [0.5, 0.0]]), torch.tensor([0.5, 0.5])).tolist()
    [0.25, 0.5]
    """
    f, p = _check_frequencies(frequencies, probabilities)
    elsewhere = (p.sum(1) - f.sum(1)).clamp(min=0)
    return (((f - p).abs().sum(1) + elsewhere) / 2).clamp(max=1)


def expected_total_variation(probabilities: Tensor, n: int) -> Tensor:
    """What `mode_total_variation` is expected to be for n independent draws from the truth: [...] of [... m].

        E TV = 1/2 sum_j E|X_j / n - p_j|,  X_j ~ Binomial(n, p_j)

    Exact, by de Moivre's closed form E|X - np| = 2 v (1 - p) P(X = v) with v the integer part of np, plus 1 (Diaconis
    and Zabell 1991, Statistical Science 6(3)). A perfect model scores this on average; a model whose samples are not
    independent may score less, by dealing the modes out more evenly than chance does. Raises InputError for arguments
    that do not fit.

    >>> round(expected_total_variation(torch.tensor([0.5, 0.5]), 2).item(), 6)  # 1/2, 0, 0, 1/2: a quarter
    0.25
    """
    p = _check_distribution(probabilities, n)
    inside = (p > 0) & (p < 1)
    q = p.where(inside, 0.5)
    v = (n * q).floor() + 1
    size = torch.tensor(float(n), dtype=q.dtype, device=q.device)
    ways = torch.lgamma(size + 1) - torch.lgamma(v + 1) - torch.lgamma(size - v + 1)
    chance = (ways + v * q.log() + (size - v) * torch.log1p(-q)).exp()
    return (v * (1 - q) * chance / n).where(inside, 0.0).sum(-1)


def missed_modes(frequencies: Tensor, probabilities: Tensor, at_least: float = 0.0) -> Tensor:
    """How many modes no sample belongs to: float64 [b], from 0 up, lower is better.

    Modes of probability 0, or below `at_least`, do not count. Arguments as in `mode_total_variation`; nan where the
    frequencies are. n exact draws miss `expected_missed_modes`.

    >>> missed_modes(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([0.5, 0.375, 0.125, 0.0]), 0.25).tolist()
    [1.0]
    """
    f, p = _check_frequencies(frequencies, probabilities)
    return _where_defined(((f == 0) & _counted(p, at_least)).sum(1).to(f.dtype), f)


def missed_mass(frequencies: Tensor, probabilities: Tensor) -> Tensor:
    """Total probability of the modes that no sample belongs to: float64 [b] in 0..1, lower is better.

    Arguments as in `mode_total_variation`; nan where the frequencies are. n exact draws miss `expected_missed_mass`.

    >>> missed_mass(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([0.5, 0.375, 0.125])).tolist()
    [0.5]
    """
    f, p = _check_frequencies(frequencies, probabilities)
    return _where_defined((p * (f == 0)).sum(1), f)


def expected_missed_modes(probabilities: Tensor, n: int, at_least: float = 0.0) -> Tensor:
    """What `missed_modes` is expected to be for n independent draws from the truth, sum (1 - p)^n: [...] of [... m].

    >>> expected_missed_modes(torch.tensor([0.5, 0.5]), 2).item()
    0.5
    """
    p = _check_distribution(probabilities, n)
    return ((1 - p) ** n * _counted(p, at_least)).sum(-1)


def expected_missed_mass(probabilities: Tensor, n: int) -> Tensor:
    """What `missed_mass` is expected to be for n independent draws from the truth, sum p (1 - p)^n: [...] of [... m].

    >>> expected_missed_mass(torch.tensor([0.5, 0.5]), 2).item()
    0.25
    """
    p = _check_distribution(probabilities, n)
    return (p * (1 - p) ** n).sum(-1)


def flip_mode_probabilities(flips: Sequence[Flip], present: Tensor | None = None) -> Tensor:
    """Probabilities of all outcomes of independent flips, float64 [2^m]; bit i of the index says that flip i happened.

    present: bool [b m], which flips an image has the class of; [b 2^m] then, with bit 0 where it has not. InputError
    for more than 16 flips.

    >>> flip_mode_probabilities([(1, 3, 0.5), (2, 4, 0.25)]).tolist()
    [0.375, 0.375, 0.125, 0.125]
    """
    if len(flips) > MOST_FLIPS:
        raise InputError(f"{len(flips)} flips have 2^{len(flips)} modes; take at most {MOST_FLIPS} of them")
    device = torch.device("cpu") if present is None else present.device
    chances = torch.tensor([p for _, _, p in flips], dtype=exact_dtype(device), device=device)
    if present is not None:
        chances = chances * present
    result = chances.new_ones(*chances.shape[:-1], 1)
    for p in chances[..., None].unbind(-2):
        result = torch.cat([result * (1 - p), result * p], -1)
    return result


def check_flips(flips: Sequence[Any], classes: int, ignore: int | None = None) -> list[Flip]:
    """The table of flips as tuples (from, to, probability); InputError where it is none.

    There is at least one, ids lie in 0 to classes - 1 and are not `ignore`, no class is in two flips, or twice in
    one, and probabilities lie in 0..1.
    """
    check_classes(classes, ignore)
    rows: list[Flip] = []
    used: dict[int, int] = {}
    for i, row in enumerate(flips):
        try:
            source, target, p = as_integer(row[0]), as_integer(row[1]), float(row[2])
            if len(row) != 3:
                raise ValueError
        except (TypeError, ValueError, IndexError):
            raise InputError(f"flips[{i}] is {row}; give (from, to, probability), two class ids and a number") from None
        if source == target:
            raise InputError(f"flips[{i}] is {row}; from and to are the same class, give two different ones")
        for c in (source, target):
            if not 0 <= c < classes:
                raise InputError(f"flips[{i}] has class {c}; with classes={classes} it is one of 0 to {classes - 1}")
            if c == ignore:
                raise InputError(f"flips[{i}] has class {c}, which is the ignored one; leave that flip out")
            if c in used:
                raise InputError(f"flips[{i}] has class {c}, as flips[{used[c]}] has; a class flips once")
            used[c] = i
        if not 0 <= p <= 1:
            raise InputError(f"flips[{i}] has probability {p}; it lies in 0 to 1")
        rows.append((source, target, p))
    if not rows:
        raise InputError("flips are empty; give at least one (from, to, probability)")
    return rows


def weights_of_samples(weights: Tensor | None, like: Tensor) -> Tensor:
    """Weights of samples, exact [b n] as `like`, 1 where none are given; InputError where an image has none above 0."""
    exact = exact_dtype(like.device)
    checked = check_weights(weights, like.shape[0], like.shape[1], "sample", like.device)
    if checked is None:
        return torch.ones_like(like, dtype=exact)
    if bool((checked.sum(1) == 0).any()):
        raise InputError("sample_weights of an image are all 0; give at least one of its samples a weight")
    return checked


def _check_frequencies(frequencies: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Both as exact [b m]; InputError where they do not fit each other."""
    if not isinstance(frequencies, Tensor) or frequencies.ndim != 2:
        raise InputError("frequencies must be a tensor [b m]; mode_frequencies makes one from samples and modes")
    f = frequencies.to(exact_dtype(frequencies.device))
    p = _check_distribution(probabilities).to(f)
    if p.shape not in (f.shape, f.shape[1:]):
        raise InputError(
            f"frequencies are {list(f.shape)} and probabilities {list(p.shape)}; give [b m] and [b m] or [m]"
        )
    defined = f[~f.isnan().any(1)]
    if bool((defined < 0).any()) or bool((defined.sum(1) > 1 + PROBABILITY_TOLERANCE).any()):
        raise InputError("frequencies of an image are negative or add up to more than 1; mode_frequencies makes them")
    return f, p.expand_as(f)


def _check_distribution(probabilities: Tensor, n: int = 1) -> Tensor:
    """Probabilities [... m] in the exact dtype; InputError where they are none, or n is no number of draws."""
    if n < 1:
        raise InputError(f"n is {n}; give the number of draws, at least 1")
    if not isinstance(probabilities, Tensor) or probabilities.ndim == 0 or 0 in probabilities.shape:
        raise InputError("probabilities must be a tensor [m] or [b m], one number a mode")
    p = probabilities.to(exact_dtype(probabilities.device))
    off, low = float((p.sum(-1) - 1).abs().max()), float(p.min())
    if not (off <= PROBABILITY_TOLERANCE and low >= 0):
        raise InputError(
            f"probabilities of modes start at {low:.3g} and add up to 1 +- {off:.3g}; give each image's, summing to 1"
        )
    return p.clamp(max=1)


def _counted(p: Tensor, at_least: float) -> Tensor:
    if not 0 <= at_least <= 1:
        raise InputError(f"at_least is {at_least}; give a probability, 0 to 1")
    return (p > 0) & (p >= at_least)


def _where_defined(values: Tensor, frequencies: Tensor) -> Tensor:
    return values.masked_fill(frequencies.isnan().any(1), torch.nan)
