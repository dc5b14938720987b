"""Where the tiles of a large image lie, and what z means over all of them together.

z = [global, field, classes, choice] is made for images of the training size. In an image cut into tiles of that size

- the global part and the numbers of classes are the same for every tile;
- the field has cells as large as in training, over the whole image, and every tile sees its own 8x8 of them. Tiles begin
  where cells do, so in what they share they see the same noise;
- the choice is one number for the image: how sure it wants to be before anything is marked (see `tiles.py`).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stochseg.errors import InputError
from stochseg.models.interfaces import FIELD
from stochseg.sampling.noise import normal_of

Tile = int | Literal["auto"] | None
"""Side of the tiles in pixels; "auto": the training size where an image is larger; None: the image as a whole."""

MULTIPLE = 2 * FIELD
"""Sides of tiles are multiples of this: whole cells, and half a tile is whole cells too."""


@dataclass(frozen=True)
class Axis:
    """One axis of the image. starts: where its tiles begin; tile: their length; padded: pixels that they cover, up to a
    cell more than there are; cells: of the noise field."""

    starts: tuple[int, ...]
    tile: int
    padded: int
    cells: int

    @property
    def cell(self) -> float:
        return self.padded / self.cells

    def window(self, device: torch.device) -> Tensor:
        """Weights [tile] of a tile's pixels, which of tiles that overlap by half add up to 1: float32, above 0."""
        if len(self.starts) == 1:
            return torch.ones(self.tile, device=device)
        place = (torch.arange(self.tile, device=device) + 0.5) / self.tile
        return (torch.pi * place).sin().square()


@dataclass(frozen=True)
class Tiling:
    """Tiles that overlap by half. rows, columns: along h and w; size: (h, w) of the image."""

    rows: Axis
    columns: Axis
    size: tuple[int, int]

    @property
    def cells(self) -> int:
        """Numbers in the noise field of the whole image."""
        return self.rows.cells * self.columns.cells

    def widened(self, z: Tensor) -> Tensor:
        """z [b n z] and after it the noise field of the whole image, drawn from seeds made of z: [b n z + cells].

        Each is standard normal; noise between two z is that of `cos(a) z1 + sin(a) z2`, the field included.
        """
        return torch.cat([z, normal_of(z, (self.cells,)).to(z)], 2)

    def seen_by_tile(self, z: Tensor, latent: int, field: slice, y: int, x: int) -> Tensor:
        """z [n latent] of the tile that begins at row y and column x. z: [n latent + cells]; field: which part of a
        tile's z is the field, empty for networks without one."""
        own = z[:, :latent]
        if field.start == field.stop:
            return own
        wide = z[:, latent:].unflatten(1, (self.rows.cells, self.columns.cells))
        row, column = round(y / self.rows.cell), round(x / self.columns.cell)
        cut = wide[:, row : row + FIELD, column : column + FIELD].flatten(1)
        return torch.cat([own[:, : field.start], cut, own[:, field.stop :]], 1)


def tiling_of(size: tuple[int, int], tile: Tile, trained: tuple[int, int]) -> Tiling | None:
    """How an image of this size (h, w) is cut; None where it is taken as a whole.

    tile: see `Tile`; trained: (h, w) in training, of which "auto" takes the next multiple of 16. An axis no longer than
    a tile is not cut. Raises InputError for a side that is no multiple of 16.
    """
    if tile is None:
        return None
    if tile != "auto" and (tile < MULTIPLE or tile % MULTIPLE):
        raise InputError(f"--tiles {tile}: the side of a tile must be a multiple of {MULTIPLE}, such as {2 * MULTIPLE}")
    sides = [-(-side // MULTIPLE) * MULTIPLE if tile == "auto" else tile for side in trained]
    if all(length <= side for length, side in zip(size, sides)):
        return None
    rows, columns = (_axis(length, side) for length, side in zip(size, sides))
    return Tiling(rows, columns, size)


def _axis(length: int, tile: int) -> Axis:
    if length <= tile:
        return Axis((0,), length, length, FIELD)
    cell = tile // FIELD
    padded = -(-length // cell) * cell
    last = padded - tile
    return Axis((*range(0, last, tile // 2), last), tile, padded, padded // cell)
