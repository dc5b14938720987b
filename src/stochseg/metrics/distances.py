"""Distances between segmentation maps, by exact counts of pixels. All set scores build on these.

Maps are integer class ids: samples [b n h w], labels [b r h w]; see inputs.py for what else is accepted. IoU of class c
between two maps: |A and B| / |A or B|, A and B being their pixels of class c. Dice: 2 |A and B| / (|A| + |B|). Beside
its input, scoring holds one copy of the maps as uint8 and `ELEMENTS_AT_ONCE` floats, whatever their number.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stochseg.errors import InputError
from stochseg.metrics.conventions import Absent, Convention, Flip, Similarity, get_convention
from stochseg.metrics.inputs import MISSING, as_uint8, check_maps, exact_dtype

ELEMENTS_AT_ONCE = 1 << 24
"""Most mask elements held as float32 at a time: 64 MiB. It also keeps each float32 sum of ones below 2^24: exact."""


PACKED_FROM = 1 << 13
"""Pixels from which on a CPU packed bits are counted faster than float32 is multiplied."""


class SetDistances(NamedTuple):
    """All distances (1 - similarity) within and between the samples and the labels of each image.

    With exactly known label distributions (flips.py) `ys` and `yy` hold expectations over the labels, m is 1 in them.
    """

    ys: Tensor
    """[b n r], sample to label; columns of missing raters hold no meaning."""
    ss: Tensor
    """[b n n], sample to sample."""
    yy: Tensor
    """[b r r], label to label."""
    present: Tensor
    """bool [b r], False where the rater is missing."""
    matched: Tensor
    """[b n r], what matched IoU pairs by: similarity of sample and label; [b n 2^m] of modes."""
    defined: Tensor
    """bool [b], False where no score can be had: all pixels are ignored, or absent classes are left out and no label
    holds a counted class."""
    sizes: tuple[Tensor, Tensor, Tensor] | None = None
    """Where the convention pools: weights of the pairs of ys, ss and yy, the sums of their areas."""
    modes: Tensor | None = None
    """Probabilities [2^m] of the modes that `matched` has columns for; None: labels are what raters gave."""
    drawn: int = 0
    """Samples given, of which a convention may have taken the first ones."""
    exact: bool = False
    """Whether ys and yy are expectations over an exactly known distribution of labels."""


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
    all are absent). Maps of 255 in `b` are missing, their column is nan. Counts are exact, the result is float64 (float32
    on MPS, which has no more). Raises InputError for shapes, types or class ids that do not fit.

    >>> a = torch.tensor([[[[0, 1, 1]]]])  # one image, one map, 1 x 3 pixels
    >>> b = torch.tensor([[[[0, 0, 1]], [[1, 0, 0]]]])  # two maps
    >>> pairwise_iou(a, b).tolist()
    [[[0.5, 0.0]]]
    """
    return _pairwise(a, b, classes, ignore, absent, "iou")


def pairwise_dice(
    a: Tensor,
    b: Tensor,
    classes: int | Sequence[int] = 2,
    ignore: int | None = None,
    absent: Absent = 1.0,
) -> Tensor:
    """Dice coefficient, 2 |A and B| / (|A| + |B|), of every pair; arguments and result as in `pairwise_iou`."""
    return _pairwise(a, b, classes, ignore, absent, "dice")


def set_distances(
    samples: Tensor,
    labels: Tensor,
    classes: int = 2,
    convention: str | Convention = "car",
    ignore: int | None = None,
    flips: Sequence[Flip] | None = None,
) -> SetDistances:
    """Every distance that the scores of sample sets need, each counted once.

    samples: integer [b n h w]; labels: integer [b r h w]. A pixel that any present rater gives the class `ignore` is
    left out of all pairs of its image: only where all terms see the same pixels is the energy distance a distance. An
    image that has no other pixel is undefined.
    Under a convention that leaves absent classes out, two maps without any counted class are at distance 0, and an
    image is undefined where its labels hold none. flips: labels [b 1 h w] whose classes flip, see flips.py.
    Raises InputError for shapes, types or class ids that do not fit, and for an image without any rater.
    """
    if flips is not None:
        from stochseg.metrics.flips import flip_distances

        return flip_distances(samples, labels, flips, classes, convention, ignore)
    convention = get_convention(convention)
    ids = convention.class_ids(classes, ignore)
    samples, labels, present = check_maps(samples, labels, classes)
    drawn = samples.shape[1]
    samples = samples[:, : convention.most_samples]
    n = samples.shape[1]
    maps = leave_out(torch.cat([samples, labels], 1), labels, ignore)
    gauge, matched = gauges(convention)
    holds = torch.zeros_like(present)
    for c in ids:
        both, area, _ = overlaps(maps, maps, c)
        areas = area[:, :, None] + area[:, None, :]
        gauge.add(both, areas)
        if matched is not gauge:
            matched.add(both[:, :n, n:], areas[:, :n, n:])
        holds |= area[:, n:] > 0  # never of a missing rater, whose map holds no class
    d, sizes = 1 - gauge.similarity(identical=1.0), gauge.sizes() if convention.pooled else None
    parts = [(slice(None, n), slice(n, None)), (slice(None, n), slice(None, n)), (slice(n, None), slice(n, None))]
    ys, ss, yy = (d[:, rows, columns] for rows, columns in parts)
    similarity = 1 - ys if matched is gauge else matched.similarity(identical=1.0)
    return SetDistances(
        ys,
        ss,
        yy,
        present,
        similarity,
        seen(labels, ignore) & (holds.any(1) | (convention.absent != "left out")),
        None if sizes is None else tuple(sizes[:, rows, columns] for rows, columns in parts),  # type: ignore[arg-type]
        drawn=drawn,
    )


class Gauge:
    """Similarity of pairs, averaged over classes as they are added; or pooled over classes, with the sums of areas.

    smooth: pixels of overlap granted to every pair; a class that neither map holds still counts as `absent` says.
    """

    def __init__(self, similarity: Similarity, absent: Absent, pooled: bool = False, smooth: float = 0.0) -> None:
        if absent not in (0.0, 1.0, "left out"):
            raise InputError(f"absent is {absent!r}; choose 1.0, 0.0 or 'left out'")
        if not 0 <= smooth < torch.inf:
            raise InputError(f"smooth is {smooth!r}; give a number of pixels from 0 up")
        self.measure, self.absent, self.pooled, self.smooth = similarity, absent, pooled, smooth
        self._total: Tensor | float = 0.0
        self._count: Tensor | float = 0.0

    def add(self, both: Tensor, areas: Tensor) -> None:
        """One class: pixels both maps of a pair have, and the sum of their areas, same shape."""
        score, count = self.of_class(both, areas)
        self._total, self._count = self._total + score, self._count + count

    def of_class(self, both: Tensor, areas: Tensor) -> tuple[Tensor, Tensor]:
        """What one class adds to numerator and denominator."""
        here = areas > 0
        if self.smooth:
            both, areas = both + self.smooth, areas + 2 * self.smooth
        if self.pooled:
            return 2 * both, areas
        score = both / (areas - both) if self.measure == "iou" else 2 * both / areas
        if self.absent == "left out":
            return score.where(here, 0.0), here.to(both.dtype)
        return score.where(here, self.absent), torch.ones_like(both)

    def similarity(self, identical: float) -> Tensor:
        """Of each pair; `identical` for two maps without any class that counts."""
        count = torch.as_tensor(self._count)
        return (self._total / count).where(count > 0, identical)

    def sizes(self) -> Tensor:
        """The denominators: where pooled, the sum of both areas over all classes."""
        return torch.as_tensor(self._count)


def gauges(convention: Convention) -> tuple[Gauge, Gauge]:
    """Of the distance, and of what is matched by; one and the same where the convention matches by its distance."""
    gauge = Gauge(convention.similarity, convention.absent, convention.pooled, convention.smooth)
    if convention.matched in (None, convention.similarity):
        return gauge, gauge
    absent = convention.absent if convention.matched_absent is None else convention.matched_absent
    return gauge, Gauge(convention.matched or convention.similarity, absent, smooth=convention.smooth)


def leave_out(maps: Tensor, labels: Tensor, ignore: int | None) -> Tensor:
    """The maps with every pixel that any label gives the class `ignore` set to no class."""
    return maps if ignore is None else maps.masked_fill((labels == ignore).any(1, keepdim=True), MISSING)


def seen(labels: Tensor, ignore: int | None) -> Tensor:
    """Whether an image has a pixel that `leave_out` leaves in, bool [b]."""
    if ignore is None:
        return labels.new_ones(labels.shape[0], dtype=torch.bool)
    return ~(labels == ignore).any(1).flatten(1).all(1)


def _pairwise(
    a: Tensor, b: Tensor, classes: int | Sequence[int], ignore: int | None, absent: Absent, measure: Similarity
) -> Tensor:
    if not isinstance(classes, Sequence):
        classes = int(classes)
        ids = get_convention("car").class_ids(classes, ignore)
        a, b, present = check_maps(a, b, classes, names=("a", "b"))
    else:
        ids = tuple(c for c in classes if c != ignore)
        a, b, present = check_maps(as_uint8(a, "a"), as_uint8(b, "b"), MISSING + 1, names=("a", "b"))
    if not ids or min(ids) < 0 or max(ids) >= MISSING:
        raise InputError(f"classes={classes} with ignore={ignore} leaves nothing to score; give ids within 0 to 254")
    a, b = leave_out(a, b, ignore), leave_out(b, b, ignore)
    gauge = Gauge(measure, absent)
    for c in ids:
        both, area_a, area_b = overlaps(a, b, c)
        gauge.add(both, area_a[:, :, None] + area_b[:, None, :])
    return gauge.similarity(identical=torch.nan).where(present[:, None], torch.nan)


def overlaps(a: Tensor, b: Tensor, c: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels of class c in both maps of every pair [b n m], and in each map: [b n], [b m]."""
    both = a.new_zeros((a.shape[0], a.shape[1], b.shape[1]), dtype=exact_dtype(a.device))
    area_a, area_b = both.new_zeros(both.shape[:2]), both.new_zeros(both.shape[0], both.shape[2])
    for i in range(a.shape[0]):
        one = a[i]
        for x, y in _masks(one, one if a is b else b[i], c):
            products = _products(x, y)
            both[i] += products
            area_a[i] += products.diagonal() if x is y else x.sum(1)
            area_b[i] += products.diagonal() if x is y else y.sum(1)
    return both, area_a, area_b


def _masks(a: Tensor, b: Tensor, c: int) -> Iterator[tuple[Tensor, Tensor]]:
    """0/1 masks of class c, uint8 [n p] and [m p], in blocks of pixels, without pixels that are empty everywhere.

    Most pixels are (a lesion is small, and of many classes each is), and leaving them out costs less than their part
    of the products.
    """
    maps = a if a is b else torch.cat([a, b])
    for block in torch.split(maps.flatten(1), max(1, ELEMENTS_AT_ONCE // len(maps)), dim=1):
        mask = torch.eq(block, c, out=torch.empty_like(block))  # uint8: on the CPU ten times as fast as to bool
        used = mask.amax(0).nonzero().squeeze(1)
        if len(used) < mask.shape[1] // 4:
            mask = mask.index_select(1, used)
        yield (mask, mask) if a is b else (mask[: len(a)], mask[len(a) :])


def _products(x: Tensor, y: Tensor) -> Tensor:
    """Pixels that are 1 in both, for each row of x [n p] with each of y [m p]; `x is y` halves the work.

    Of many pixels on a CPU packed bits are counted, else float32 is multiplied, exact for 0/1 up to 2^24 pixels.
    """
    if x.device.type == "cpu" and x.shape[1] >= PACKED_FROM and hasattr(np, "bitwise_count"):  # numpy 2
        return torch.from_numpy(_packed_products(_packed(x), None if x is y else _packed(y)))
    with torch.autocast(x.device.type, enabled=False):  # bfloat16 cannot count past 256
        left = x.float()
        return left @ (left if x is y else y.float()).T


def _packed(mask: Tensor) -> NDArray[np.uint64]:
    """64 pixels a word, [n words]."""
    bits = np.packbits(mask.numpy(), axis=1)
    return np.pad(bits, ((0, 0), (0, -bits.shape[1] % 8))).view(np.uint64)


def _packed_products(a: NDArray[np.uint64], b: NDArray[np.uint64] | None) -> NDArray[np.int64]:
    """Ones in common of the rows of a [n words] with those of b [m words], or among themselves: [n m]."""
    if b is not None:
        return np.stack([np.bitwise_count(row & b).sum(1, dtype=np.int64) for row in a])
    found = np.empty((len(a), len(a)), np.int64)
    for i, row in enumerate(a):
        found[i, i:] = found[i:, i] = np.bitwise_count(row & a[i:]).sum(1, dtype=np.int64)
    return found
