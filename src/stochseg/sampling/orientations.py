"""An image seen in several orientations, each sample in one of them: test-time augmentation that keeps the distribution.

Networks are not quite the same for an image and its mirror image, though training showed them both. A sample in an
orientation at random averages such whims of the network out, without blurring a map as the mean of maps would.
"""

from collections.abc import Callable, Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from stochseg.errors import InputError
from stochseg.sampling.noise import seeds_of

Orientations = Literal[1, 2, 8]
"""1: as the image is; 2: and mirrored from left to right; 8: all mirrored and turned ones."""


def check_orientations(count: int) -> None:
    """InputError for a number of orientations that there is not."""
    if count not in get_args(Orientations):
        raise InputError(
            f"--orientations {count}: must be 1 (as the image is), 2 (and mirrored) or 8 (all mirrored and turned)"
        )


def turned(images: Tensor, which: int) -> Tensor:
    """Images [... h w] in orientation `which` of 0 to 7: odd ones mirrored first, then turned by which // 2 quarters."""
    return (images.flip(-1) if which % 2 else images).rot90(which // 2, (-2, -1))


def turned_back(images: Tensor, which: int) -> Tensor:
    """The inverse of `turned`."""
    upright = images.rot90(-(which // 2), (-2, -1))
    return upright.flip(-1) if which % 2 else upright


def all_orientations(
    images: Tensor, blackbox: Tensor | None, count: int
) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """Each orientation, and images and a black box's answers in it."""
    for which in range(count):
        yield which, turned(images, which), None if blackbox is None else turned(blackbox, which)


def orientations_of(z: Tensor, count: int) -> Tensor:
    """The orientation of each sample, int64 [b n], made of its z [b n z]: evenly at random, and a function of z."""
    return torch.tensor([[seed % count for seed in row] for row in seeds_of(z)])


def sample_oriented(
    sample: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    images: Tensor,
    z: Tensor,
    blackbox: Tensor | None,
    count: int,
) -> Tensor:
    """Maps uint8 [b n h w] of images [b c h w], each drawn in the orientation that its z says.

    sample: maps of images, z [b n z] and a black box's answers [b ... h w]. It is called once an orientation.
    """
    which = orientations_of(z, count)
    maps = torch.zeros(*z.shape[:2], *images.shape[-2:], dtype=torch.uint8)
    for orientation in range(count):
        mine = which == orientation
        rows = mine.any(1).nonzero()[:, 0]
        if not len(rows):
            continue
        # images differ in how many of their samples are of this orientation: draw as many for each, keep its own
        order = mine[rows].int().argsort(dim=1, descending=True, stable=True)[:, : int(mine.sum(1).max())]
        drawn = sample(
            turned(images[rows.to(images.device)], orientation),
            z[rows.to(z.device)[:, None], order.to(z.device)],
            None if blackbox is None else turned(blackbox[rows.to(blackbox.device)], orientation),
        )
        drawn = turned_back(drawn, orientation)
        maps = maps.to(drawn.device)
        places, columns = mine[rows].gather(1, order).nonzero(as_tuple=True)
        maps[rows[places], order[places, columns]] = drawn[places, columns]
    return maps


def mean_over_orientations(
    marginals: Callable[[Tensor, Tensor | None], Tensor], images: Tensor, blackbox: Tensor | None, count: int
) -> Tensor:
    """The mean [b k h w] of the marginals in all orientations."""
    found = [turned_back(marginals(x, seen), o) for o, x, seen in all_orientations(images, blackbox, count)]
    return torch.stack(found).mean(0)
