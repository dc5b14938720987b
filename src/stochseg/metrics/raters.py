"""What the raters themselves would score: the line that a model that equals them would reach."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stochseg.errors import InputError
from stochseg.metrics.conventions import Convention, Flip, get_convention
from stochseg.metrics.distances import set_distances
from stochseg.metrics.ged import mean_to_itself, mean_within
from stochseg.metrics.inputs import MISSING, as_uint8
from stochseg.metrics.matching import best_mean

ALL_SPLITS_UP_TO = 10
"""Raters up to which every split into halves is taken (126 of 10); of more, one split per rotation of the list."""


class RatersReference(NamedTuple):
    """Scores of the raters of each image against one another, float64 [b]; nan where fewer than 2 are present."""

    ged: Tensor
    """Expected GED of n independent draws from the raters' own population against the raters present."""
    hm_iou: Tensor
    """Matched IoU of one half of the raters against the other, mean over the splits into halves."""


def raters_reference(
    labels: Tensor,
    n: int,
    classes: int = 2,
    convention: str | Convention = "car",
    ignore: int | None = None,
    flips: Sequence[Flip] | None = None,
) -> RatersReference:
    """What n independent draws from the raters' population would be expected to score, for each image.

    labels: integer [b r h w], 255 throughout for a missing rater. Raises InputError as `energy_distance_parts` does.

    GED: let draws s_1..s_n and raters y_1..y_r come from one population, D the mean distance of two independent draws
    and D_0 that of a map to itself (0, unless a convention gives an empty map distance 1 to itself). Then
    E d_ys = D; of the n^2 pairs of d_ss, n are self pairs, so E d_ss = D - (D - D_0) / n, and d_yy alike with r. So
    the expected V statistic is (D - D_0) (1/n + 1/r), that of U is 0. D is estimated by the mean over distinct pairs
    of raters, which has no bias: the mean over images is the expected score, a single image's is rough. With flips, as
    in `generalized_energy_distance`, the population is known, D exact, and there is no term in r.

    Matched IoU: halves of an odd number differ by one and are matched as "ccdm" does. Two maps against two match less
    well than 16 against 4 from the same population, so this one is a lower bound for a model that equals the raters.
    nan where the convention has no matched IoU, and with flips.

    >>> labels = torch.tensor([[[[0, 1]], [[0, 0]]]])  # one image, two raters at distance 1
    >>> ged, hm_iou = raters_reference(labels, n=16)
    >>> ged.tolist(), hm_iou.tolist()  # 1/16 + 1/2
    ([0.5625], [0.0])
    """
    if n < 1:
        raise InputError(f"n is {n}; give the number of samples whose score is asked for, at least 1")
    rule = get_convention(convention, flips is not None)
    n = min(n, rule.most_samples or n)
    rule = replace(rule, most_samples=None)
    labels = as_uint8(labels, "labels", classes)
    missing = labels.flatten(2).amin(-1) == MISSING
    stand_in = labels.masked_fill(missing[:, :, None, None], 0)  # labels in the samples' place
    distances = set_distances(stand_in, labels, classes, rule, ignore, flips)
    yy, present = distances.yy, distances.present
    if distances.exact:
        ged = yy[:, 0, 0] / n if rule.statistic == "V" else torch.zeros_like(yy[:, 0, 0])
        ged = ged.where(distances.defined, torch.nan)
        return RatersReference(ged, torch.full_like(ged, torch.nan))
    raters = present.sum(1)
    sizes = None if distances.sizes is None else distances.sizes[2]
    if rule.statistic == "V":
        spread = mean_within(yy, present, "U", sizes)
        ged = (spread - mean_to_itself(yy, present, sizes)) * (1 / n + 1 / raters)
    else:
        ged = torch.zeros_like(yy[:, 0, 0]).where(raters > 1, torch.nan)
    ged = ged.where(distances.defined, torch.nan)
    if rule.matching == "none":
        return RatersReference(ged, torch.full_like(ged, torch.nan))
    similarity, here = distances.matched.cpu().numpy(), present.cpu().numpy()
    halves = [_between_halves(one[np.ix_(who, who)]) for one, who in zip(similarity, here, strict=True)]
    hm_iou = torch.tensor(halves, dtype=yy.dtype, device=yy.device)
    return RatersReference(ged, hm_iou.where(distances.defined, torch.nan))


def _between_halves(similarity: NDArray[np.float64]) -> float:
    """Mean over splits of r raters into halves of the best mean similarity between them; nan where r < 2."""
    r = len(similarity)
    if r < 2:
        return float("nan")
    scores = []
    for half in _halves(r):
        rest = [i for i in range(r) if i not in half]
        scores.append(best_mean(similarity[np.ix_(half, rest)]))
    return float(np.mean(scores))


def _halves(r: int) -> list[list[int]]:
    """The smaller half of each split; of an even number a split is listed once."""
    size = r // 2
    if r > ALL_SPLITS_UP_TO:
        return [[(start + i) % r for i in range(size)] for start in range(r)]
    splits = [list(half) for half in combinations(range(r), size)]
    return splits if r % 2 else [half for half in splits if 0 in half]
