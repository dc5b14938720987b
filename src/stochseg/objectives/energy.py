"""The energy loss: the squared distance between two distributions of maps, estimated without bias from samples of both.

    2 mean_ij d(s_i, y_j) - spread * mean_(i != j) d(s_i, s_j)        samples s, labels y

d is 1 minus a similarity K, both means over the counted classes. O is the overlap of two maps, A and B their areas, in
pixels; e = `smooth` pixels of overlap are granted to every pair:

    kernel    O, for soft maps    K
    minmax    sum min(s, y)       (O + e) / (A + B - O + e)      IoU
    product   sum s y             the same
    dice      sum min(s, y)       2 (O + e) / (A + B + 2 e)      Dice
    crps      sum min(s, y)       1 - (A + B - 2 O) / pixels     so that d = mean |s - y|

Every K is positive semidefinite on soft maps (a test looks at all maps of few pixels): with `spread` 1 the loss plus
the labels' own term, - mean d(y, y'), is the unbiased squared MMD of both distributions (Gretton et al. 2012; energy
distance: Szekely & Rizzo 2013), and no sampler has less expected loss than one that draws as the raters do. What a
kernel can tell apart differs:

- IoU: every two distributions of a class's maps. On hard maps both overlaps are the same. Between equal blurred maps
  "minmax" has d = 0, while "product" sees a difference even there: it takes blur for diversity.
- Dice is of negative type too (1 / (A + B) is a mixture of exp(-tA) exp(-tB)), though no metric, but blind: of all maps
  of one area it sees only how likely each pixel is. To it, half {1, 2} and half {3, 4} is half {1, 3} and half {2, 4}.
- CRPS: only how likely each pixel is, by itself: pixels drawn independently are as good as the truth, and it says
  nothing of shapes. For hard maps it is the Brier score of those likelihoods; `smooth` has no part in it.

Of several classes each is compared by itself, here as in the metric: which maps of two classes go together is not seen.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stochseg.errors import InputError
from stochseg.objectives.pixels import full_precision

Kernel = Literal["minmax", "product", "dice", "crps"]
KERNELS: tuple[Kernel, ...] = ("minmax", "product", "dice", "crps")

NOTHING = 1e-6
"""Pixels. With smooth = 0, two maps whose areas add up to less count as empty: K = 1 (0/0), without a gradient."""


def energy_loss(
    samples: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    kernel: Kernel = "minmax",
    smooth: float = 1.0,
    ignore: int | None = None,
    spread: float | Tensor = 1.0,
    sample_weights: Tensor | None = None,
    empty: Tensor | None = None,
    counted: Sequence[int] | None = None,
    present: Tensor | None = None,
    ignored: Tensor | None = None,
    block: int = 1,
    whole: bool = False,
) -> Tensor:
    """Energy loss of each image, [b], in float32 (float64 for float64); see the module for the equation.

    samples: soft maps [b n k h w], n >= 2; labels: one-hot or soft maps [b r k h w], zeros for a missing rater;
    weights: [b r], how much each rater counts, 0 for a missing one (default: those present equally); sample_weights:
    [b n], the same for the samples, of which two or more count; either need not add up to 1, and passes gradients on.
    Classes 1..k-1 count but for `ignore`, or those `counted`, such as the classes that flip; of them, in an
    image, those `present`, bool [b k], alike if there is none: a class that no label has, be it ever so small in a soft
    map, would weigh as much as one that is there. ignored: bool [b h w], pixels
    that count in no map, where they were not masked in all maps before (`mask_ignored`). block: side of the blocks of
    pixels that are summed before: a Jaccard of the counts in blocks, of negative type as well, blind inside a block.

    whole: the weighted samples are all that can be drawn, so that two draws may be the same map, at distance 0: the loss is
    then its exact expectation, not an estimate.

    empty: [b], the probability that a draw is the map without anything instead of one of these samples. It enters by its
    exact expectation, so that its gradient has no noise of draws.

    spread: weight of the repelling term, a number or [b]. 1 is the unbiased squared MMD. (m - 1) / m is the expected
    V statistic of m samples, what a GED of m samples scores: 15/16 for GED16; its best sampler is a little less diverse
    than the raters.

    On hard maps with smooth = e it is, up to the raters' own constant d_yy, the U statistic of
    `metrics.generalized_energy_distance` under `replace(get_convention("car"), smooth=e)` (similarity="dice" for Dice).
    Gradients are finite with smooth > 0, and with 0 too, though up to 1 / NOTHING: nearly empty maps are steep, and
    empty ones have none. Raises InputError for a kernel that is not known, product in blocks, a single sample, and no
    class left.
    """
    n = samples.shape[1]
    if kernel not in KERNELS:
        raise InputError(f"kernel is '{kernel}'; choose one of {', '.join(KERNELS)}")
    if n < 2:
        raise InputError(f"samples hold {n} map an image; the energy loss compares samples: draw 2 or more")
    if weights is None:
        weights = labels.detach().flatten(2).any(2)
    pixels = samples.shape[-2] * samples.shape[-1]
    s, area_s, area_y, shares, d_sy = _against_labels(
        samples, labels, kernel, smooth, ignore, counted, present, ignored, block
    )
    if sample_weights is None:
        sample_weights = s.new_ones(s.shape[:2])
    first, second = torch.triu_indices(n, n, 1, device=s.device)
    with torch.autocast(s.device.type, enabled=False):  # bfloat16 cannot count pixels
        areas = area_s[:, first] + area_s[:, second]
        d_ss = _distance(_overlaps_within(s, areas, kernel, block), areas, shares, kernel, smooth, pixels)  # [b pairs]
    w_sy = sample_weights[:, :, None] * weights[:, None]
    w_ss = sample_weights[:, first] * sample_weights[:, second]
    near = (d_sy * w_sy).sum((1, 2)) / w_sy.sum((1, 2))
    apart = (d_ss * w_ss).sum(1) / (sample_weights.sum(1).square() / 2 if whole else w_ss.sum(1))
    if empty is not None:
        d_ey, d_es = (_distance(torch.zeros_like(a), a, shares, kernel, smooth, pixels) for a in (area_y, area_s))
        d_ey = (d_ey * weights).sum(1) / weights.sum(1)
        d_es = (d_es * sample_weights).sum(1) / sample_weights.sum(1)
        near = torch.lerp(near, d_ey, empty)
        apart = (1 - empty).square() * apart + 2 * empty * (1 - empty) * d_es  # two empty maps are alike
    loss: Tensor = 2 * near - spread * apart
    return loss


def nearest_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    kernel: Kernel = "minmax",
    smooth: float = 1.0,
    ignore: int | None = None,
    counted: Sequence[int] | None = None,
    present: Tensor | None = None,
    ignored: Tensor | None = None,
    block: int = 1,
) -> Tensor:
    """Cross entropy of each rater's map under the shape nearest to it, for each image, in nats, mean over pixels and
    raters, [b]; 0 for a rater who marks nothing, whom no shape is to fit.

        mean_j mean_pixels -log s_i(y_j),    i = argmin_i d(s_i, y_j)

    logits: shapes [b m k h w]; the distance and the other arguments are those of `energy_loss`. Multiple choice learning
    (Guzman-Rivera et al. 2012). To the energy loss a shape counts as much as it is likely to be drawn, and through the softmax
    of pixels that are sure already it has no gradient: shapes that look alike stay so, a rare answer gets none, and
    one that is never drawn learns nothing. The cross entropy of the nearest is as steep as it is wrong.
    """
    if weights is None:
        weights = labels.detach().flatten(2).any(2)
    logits = full_precision(logits)
    with torch.no_grad():
        _, _, area_y, _, distances = _against_labels(
            logits.softmax(2), labels, kernel, smooth, ignore, counted, present, ignored, block
        )
        marking = weights * (area_y.sum(-1) > 0)
    rows = torch.arange(len(logits), device=logits.device)[:, None]
    nearest = logits[rows, distances.argmin(1)].log_softmax(2)  # [b r k h w]
    surprise = -nearest * labels  # [b r k h w]
    if ignore is not None:
        surprise = surprise * (torch.arange(surprise.shape[2], device=surprise.device) != ignore)[:, None, None]
    surprise = surprise.sum(2)
    if ignored is not None:
        surprise = surprise * ~ignored[:, None]
    each: Tensor = (surprise.mean((2, 3)) * marking).sum(1) / weights.sum(1)
    return each


def mean_of_samples(samples: Tensor, empty: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """The mean [b k h w] of soft maps [b n k h w], of which a share `empty` [b] is the map without anything instead.

    weights: [b n], rows summing to 1, how likely each map is; default: equally.
    """
    s = full_precision(samples)
    mean = s.mean(1) if weights is None else torch.einsum("bnkhw,bn->bkhw", s, weights.to(s.dtype))
    if empty is None:
        return mean
    nothing = torch.zeros_like(mean)
    nothing[:, 0] = 1
    return torch.lerp(mean, nothing, empty[:, None, None, None])


def marginal_cross_entropy(mean: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of the samples' mean against the raters' mean, in nats, mean over pixels: a scalar.

    mean: [b k h w]; target: the raters' frequencies [b k h w], rows of zeros where a pixel is ignored.
    It holds the pixel marginals, and leads out of the all-empty answer, where the energy loss has little gradient.
    """
    return -(target * mean.clamp_min(1e-6).log()).sum(1).mean()


def marginal_brier(
    samples: Tensor, target: Tensor, empty: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """Squared distance of the samples' mean from the raters' mean, summed over classes, mean over pixels: a scalar.

        1/(n (n-1)) sum_(i != j) s_i s_j - 2 mean_i s_i t + t^2

    samples: soft maps [b n k h w], n >= 2; target: the raters' frequencies t [b k h w], rows of zeros where a pixel is
    ignored, which counts 0; empty: [b], the share of draws that are the map without anything instead. Unbiased for any n
    (so it can be negative), unlike the cross entropy of a mean of few samples, which prefers soft maps to rare hard ones.
    weights: [b n], rows summing to 1, where the maps are all that can be drawn: their mean is then known, not estimated.
    """
    if weights is not None:
        t = full_precision(target)
        valid = t.sum(1) > 0
        return ((mean_of_samples(samples, empty, weights) - t).square().sum(1) * valid).mean()
    s, t = full_precision(samples), full_precision(target)
    n = s.shape[1]
    if n < 2:
        raise InputError(f"samples hold {n} map an image; their unbiased Brier score takes 2 or more")
    mean = s.mean(1)
    pairs = ((n * mean.square() - s.square().mean(1)) / (n - 1)).sum(1)  # [b h w]
    if empty is not None:
        e = empty[:, None, None]
        pairs = (1 - e).square() * pairs + 2 * e * (1 - e) * mean[:, 0] + e.square()
        mean = mean_of_samples(samples, empty)
    valid = t.sum(1) > 0
    return ((pairs + (t * (t - 2 * mean)).sum(1)) * valid).mean()


def empty_cross_entropy(empty: Tensor, labels: Tensor, weights: Tensor, ignore: int | None = None) -> Tensor:
    """Cross entropy of a P(empty) [b] against the share of maps that mark nothing, in nats: a scalar.

    labels: one-hot maps [b r k h w], of raters or samples; weights: [b r], rows summing to 1, 0 for a missing rater.
    `ignore` marks nothing.
    """
    marked = labels[:, :, 1:].sum(2)  # [b r h w]
    if ignore:
        marked = marked - labels[:, :, ignore]
    share = (~marked.flatten(2).any(2) * weights).sum(1)
    p = full_precision(empty).clamp(1e-6, 1 - 1e-6)
    return -(share * p.log() + (1 - share) * (1 - p).log()).mean()


class _Compared(NamedTuple):
    """Maps beside labels: s [b m k-1 hw], areas of maps and labels [b m k-1] and [b r k-1], class shares [b k-1], and
    the distance of every map to every label [b m r]; k-1 stands for the classes that count."""

    s: Tensor
    area_s: Tensor
    area_y: Tensor
    shares: Tensor
    d_sy: Tensor


def _against_labels(
    maps: Tensor,
    labels: Tensor,
    kernel: Kernel,
    smooth: float,
    ignore: int | None,
    counted: Sequence[int] | None,
    present: Tensor | None,
    ignored: Tensor | None,
    block: int,
) -> _Compared:
    """Soft maps [b m k h w] and labels [b r k h w]; arguments as those of `energy_loss`."""
    if kernel == "product" and block > 1:
        raise InputError(f"block is {block}; the product kernel compares single pixels: take minmax, or block 1")
    counted_ids = _counted_ids(maps.shape[2], ignore, counted)
    s = full_precision(_in_blocks(_counted(maps, counted_ids, ignored), block)).flatten(3)
    y = _in_blocks(_counted(labels, counted_ids, ignored), block).to(s.dtype).flatten(3)
    pixels = maps.shape[-2] * maps.shape[-1]
    area_s, area_y = s.sum(-1), y.sum(-1)
    shares = _class_shares(present, counted_ids, s)
    with torch.autocast(s.device.type, enabled=False):  # bfloat16 cannot count pixels
        areas = area_s[:, :, None] + area_y[:, None]
        d_sy = _distance(_overlaps(s, y, areas, kernel, block), areas, shares, kernel, smooth, pixels)
    return _Compared(s, area_s, area_y, shares, d_sy)


def _counted_ids(k: int, ignore: int | None, counted: Sequence[int] | None) -> list[int]:
    classes = [c for c in (range(1, k) if counted is None else sorted(counted)) if c != ignore]
    if not classes:
        raise InputError(f"{k} classes with ignore={ignore} leave none to compare; raise classes")
    return classes


def _counted(maps: Tensor, classes: list[int], ignored: Tensor | None) -> Tensor:
    """The classes that count, of maps [b m k h w], without their ignored pixels."""
    if classes[-1] - classes[0] < len(classes):
        maps = maps[:, :, classes[0] : classes[-1] + 1]  # no copy
    else:
        maps = torch.stack([maps[:, :, c] for c in classes], 2)
    return maps if ignored is None else maps * ~ignored[:, None, None]


def _class_shares(present: Tensor | None, classes: list[int], like: Tensor) -> Tensor:
    """How much each counted class weighs in the mean over classes, [b k-1]."""
    if present is None:
        return like.new_full((len(like), len(classes)), 1 / len(classes))
    there = torch.stack([present[:, c] for c in classes], 1).to(like.dtype)
    there = torch.where(there.any(1, keepdim=True), there, 1.0)
    return there / there.sum(1, keepdim=True)


def _in_blocks(maps: Tensor, block: int) -> Tensor:
    """Sums over blocks of pixels of maps [b m k h w]; blocks at the lower and right edge may be smaller."""
    if block == 1:
        return maps
    summed = F.avg_pool2d(maps.flatten(0, 1), block, ceil_mode=True, divisor_override=1)
    blocks: Tensor = summed.unflatten(0, maps.shape[:2])
    return blocks


def _distance(both: Tensor, areas: Tensor, shares: Tensor, kernel: Kernel, smooth: float, pixels: int) -> Tensor:
    """d of pairs, [b ...], from their overlaps and sums of areas, [b ... k-1], as a mean by the classes' shares [b k-1]."""
    shares = shares.view(len(shares), *(1,) * (areas.ndim - 2), -1)
    if kernel == "crps":
        return ((areas - 2 * both) * shares).sum(-1) / pixels
    empty = areas < NOTHING
    both, areas = both + smooth, areas + 2 * smooth
    above, below = (2 * both, areas) if kernel == "dice" else (both, areas - both)
    if smooth == 0:
        above, below = above.masked_fill(empty, 1), below.masked_fill(empty, 1)
    return 1 - (above / below * shares).sum(-1)


def _overlaps(s: Tensor, y: Tensor, areas: Tensor, kernel: Kernel, block: int) -> Tensor:
    """Overlap of every sample with every label, [b n r k-1]."""
    if kernel == "product" or _is_hard(y, block):  # then min(s, y) = s y, and a matrix product is cheaper
        return torch.einsum("bnkp,brkp->bnrk", s, y)
    apart = [(s - y[:, j : j + 1]).abs().sum(-1) for j in range(y.shape[1])]
    return (areas - torch.stack(apart, 2)) / 2  # min(s, y) = (s + y - |s - y|) / 2


def _overlaps_within(s: Tensor, areas: Tensor, kernel: Kernel, block: int) -> Tensor:
    """Overlap of each two samples, [b pairs k-1], pairs in the order of `torch.triu_indices`."""
    n = s.shape[1]
    if kernel == "product" or _is_hard(s, block):
        first, second = torch.triu_indices(n, n, 1, device=s.device)
        return torch.einsum("bnkp,bmkp->bnmk", s, s)[:, first, second]
    apart = [(s[:, i : i + 1] - s[:, i + 1 :]).abs().sum(-1) for i in range(n - 1)]
    return (areas - torch.cat(apart, 1)) / 2


def _is_hard(y: Tensor, block: int) -> bool:
    """Whether min(a, y) = a y for all maps a, up to 1 at each pixel: y are 0 and 1 alone, and no gradient is asked for.

    A GPU is not asked: the answer would be waited for, and saves little there.
    """
    return block == 1 and not y.requires_grad and not y.is_cuda and bool(((y == 0) | (y == 1)).all())
