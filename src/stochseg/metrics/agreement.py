"""How well the best of the samples agree with each rater, and all samples together with all raters.

These scores take the best or the union of many samples, so they grow with n and reward a model for being diverse
even where it is wrong: compare them at equal n only, and never report them without a score of the whole distribution.
Dice of class c between two maps: 2 |A and B| / (|A| + |B|), A and B being their pixels of class c; of several classes
the mean over 1 to classes-1 but `ignore`. A pixel that any present rater gives the class `ignore` is left out of the
whole image.

The collective insight score and its parts are those of CIMD (Rahman et al. 2023, arXiv 2304.04745). Its authors'
repository holds no code of them. Other repositories share the equations below and differ in what these leave open;
each such choice is an argument here, and numbers of two sources compare only where it is known.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from stochseg.errors import InputError
from stochseg.metrics.areas import counted_pixels
from stochseg.metrics.conventions import Absent, Similarity, get_convention
from stochseg.metrics.distances import Gauge, leave_out, overlaps, pairwise_dice, pairwise_iou
from stochseg.metrics.inputs import check_maps

Over = Literal["raters", "samples", "both"]
Spread = Literal["variance", "dice", "iou"]


def max_dice(
    samples: Tensor,
    labels: Tensor,
    classes: int = 2,
    ignore: int | None = None,
    absent: Absent = 1.0,
    over: Over = "raters",
) -> Tensor:
    """D_max, maximum Dice matching: float64 [b] in 0..1, higher is better.

        D_max = mean over present raters y of  max over samples s of Dice(s, y)

    CIMD (arXiv 2304.04745) and D-Persona (arXiv 2403.13417). over: "raters" as in the equation; "samples" the other
    way round, the mean over samples of the best Dice with any rater, which asks that no sample is far from them all;
    "both" the mean of the two. D-Persona's code computes all three, so ask which one a table shows. absent: what a class
    that neither map of a pair holds counts as, 1.0 or 0.0, or "left out" of the pair; a pair that holds no class at
    all then has no Dice and cannot be the best. nan where an image's pixels are all ignored, or no pair has a Dice.
    Raises InputError for shapes, types or ids that do not fit.

    >>> samples = torch.tensor([[[[0, 1]], [[1, 1]]]])  # one image, two samples of 1 x 2 pixels
    >>> labels = torch.tensor([[[[0, 1]], [[0, 0]]]])  # the second rater sees nothing, and no sample says so
    >>> max_dice(samples, labels).tolist()
    [0.5]
    """
    if over not in ("raters", "samples", "both"):
        raise InputError(f"over is '{over}'; choose 'raters', 'samples' or 'both'")
    scores = _scores(samples, labels, classes, ignore, absent, "dice")
    by_rater, by_sample = _nanmax(scores, 1).nanmean(1), _nanmax(scores, 2).nanmean(1)
    if over == "both":
        return (by_rater + by_sample) / 2
    return by_rater if over == "raters" else by_sample


def max_dice_per_rater(
    samples: Tensor, labels: Tensor, classes: int = 2, ignore: int | None = None, absent: Absent = 1.0
) -> Tensor:
    """The best Dice any sample has with each rater: float64 [b r] in 0..1, nan for missing raters.

    `max_dice` is its mean over the raters; arguments, nan and errors as there.

    >>> labels = torch.tensor([[[[0, 1]], [[0, 0]], [[255, 255]]]])  # of three raters the last is missing
    >>> max_dice_per_rater(torch.tensor([[[[0, 1]], [[1, 1]]]]), labels).tolist()
    [[1.0, 0.0, nan]]
    """
    return _nanmax(_scores(samples, labels, classes, ignore, absent, "dice"), 1)


def best_sample(
    samples: Tensor,
    labels: Tensor,
    classes: int = 2,
    measure: Similarity = "dice",
    ignore: int | None = None,
    absent: Absent = 1.0,
) -> Tensor:
    """Dice (or IoU) of the best single sample: float64 [b] in 0..1, higher is better.

        max over samples s of  mean over present raters y of Dice(s, y)

    The one map that agrees best with all raters at once, so never above `max_dice`, where each rater picks another.
    measure: "dice" or "iou". Other arguments, nan and errors as in `max_dice`.

    >>> samples = torch.tensor([[[[0, 1]], [[1, 0]]]])
    >>> best_sample(samples, torch.tensor([[[[0, 1]], [[1, 0]]]]), measure="iou").tolist()  # right for one of two
    [0.5]
    """
    return _nanmax(_scores(samples, labels, classes, ignore, absent, measure).nanmean(2), 1)


def combined_sensitivity(
    samples: Tensor, labels: Tensor, classes: int = 2, ignore: int | None = None, empty: float = torch.nan
) -> Tensor:
    """S_c: how much of what any rater marks is marked by any sample; float64 [b] in 0..1, higher is better.

        S_c = |S and Y| / |Y|,  S the union of all samples, Y that of the present raters   (CIMD, arXiv 2304.04745)

    Marking everything gives 1. Where neither union holds the class, S_c is 1. Where Y is empty and S is not, the
    equation is 0/0: `empty` is what counts then, nan (left out of the mean over classes; nan for the image where no
    class is left), 1.0 (no pixel was missed) or 0.0. nan also for an image whose pixels are all ignored. Raises
    InputError for shapes, types or ids that do not fit.

    >>> samples = torch.tensor([[[[0, 0, 1]], [[0, 0, 1]]]])
    >>> combined_sensitivity(samples, torch.tensor([[[[0, 0, 1]], [[0, 1, 1]]]])).tolist()
    [0.5]
    """
    if not (math.isnan(empty) or 0 <= empty <= 1):
        raise InputError(f"empty is {empty}; give nan, or a sensitivity from 0 to 1")
    ids = get_convention("car").class_ids(classes, ignore)
    samples, labels, _ = check_maps(samples, labels, classes)
    pixels = counted_pixels(labels, ignore)
    samples, labels = leave_out(samples, labels, ignore), leave_out(labels, labels, ignore)
    found = []
    for c in ids:
        ours, theirs = (torch.eq(maps, c, out=torch.empty_like(maps)).amax(1) for maps in (samples, labels))
        hit, marked = (each.sum((1, 2)).to(pixels.dtype) for each in (ours & theirs, theirs))
        nothing = torch.where(ours.flatten(1).amax(1) > 0, empty, torch.ones_like(hit))
        found.append(torch.where(marked > 0, hit / marked, nothing))
    return torch.stack(found, 1).nanmean(1).where(pixels > 0, torch.nan)


def diversity_agreement(
    samples: Tensor, labels: Tensor, classes: int = 2, ignore: int | None = None, spread: Spread = "variance"
) -> Tensor:
    """D_a: do the samples differ among themselves as much as the raters do? float64 [b] in 0..1, higher is better.

        D_a = 1 - (|Vmax(Y) - Vmax(S)| + |Vmin(Y) - Vmin(S)|) / 2                       (CIMD, arXiv 2304.04745)

    Vmax and Vmin are the largest and the smallest V of two different maps of the set, the present raters Y or the
    samples S. They are extremes of sets of different sizes, so D_a moves with n: Vmax(S) grows, Vmin(S) falls. V is
    called the variance of a pair, which others read in several ways. spread picks one: "variance" (default, the word as
    it stands) is the population variance over pixels of the difference of the two 0/1 masks; for small lesions it is
    near 0, and D_a then near 1 whatever the samples. "dice" and "iou" are 1 - Dice and 1 - IoU, with two empty masks at
    0, and do not depend on the image's size. Self pairs never count; a reading that keeps them has Vmin = 0. For
    several classes the mean of their D_a. nan where an image has one sample or one rater, or its pixels are all
    ignored. Raises InputError for shapes, types or ids that do not fit.

    >>> samples = torch.tensor([[[[0, 1, 1, 0]], [[0, 1, 1, 0]]]])  # two equal samples: V = 0
    >>> labels = torch.tensor([[[[0, 1, 1, 0]], [[0, 1, 0, 0]]]])  # differences 0 0 1 0: V = 1/4 - 1/16
    >>> diversity_agreement(samples, labels).tolist()
    [0.8125]
    """
    if spread not in ("variance", "dice", "iou"):
        raise InputError(f"spread is '{spread}'; choose 'variance', 'dice' or 'iou'")
    ids = get_convention("car").class_ids(classes, ignore)
    samples, labels, present = check_maps(samples, labels, classes)
    pixels = counted_pixels(labels, ignore)
    sets = [
        (leave_out(samples, labels, ignore), torch.ones_like(samples[:, :, 0, 0], dtype=torch.bool)),
        (leave_out(labels, labels, ignore), present),
    ]
    gaps = []
    for c in ids:
        ours, theirs = (_extremes(_spread(maps, c, spread, pixels), members) for maps, members in sets)
        gaps.append((ours - theirs).abs().mean(0))
    return (1 - torch.stack(gaps, 1).mean(1)).where(pixels > 0, torch.nan)


def collective_insight(
    samples: Tensor,
    labels: Tensor,
    classes: int = 2,
    ignore: int | None = None,
    spread: Spread = "variance",
    empty: float = torch.nan,
) -> Tensor:
    """CI, the collective insight score: float64 [b] in 0..1, higher is better.

        CI = 3 S_c D_max D_a / (S_c + D_max + D_a)                                      (CIMD, arXiv 2304.04745)

    S_c: `combined_sensitivity`, with `empty`; D_max: `max_dice`; D_a: `diversity_agreement`, with `spread`. This is
    not the harmonic mean of the three: where all are s, it is s^2. 0 where all three are 0; nan where one of them is
    nan, among others with one sample or one rater. Raises InputError for shapes, types or ids that do not fit.

    >>> maps = torch.tensor([[[[0, 1, 1]], [[0, 0, 1]]]])
    >>> collective_insight(maps, maps).tolist()
    [1.0]
    """
    s = combined_sensitivity(samples, labels, classes, ignore, empty)
    d = max_dice(samples, labels, classes, ignore)
    a = diversity_agreement(samples, labels, classes, ignore, spread)
    total = s + d + a
    return torch.where(total == 0, torch.zeros_like(total), 3 * s * d * a / total)


def _scores(
    samples: Tensor, labels: Tensor, classes: int, ignore: int | None, absent: Absent, measure: Similarity
) -> Tensor:
    """Dice or IoU of every sample with every rater [b n r], nan where there is none: nobody, no pixel, no class."""
    if measure not in ("dice", "iou"):
        raise InputError(f"measure is '{measure}'; choose 'dice' or 'iou'")
    ids = get_convention("car").class_ids(classes, ignore)
    samples, labels, present = check_maps(samples, labels, classes)
    scores = (pairwise_dice if measure == "dice" else pairwise_iou)(samples, labels, ids, ignore, absent)
    there = present & (counted_pixels(labels, ignore) > 0)[:, None]
    return scores.masked_fill(~there[:, None], torch.nan)


def _nanmax(values: Tensor, dim: int) -> Tensor:
    """The largest value that is not nan; nan where all are."""
    top = values.nan_to_num(nan=-torch.inf).amax(dim)
    return top.masked_fill(top == -torch.inf, torch.nan)


def _spread(maps: Tensor, c: int, spread: Spread, pixels: Tensor) -> Tensor:
    """V of every two maps in class c, [b m m]; see `diversity_agreement`."""
    both, area, _ = overlaps(maps, maps, c)
    a, b = area[:, :, None], area[:, None, :]
    if spread != "variance":
        return 1 - Gauge(spread, absent=1.0).of_class(both, a + b)[0]
    # a difference is -1, 0 or 1: the mean of its square is |A xor B| / pixels, its mean (|A| - |B|) / pixels
    per_pixel = pixels[:, None, None]
    return (a + b - 2 * both) / per_pixel - ((a - b) / per_pixel).square()


def _extremes(v: Tensor, members: Tensor) -> Tensor:
    """Largest and smallest V [2 b] of two different members [b m] of a set; nan where there are not two."""
    others = ~torch.eye(v.shape[1], dtype=torch.bool, device=v.device)
    v = v.masked_fill(~(members[:, :, None] & members[:, None, :] & others), torch.nan).flatten(1)
    return torch.stack([_nanmax(v, 1), -_nanmax(-v, 1)])
