"""Scores of how much is marked: the distribution of the lesion's area, and how often there is none at all.

Overlap scores see where a sample lies; these see only its size, so two models with equal overlap can be told apart by
whether the spread of their areas is that of the raters, and whether "there is nothing" comes as often as it should.
The classes counted are 1 to classes-1 but `ignore`; a pixel that any present rater gives the class `ignore` is left
out of the whole image.
"""

import torch
from torch import Tensor

from stochseg.errors import InputError
from stochseg.metrics.conventions import Statistic, get_convention
from stochseg.metrics.distances import leave_out
from stochseg.metrics.inputs import as_uint8, check_labels, check_maps, exact_dtype
from stochseg.metrics.marginals import UNITS
from stochseg.metrics.reliability import ReliabilityCounts


def class_areas(maps: Tensor, classes: int = 2, ignore: int | None = None) -> Tensor:
    """Number of pixels of every counted class in every map: float64 [b n c], c the classes 1 to classes-1 but `ignore`.

    maps: integer [b n h w], samples or labels. nan for a map filled with 255, a missing rater. Raises InputError for
    types, shapes or class ids that do not fit, and for an image without any map.

    >>> class_areas(torch.tensor([[[[0, 1, 1]], [[0, 0, 2]]]]), classes=3).tolist()  # two maps of 1 x 3 pixels
    [[[2.0, 0.0], [0.0, 1.0]]]
    """
    ids = get_convention("car").class_ids(classes, ignore)
    maps = as_uint8(maps, "maps", classes)
    present = check_labels(maps, classes)
    return _areas(maps, present, ids)


def area_crps(
    samples: Tensor,
    labels: Tensor,
    classes: int = 2,
    ignore: int | None = None,
    relative: bool = False,
    statistic: Statistic = "V",
) -> Tensor:
    """Continuous ranked probability score of the area, float64 [b], in pixels; lower is better.

        CRPS = E|A - y| - 1/2 E|A - A'|      (Gneiting & Raftery 2007, doi 10.1198/016214506000001437, section 4.2)

    A and A' are areas of samples, y the area a rater marks; the mean over the present raters and the classes. A
    single sample scores its mean absolute error; a proper score, lowest in expectation for the raters' distribution.
    relative: areas as fractions of the image's counted pixels instead, for images of different sizes; in 0..1 then.
    statistic "V": E|A - A'| is that of the samples as they are, and never makes the score negative; it falls as n
    grows. "U": pairs of a sample with itself are left out, the unbiased ("fair") score of the model behind the
    samples, which can be negative. nan for an image whose pixels are all ignored. Raises InputError for shapes, types
    or ids that do not fit, and for "U" of one sample.

    >>> samples = torch.tensor([[[[0, 1, 1, 1]], [[0, 0, 0, 1]]]])  # areas 3 and 1
    >>> area_crps(samples, torch.tensor([[[[0, 1, 1, 0]]]])).tolist()  # a rater marks 2: 1 - 1/2 * 1
    [0.5]
    """
    ours, theirs, _ = _both_areas(samples, labels, classes, ignore, relative)
    return _crps(ours, theirs, statistic)


def area_energy_distance(
    samples: Tensor,
    labels: Tensor,
    classes: int = 2,
    ignore: int | None = None,
    relative: bool = False,
    statistic: Statistic = "V",
) -> Tensor:
    """Energy distance of the areas of samples A and raters Y, float64 [b], in pixels; lower is better.

        2 E|A - Y| - E|A - A'| - E|Y - Y'| = 2 CRPS - E|Y - Y'|      (Szekely & Rizzo 2013, doi 10.1016/j.jspi.2013.03.018)

    With "V" it is at least 0, and 0 where samples and raters have the same areas equally often; with "U" pairs of a
    map with itself are left out of both sets, which is unbiased and can be negative. Mean over the classes; other
    arguments, nan and errors as in `area_crps`. InputError also for "U" where an image has one rater.

    >>> maps = torch.tensor([[[[0, 1, 1, 1]], [[0, 0, 0, 1]]]])
    >>> area_energy_distance(maps, maps.flip(1)).tolist()
    [0.0]
    """
    ours, theirs, present = _both_areas(samples, labels, classes, ignore, relative)
    if statistic == "U" and bool((present.sum(1) < 2).any()):
        raise InputError("the U statistic leaves self pairs out, and an image has one rater alone; take 'V'")
    return 2 * _crps(ours, theirs, statistic) - mean_difference(theirs, statistic).mean(1)


def empty_probability(samples: Tensor, classes: int = 2, ignore: int | None = None) -> Tensor:
    """P(empty) by the samples: the share of the maps of each image in which no counted class occurs, float64 [b], 0..1.

    samples: integer [b n h w]; of labels, missing raters (255 throughout) do not count. Raises InputError as `class_areas`.

    >>> empty_probability(torch.tensor([[[[0, 0]], [[0, 1]], [[0, 0]], [[0, 0]]]])).tolist()
    [0.75]
    """
    sizes = class_areas(samples, classes, ignore).sum(2)
    return (sizes == 0).sum(1) / (~sizes.isnan()).sum(1).to(sizes.dtype)


def empty_counts(
    samples: Tensor,
    labels: Tensor,
    classes: int = 2,
    bins: int = 10,
    ignore: int | None = None,
    per_image: bool = False,
) -> ReliabilityCounts:
    """The sums behind a reliability curve of P(empty); add those of all batches, then `.curve()` and `.error()`.

    One observation is a present rater of an image: the confidence is the share of empty samples, true where that
    rater's map is empty (no counted class). Bins have equal width and include their upper edge, the first also 0;
    confidences are rounded to multiples of 2^-24, so that sums are exact in any order. The error is in 0..1, lower is
    better, and even a perfect model reaches 0 only with many samples: n of them know P to sqrt(P (1 - P) / n).
    per_image: sums of each image apart, [b bins], for intervals. An image whose pixels are all ignored gives no
    observation. Raises InputError for shapes, types or ids that do not fit.

    >>> samples = torch.tensor([[[[0, 0]], [[0, 1]]]])  # one of two samples is empty
    >>> labels = torch.tensor([[[[0, 0]], [[0, 1]], [[0, 1]], [[0, 1]]]])  # one of four raters marks nothing
    >>> empty_counts(samples, labels).error().item()
    0.25
    """
    if bins < 1:
        raise InputError(f"bins is {bins}; give at least 1")
    confidence, empty, observed = _empties(samples, labels, classes, ignore)
    units = (confidence * UNITS).round()
    # half a unit less: an edge between two multiples is rounded to one of them just as a confidence at the edge is
    index = ((units - 0.5) * (bins / UNITS)).ceil().sub(1).clamp(0, bins - 1).long()
    raters = observed.sum(1).to(units.dtype)
    rows = [
        torch.zeros(len(units), bins, dtype=units.dtype, device=units.device).scatter_(1, index[:, None], each[:, None])
        for each in (raters, units / UNITS * raters, (empty & observed).sum(1).to(units.dtype))
    ]
    found = ReliabilityCounts(*rows)
    return found if per_image else found.sum()


def empty_brier(samples: Tensor, labels: Tensor, classes: int = 2, ignore: int | None = None) -> Tensor:
    """Brier score of P(empty), float64 [b] in 0..1, lower is better: mean over present raters of (p - [empty])^2.

    p is the share of empty samples. nan for an image whose pixels are all ignored; errors as in `empty_counts`.

    >>> samples = torch.tensor([[[[0, 0]], [[0, 1]]]])  # p = 1/2
    >>> empty_brier(samples, torch.tensor([[[[0, 0]], [[0, 1]]]])).tolist()
    [0.25]
    """
    confidence, empty, observed = _empties(samples, labels, classes, ignore)
    errors = (confidence[:, None] - empty.to(confidence.dtype)).square() * observed
    return errors.sum(1) / observed.sum(1)


def counted_pixels(labels: Tensor, ignore: int | None) -> Tensor:
    """How many pixels of each image are scored, [b]: those that no rater of checked labels gives the class `ignore`."""
    keep = torch.ones_like(labels[:, 0], dtype=torch.bool) if ignore is None else ~(labels == ignore).any(1)
    return keep.sum((1, 2)).to(exact_dtype(labels.device))


def _areas(maps: Tensor, present: Tensor, ids: tuple[int, ...]) -> Tensor:
    sizes = maps.new_zeros((*maps.shape[:2], len(ids)), dtype=exact_dtype(maps.device))
    for at, c in enumerate(ids):
        for rows in torch.split(maps, 255, dim=2):  # sums of uint8 are much the fastest, and hold 255
            sizes[:, :, at] += torch.eq(rows, c, out=torch.empty_like(rows)).sum(2, dtype=torch.uint8).sum(2)
    return sizes.masked_fill(~present[..., None], torch.nan)


def _both_areas(
    samples: Tensor, labels: Tensor, classes: int, ignore: int | None, relative: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Areas of samples [b n c] and raters [b r c], nan where a rater is missing or an image has no pixel; present."""
    ids = get_convention("car").class_ids(classes, ignore)
    samples, labels, present = check_maps(samples, labels, classes)
    pixels = counted_pixels(labels, ignore)
    samples, labels = leave_out(samples, labels, ignore), leave_out(labels, labels, ignore)
    drawn = torch.ones_like(samples[:, :, 0, 0], dtype=torch.bool)
    sizes = _areas(samples, drawn, ids), _areas(labels, present, ids)
    if relative:
        ours, theirs = (each / pixels[:, None, None] for each in sizes)  # 0 / 0 of no pixels is nan
    else:
        ours, theirs = (each.where(pixels[:, None, None] > 0, torch.nan) for each in sizes)
    return ours, theirs, present


def _crps(ours: Tensor, theirs: Tensor, statistic: Statistic) -> Tensor:
    """[b] from areas [b n c] and [b r c], in which missing raters are nan."""
    if statistic not in ("V", "U"):
        raise InputError(f"statistic is '{statistic}'; choose 'V' (self pairs stay) or 'U' (they are left out)")
    if statistic == "U" and ours.shape[1] < 2:
        raise InputError("the U statistic leaves self pairs out, and one sample has no other; draw more, or take 'V'")
    off = (ours[:, :, None] - theirs[:, None]).abs().nanmean((1, 2))  # [b c]
    return (off - mean_difference(ours, statistic) / 2).mean(1)


def mean_difference(values: Tensor, statistic: Statistic) -> Tensor:
    """Mean |x - x'| over pairs within a set, [b c] from [b m c], nan being left out: all pairs (V), distinct ones (U).

    In order x_0 <= x_1 <= ..., the one at place i is the larger of i pairs and the smaller of m - 1 - i.
    """
    m = (~values.isnan()).sum(1, keepdim=True)
    place = torch.arange(values.shape[1], device=values.device)[:, None]
    ordered = values.sort(1).values  # nan comes last
    total = 2 * ((2 * place - m + 1) * ordered).nansum(1)
    pairs = m * m if statistic == "V" else m * (m - 1)
    return total / pairs.squeeze(1)


def _empties(samples: Tensor, labels: Tensor, classes: int, ignore: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Share of empty samples [b]; whether a rater's map is empty, and whether it is an observation, bool [b r]."""
    ours, theirs, present = _both_areas(samples, labels, classes, ignore, relative=False)
    seen = ~ours.isnan().any(2).any(1)
    share = (ours.sum(2) == 0).sum(1) / torch.tensor(ours.shape[1], dtype=ours.dtype, device=ours.device)
    return share, theirs.sum(2) == 0, present & seen[:, None]
