"""Images larger than those of training in overlapping tiles under one z: each sample is one hypothesis for the whole.

q and the logits of samples are means over the tiles that see a pixel, by smooth windows, before any class is taken; the
second network sees the q that the first one's tiles gave together. Memory is that of a strip one tile high and of the result.

The choice of the empty map has one number u for the image: how sure the sample wants to be. It is made for each region
of marked pixels that touch: a region stays where u is at least P(empty), the mean over its pixels of what their tiles
say. So no object is cut where a tile ends, a strict sample leaves out what is doubtful everywhere, and an image of one
tile is sampled as it would be without tiles.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from stochseg.models.class_maps import class_maps
from stochseg.models.interfaces import RefinementNet
from stochseg.sampling.sample import PIXELS_AT_ONCE
from stochseg.sampling.tiling import Tiling

NUMBERS_AT_ONCE = 2**26
"""Logits of a strip of all samples that are in work at once (256 MB); more samples are drawn one group after another."""
TOUCHING = np.ones((3, 3), bool)
"""Pixels touch at their corners too."""


def tiled_marginals(
    marginals: Callable[[Tensor, Tensor | None], Tensor], x: Tensor, seen: Tensor | None, tiling: Tiling
) -> Tensor:
    """q [1 k h w] of one image x [1 c h w], and of what is seen of a black box [1 k h w].

    marginals: probabilities [t k h w] of tiles.
    """
    x, padded_seen = _padded(x, tiling), None if seen is None else _padded(seen, tiling)
    h, w = tiling.size

    def row(y: int) -> Iterator[Tensor]:
        for columns in _groups(tiling, 1):
            part = None if padded_seen is None else _cut(padded_seen, tiling, y, columns)
            yield from marginals(_cut(x, tiling, y, columns), part)

    return torch.cat([rows for _, rows in _blended(tiling, row)], 1)[None, :, :h, :w]


def draw_tiled(refinement: RefinementNet, x: Tensor, q: Tensor, z: Tensor, tiling: Tiling) -> Tensor:
    """Class maps uint8 [1 n h w] of one image x [1 c h w] with q [1 k h w]; z: [1 n latent + cells], see `tiling.py`."""
    x, q = _padded(x, tiling), _padded(q, tiling)
    strip = q.shape[1] * tiling.rows.tile * tiling.columns.padded
    groups = z[0].split(max(1, NUMBERS_AT_ONCE // strip))
    return torch.cat([_draw_group(refinement, x, q, group, tiling) for group in groups])[None]


def _draw_group(refinement: RefinementNet, x: Tensor, q: Tensor, z: Tensor, tiling: Tiling) -> Tensor:
    """[n h w] for z [n latent + cells]."""
    n, k = len(z), q.shape[1]
    h, w = tiling.size
    doubts = False

    def row(y: int) -> Iterator[Tensor]:
        """Logits of all samples, and P(empty) where the network has that choice: [n*k (+ 1) h w] a tile."""
        nonlocal doubts
        for columns in _groups(tiling, n):
            features = refinement.encode(_cut(x, tiling, y, columns), _cut(q, tiling, y, columns))
            own = torch.stack(
                [tiling.seen_by_tile(z, refinement.latent, refinement.field_part, y, left) for left in columns]
            )
            logits, choice = refinement.hypotheses(features, own)
            if choice is None:
                yield from logits.float().flatten(1, 2)
                continue
            doubts = True
            found = choice.shapes_of(own, logits).float().flatten(1, 2)
            empty = choice.drawn[:, None, None, None].expand(-1, 1, *found.shape[2:])
            yield from torch.cat([found, empty.to(found)], 1)

    maps = torch.empty(n, h, w, dtype=torch.uint8, device=x.device)
    empty = torch.empty(h, w)
    for y, rows in _blended(tiling, row):
        rows = rows[:, : h - y, :w]
        maps[:, y : y + rows.shape[1]] = class_maps(rows[: n * k].unflatten(0, (n, k)))
        if doubts:
            empty[y : y + rows.shape[1]] = rows[-1].cpu()
    if not doubts:
        return maps
    sureness = torch.special.ndtr(z[:, refinement.latent - 1].double())
    chosen = [
        without_doubtful(one, empty.numpy(), float(u)) for one, u in zip(maps.cpu().numpy(), sureness, strict=True)
    ]
    return torch.from_numpy(np.stack(chosen)).to(maps.device)


def without_doubtful(map_: NDArray[np.uint8], empty: NDArray[np.floating], sureness: float) -> NDArray[np.uint8]:
    """The map [h w] without the regions whose mean P(empty) [h w] lies above `sureness`; class 0 is nothing."""
    regions, count = ndimage.label(map_, TOUCHING)
    if not count:
        return map_
    doubt = ndimage.mean(empty, regions, np.arange(1, count + 1))
    gone = np.concatenate([[False], sureness < np.asarray(doubt)])
    return np.where(gone[regions], np.uint8(0), map_)


def _blended(tiling: Tiling, row: Callable[[int], Iterable[Tensor]]) -> Iterator[tuple[int, Tensor]]:
    """Finished rows of the padded image from the top: (the number of the first, [c rows w]).

    row: the tiles [c h w] that begin at a row, from left to right. Only a strip one tile high is held.
    """
    starts, columns = tiling.rows.starts, tiling.columns
    total: Tensor | None = None
    mass = weights = torch.empty(0)
    for y, following in zip(starts, (*starts[1:], tiling.rows.padded)):
        for x, tile in zip(columns.starts, row(y), strict=True):
            if total is None:
                device = tile.device
                weights = tiling.rows.window(device)[:, None] * columns.window(device)
                total = torch.zeros(len(tile), tiling.rows.tile, columns.padded, device=device)
                mass = torch.zeros(total.shape[1:], device=device)
            total[..., x : x + columns.tile] += tile * weights
            mass[:, x : x + columns.tile] += weights
        assert total is not None
        done = following - y
        yield y, total[:, :done] / mass[:done]
        total, mass = (F.pad(rest[..., done:, :], (0, 0, 0, done)) for rest in (total, mass))


def _groups(tiling: Tiling, n: int) -> Iterator[tuple[int, ...]]:
    """The columns where tiles begin, as many together as may be in work with n samples each."""
    starts = tiling.columns.starts
    together = max(1, PIXELS_AT_ONCE // (tiling.rows.tile * tiling.columns.tile * n))
    for first in range(0, len(starts), together):
        yield starts[first : first + together]


def _cut(image: Tensor, tiling: Tiling, y: int, columns: Iterable[int]) -> Tensor:
    """Tiles [t c h w] of a padded image [1 c h w]."""
    rows = image[:, :, y : y + tiling.rows.tile]
    tiles = torch.cat([rows[..., x : x + tiling.columns.tile] for x in columns])
    return tiles.contiguous(memory_format=torch.channels_last)


def _padded(image: Tensor, tiling: Tiling) -> Tensor:
    """By reflection, less than a cell."""
    below, right = tiling.rows.padded - image.shape[-2], tiling.columns.padded - image.shape[-1]
    return F.pad(image, (0, right, 0, below), mode="reflect") if below or right else image
