"""Distances between segmentation maps, by exact counts of pixels. All set scores build on these.

Maps are integer class ids: samples [b n h w], labels [b r h w]. A label map filled with 255 is a rater who did not
annotate that image. IoU of class c between two maps: |A and B| / |A or B|, A and B being their pixels of class c.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stochseg.errors import InputError
from stochseg.metrics.conventions import Absent, Convention, get_convention

MISSING = 255
"""Fills the label map of a rater who is missing; within scoring also what an ignored pixel is set to."""

ELEMENTS_AT_ONCE = 1 << 24
"""Most mask elements held as float32 at a time: 64 MiB. It also keeps each float32 sum of ones below 2^24: exact."""


class SetDistances(NamedTuple):
    """All distances (1 - mean IoU) within and between the samples and the labels of each image."""

    ys: Tensor
    """[b n r], sample to label; columns of missing raters hold no meaning."""
    ss: Tensor
    """[b n n], sample to sample."""
    yy: Tensor
    """[b r r], label to label."""
    present: Tensor
    """bool [b r], False where the rater is missing."""


def pairwise_iou(
    a: Tensor,
    b: Tensor,
    classes: int | Sequence[int] = 2,
    ignore: int | None = None,
    absent: Absent = 1.0,
) -> Tensor:
    """IoU of every map of `a` [b n h w] with every map of `b` [b m h w], averaged over classes: [b n m] in 0..1.

    classes: how many there are, all but the background 0 being averaged, or the ids to average, any other value being
    background then. ignore: a class id; a pixel that any map of `b` gives this class is left out of the whole image.
    absent: what a class that neither map of a pair holds counts as, 1.0 or 0.0, or "left out" of the mean (nan where
    all are absent). Counts are exact, the result is float64 (float32 on MPS, which has no more). Raises InputError
    for shapes, types or class ids that do not fit.

    >>> a = torch.tensor([[[[0, 1, 1]]]])  # one image, one map, 1 x 3 pixels
    >>> b = torch.tensor([[[[0, 0, 1]], [[1, 0, 0]]]])  # two maps
    >>> pairwise_iou(a, b).tolist()
    [[[0.5, 0.0]]]
    """
    return _pairwise(a, b, classes, ignore, absent, iou=True)


def pairwise_dice(
    a: Tensor,
    b: Tensor,
    classes: int | Sequence[int] = 2,
    ignore: int | None = None,
    absent: Absent = 1.0,
) -> Tensor:
    """Dice coefficient, 2 |A and B| / (|A| + |B|), of every pair; arguments and result as in `pairwise_iou`."""
    return _pairwise(a, b, classes, ignore, absent, iou=False)


def set_distances(
    samples: Tensor,
    labels: Tensor,
    classes: int = 2,
    convention: str | Convention = "car",
    ignore: int | None = None,
) -> SetDistances:
    """Every distance that the scores of sample sets need, each counted once.

    samples: integer [b n h w]; labels: integer [b r h w]. A pixel that any present rater gives the class `ignore` is
    left out of all pairs of its image: only where all terms see the same pixels is the energy distance a distance.
    Raises InputError for shapes, types or class ids that do not fit, and for an image without any rater.
    """
    convention = get_convention(convention)
    ids = convention.class_ids(classes, ignore)
    samples, labels, present = check_maps(samples, labels, classes)
    n = samples.shape[1]
    maps = torch.cat([samples, labels], 1)
    if ignore is not None:
        maps = maps.masked_fill((labels == ignore).any(1, keepdim=True), MISSING)
    d = 1 - _mean_over_classes(maps, maps, ids, convention.absent, iou=True)
    return SetDistances(d[:, :n, n:], d[:, :n, :n], d[:, n:, n:], present)


def check_maps(
    samples: Tensor, labels: Tensor, classes: int, names: tuple[str, str] = ("samples", "labels")
) -> tuple[Tensor, Tensor, Tensor]:
    """Samples and labels as uint8, and which raters are present, bool [b r]; InputError where they cannot be scored."""
    samples, labels = as_uint8(samples, names[0]), as_uint8(labels, names[1])
    if samples.shape[0] != labels.shape[0] or samples.shape[2:] != labels.shape[2:]:
        raise InputError(
            f"{names[0]} have shape {list(samples.shape)} and {names[1]} {list(labels.shape)}; "
            "[b n h w] and [b r h w] must agree in b, h and w"
        )
    if samples.device != labels.device:
        raise InputError(f"{names[0]} are on {samples.device} and {names[1]} on {labels.device}; move one with .to()")
    highest = int(samples.amax())
    if highest >= classes:
        raise InputError(
            f"{names[0]} hold class {highest}, classes={classes} takes 0 to {classes - 1}; "
            "raise classes, or renumber masks 0/255 to 0/1"
        )
    return samples, labels, check_labels(labels, classes)


def check_labels(labels: Tensor, classes: int) -> Tensor:
    """Which raters are present, bool [b r], in uint8 labels [b r h w]; InputError for other ids or nobody present."""
    flat = labels.flatten(2)
    present = flat.amin(-1) != MISSING
    highest = int((flat.amax(-1) * present).amax())
    if highest >= classes:
        raise InputError(
            f"labels hold class {highest}, classes={classes} takes 0 to {classes - 1} "
            f"({MISSING} only as a whole map, for a missing rater); renumber the labels, masks 0/255 to 0/1"
        )
    nobody = (~present).all(1).nonzero().flatten().tolist()
    if nobody:
        raise InputError(f"labels of image {nobody[0]} of the batch are all {MISSING}: no rater; leave the image out")
    return present


def as_uint8(maps: Tensor, what: str) -> Tensor:
    """Integer or bool maps [b n h w] as uint8; InputError for anything else."""
    if not isinstance(maps, Tensor):
        raise InputError(f"{what} are {type(maps).__name__}; give a tensor (torch.from_numpy makes one)")
    if maps.dtype.is_floating_point or maps.dtype.is_complex:
        raise InputError(f"{what} are {maps.dtype}; give integer class ids (argmax of probabilities over classes)")
    if maps.ndim != 4 or 0 in maps.shape:
        raise InputError(f"{what} have shape {list(maps.shape)}; give [images, maps, height, width], none of them 0")
    if maps.dtype in (torch.uint8, torch.bool):
        return maps.to(torch.uint8)
    if int(maps.amin()) < 0 or int(maps.amax()) > MISSING:
        raise InputError(f"{what} hold ids {int(maps.amin())} to {int(maps.amax())}; class ids lie in 0 to 254")
    return maps.to(torch.uint8)


def exact_dtype(device: torch.device) -> torch.dtype:
    """float64, but float32 on MPS."""
    return torch.float32 if device.type == "mps" else torch.float64


def _pairwise(
    a: Tensor, b: Tensor, classes: int | Sequence[int], ignore: int | None, absent: Absent, iou: bool
) -> Tensor:
    if isinstance(classes, int):
        ids = get_convention("car").class_ids(classes, ignore)
        a, b, _ = check_maps(a, b, classes, names=("a", "b"))
    else:
        ids = tuple(c for c in classes if c != ignore)
        a, b, _ = check_maps(a, b, MISSING + 1, names=("a", "b"))
    if not ids or min(ids) < 0 or max(ids) >= MISSING:
        raise InputError(f"classes={classes} with ignore={ignore} leaves nothing to score; give ids within 0 to 254")
    if ignore is not None:
        out = (b == ignore).any(1, keepdim=True)
        a, b = a.masked_fill(out, MISSING), b.masked_fill(out, MISSING)
    return _mean_over_classes(a, b, ids, absent, iou)


def _mean_over_classes(a: Tensor, b: Tensor, ids: Sequence[int], absent: Absent, iou: bool) -> Tensor:
    total: Tensor | float = 0.0
    counted: Tensor | float = 0.0
    for c in ids:
        both, area_a, area_b = _overlaps(a, b, c)
        areas = area_a[:, :, None] + area_b[:, None, :]
        here = areas > 0
        score = both / (areas - both) if iou else 2 * both / areas
        score = score.where(here, 0.0 if absent == "left out" else absent)
        total = total + score
        counted = counted + (here if absent == "left out" else 1)
    return torch.as_tensor(total / counted)


def _overlaps(a: Tensor, b: Tensor, c: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels of class c in both maps of every pair [b n m], and in each map: [b n], [b m]."""
    both = a.new_zeros((a.shape[0], a.shape[1], b.shape[1]), dtype=exact_dtype(a.device))
    area_a, area_b = both.new_zeros(both.shape[:2]), both.new_zeros(both.shape[0], both.shape[2])
    with torch.autocast(a.device.type, enabled=False):  # bfloat16 cannot count past 256
        for i in range(a.shape[0]):
            for x, y in _masks(a[i], b[i], c):
                both[i] += x @ y.T
                area_a[i] += x.sum(1)
                area_b[i] += y.sum(1)
    return both, area_a, area_b


def _masks(a: Tensor, b: Tensor, c: int) -> Iterator[tuple[Tensor, Tensor]]:
    """0/1 masks of class c as float32 [n p] and [m p], in blocks of pixels, without pixels that are empty everywhere.

    Most pixels are (a lesion is small, and of many classes each is), and leaving them out costs less than their part
    of the product. Products of 0/1 in float32 are exact up to 2^24 pixels.
    """
    maps = a if a is b else torch.cat([a, b])
    for block in torch.split(maps.flatten(1), max(1, ELEMENTS_AT_ONCE // len(maps)), dim=1):
        mask = torch.eq(block, c, out=torch.empty_like(block))  # uint8: on the CPU ten times as fast as to bool
        used = mask.amax(0).nonzero().squeeze(1)
        if len(used) < mask.shape[1] // 4:
            mask = mask.index_select(1, used)
        x = mask.float()
        yield (x, x) if a is b else (x[: len(a)], x[len(a) :])
