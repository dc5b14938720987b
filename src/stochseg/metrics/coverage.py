"""Pixel sets that cover a rater's outline with a stated probability, made of samples and of the marginals q.

A pixel's place in the order of class c is (number of the n samples that give it c, plus q_c) / (n + 1). The set at a
level t holds the pixels whose place is t or more. So the sets are nested: fewest pixels where all samples agree, then
one sample less at a time, down to "inside at least one of the n samples" at 1 / (n + 1); below it the set goes on
growing past every sample, by q, until it is the whole image at 0.

The level is chosen by conformal risk control (Angelopoulos et al. 2022, arXiv 2208.02814). Groups (patients) are what
is exchangeable; the loss of a group is the share of its outlines that are not covered.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from stochseg.errors import InputError
from stochseg.metrics.inputs import MISSING, as_uint8, check_labels, exact_dtype
from stochseg.metrics.marginals import SUM_TOLERANCE, class_frequencies

BELOW_ONE = 1 - 1e-7
"""What q counts at most, so that no q, however sure, stands for one sample more."""


def coverage_order(samples: Tensor, q: Tensor) -> Tensor:
    """Each pixel's place in the order of each class, float64 [b k h w] in 0..1; the module says which.

    samples: integer [b n h w], all drawn with the same n. q: float [b k h w], the marginals. Raises InputError where
    the two do not fit.

    >>> samples = torch.tensor([[[[1, 1, 0]], [[1, 0, 0]], [[1, 0, 0]]]])  # one image, three samples of 1 x 3 pixels
    >>> q = torch.tensor([[[[0.25, 0.5, 0.75]], [[0.75, 0.5, 0.25]]]])
    >>> coverage_order(samples, q)[0, 1].tolist()  # in 3, 1 and 0 of the samples
    [[0.9375, 0.375, 0.0625]]
    """
    if not isinstance(q, Tensor) or not q.is_floating_point() or q.ndim != 4:
        raise InputError("q must be a float tensor [b k h w], as model.probabilities gives it")
    k = q.shape[1]
    samples = as_uint8(samples, "samples", k)
    if q.shape[0] != samples.shape[0] or q.shape[2:] != samples.shape[2:]:
        raise InputError(
            f"q is {list(q.shape)} and samples {list(samples.shape)}; [b k h w] and [b n h w] must agree in b, h and w"
        )
    off = float((q.detach().sum(1) - 1).abs().max())
    if not (off <= SUM_TOLERANCE and float(q.detach().min()) >= 0):
        raise InputError(f"q adds up to 1 +- {off:.3g} over classes; give probabilities, [b k h w]")
    n = samples.shape[1]
    counts = (class_frequencies(samples, k) * n).round()
    return (counts + q.detach().to(exact_dtype(q.device)).clamp(0, BELOW_ONE)) / (n + 1)


def coverage_sets(order: Tensor, levels: Sequence[float | None]) -> Tensor:
    """The sets at these levels, one level a class: bool [b k h w]; a level of None gives the whole image.

    order: [b k h w], from `coverage_order`. Raises InputError for another number of levels.

    >>> coverage_sets(torch.tensor([[[[0.9, 0.4]], [[0.3, 0.8]]]]), (None, 0.5)).tolist()
    [[[[True, True]], [[False, True]]]]
    """
    if len(levels) != order.shape[1]:
        raise InputError(f"{len(levels)} levels for {order.shape[1]} classes; give one a class, None for none")
    lowest = [-math.inf if level is None else level for level in levels]
    return order >= torch.tensor(lowest, dtype=order.dtype, device=order.device)[:, None, None]


def covering_levels(order: Tensor, labels: Tensor, share: float = 1.0, ignore: int | None = None) -> Tensor:
    """The highest level at which the set of each class covers each rater's outline: [b r k].

    An outline is covered when at least `share` of its pixels, in (0, 1], lie inside the set. labels: integer
    [b r h w]. nan where there is no outline: a missing rater, a rater who does not see the class, the ignore class. A
    pixel that any present rater gives the class `ignore` is left out of the whole image. Raises InputError where the
    arguments do not fit.

    >>> order = torch.tensor([[[[0.1, 0.7, 0.6]], [[0.75, 0.25, 0.5]]]])
    >>> covering_levels(order, torch.tensor([[[[1, 1, 0]], [[0, 0, 0]]]]))[0, :, 1].tolist()  # two raters
    [0.25, nan]
    """
    labels = as_uint8(labels, "labels", order.shape[1])
    b, k = order.shape[:2]
    if order.ndim != 4 or labels.shape[0] != b or labels.shape[2:] != order.shape[2:]:
        raise InputError(
            f"order is {list(order.shape)} and labels {list(labels.shape)}; "
            "[b k h w] and [b r h w] must agree in b, h and w"
        )
    if not 0 < share <= 1:
        raise InputError(f"share is {share}; give the part of an outline that must be inside, above 0 and at most 1")
    check_labels(labels, k)
    maps = labels.flatten(2)  # [b r p]
    if ignore is not None:
        maps = maps.masked_fill((maps == ignore).any(1, keepdim=True), MISSING)
    levels = order.new_full((b, maps.shape[1], k), math.nan)
    for c in range(k):
        inside = maps == c
        area = inside.sum(2)  # [b r]
        spare = (area.to(exact_dtype(area.device)) * (1 - share) + 1e-9).long()  # pixels that may stay outside
        places = order[:, c].flatten(1)[:, None].where(inside, math.inf)
        level = places.sort(2).values.gather(2, spare[..., None])[..., 0] if share < 1 else places.amin(2)
        levels[..., c] = level.where(area > 0, math.nan)
    return levels


def conformal_level(levels: ArrayLike, groups: Sequence[str] | NDArray[Any], coverage: float) -> float:
    """The highest level whose sets cover outlines of a new group with probability `coverage` at least.

    levels: [N], the covering level of each outline (`covering_levels`), nan where there is none; groups: [N], whose
    outline it is (a patient). With R(t) the mean over the G groups of the share of a group's outlines whose covering
    level is below t, the answer is the largest t with (G R(t) + 1) / (G + 1) <= 1 - coverage. If groups are
    exchangeable, the expected share of a new group's outlines that the set covers is `coverage` or more.
    Raises InputError where fewer than coverage / (1 - coverage) groups have outlines: no set could be sure enough.

    >>> conformal_level([0.5, 0.2, 0.4, 0.6], ["a", "b", "c", "d"], 0.6)  # one of four may be missed: (1 + 1) / 5
    0.4
    """
    found, names = np.asarray(levels, np.float64), np.asarray(groups)
    if found.ndim != 1 or found.shape != names.shape:
        raise InputError(f"levels have shape {found.shape} and groups {names.shape}; give one group a level, [N] each")
    if not 0 < coverage < 1:
        raise InputError(f"coverage is {coverage}; give a probability between 0 and 1, such as 0.9")
    defined = ~np.isnan(found)
    found = found[defined]
    _, index, counts = np.unique(names[defined], return_inverse=True, return_counts=True)
    size = len(counts)
    if size == 0 or 1 / (size + 1) > 1 - coverage + 1e-12:
        raise InputError(
            f"{size} groups with outlines cannot answer for a coverage of {coverage}: even with none missed that takes "
            f"{math.ceil(coverage / (1 - coverage) - 1e-9)}; ask for "
            f"{'less, at most ' + format(math.floor(1000 * size / (size + 1)) / 1000, 'g') if size else 'another class'}"
        )
    order = np.argsort(found, kind="stable")
    found, weights = found[order], 1 / counts[index[order]]
    below = np.concatenate([[0.0], np.cumsum(weights)])[np.searchsorted(found, found)]  # G R(t) at t = each level
    fits = (below + 1) / (size + 1) <= 1 - coverage + 1e-12
    return float(found[fits].max())


def covered_shares(
    levels: NDArray[np.float64], groups: NDArray[Any], level: float
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """The share of each group's outlines that the set at this level covers, [G], and the groups' names.

    levels, groups: [N] as in `conformal_level`; groups without outlines are left out.
    """
    defined = ~np.isnan(levels)
    names, index, counts = np.unique(groups[defined], return_inverse=True, return_counts=True)
    return np.bincount(index, levels[defined] >= level, len(names)) / counts, names
