"""What our refinement networks have in common: an encoder of image and q, done once an image."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stochseg.models.blocks import conv, conv_block, to_blocks
from stochseg.models.padding import pad_to_multiple


class Pyramid(nn.Module):
    """Features of images [b c h w] and q [b k h w] at every level, each half as large as the one before.

    patch: side of the blocks of pixels that the first level takes as one, in more channels. skip: a 1x1 convolution for
    each level but the coarsest, for the way back.
    """

    def __init__(self, channels: int, classes: int, widths: Sequence[int], patch: int) -> None:
        super().__init__()
        self.masks_ignored = False  # new images have no mark of what is to be ignored
        self.patch = patch
        self.stride = patch * 2 ** (len(widths) - 1)
        self.stem = conv((channels + classes) * patch**2, widths[0])
        self.down = nn.ModuleList(conv_block(a, b) for a, b in zip(widths, widths[1:]))
        self.skip = nn.ModuleList(nn.Conv2d(a, a, 1) for a in widths[:-1])

    def levels(self, x: Tensor, q: Tensor) -> tuple[list[Tensor], Tensor, Callable[[Tensor], Tensor]]:
        """The levels, finest first and all but the last through their skip; log q [b k h w]; what cuts padding off again."""
        base = q.float().clamp_min(1e-4).log()
        full, crop = pad_to_multiple(torch.cat([x, base.to(x.dtype)], 1), self.stride)
        levels = [self.stem(to_blocks(full, self.patch))]
        for block in self.down:
            levels.append(block(F.max_pool2d(levels[-1], 2)))
        levels[:-1] = [skip(a) for skip, a in zip(self.skip, levels)]
        return levels, base, crop
