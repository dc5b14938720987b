"""Building pieces of our own networks (the paper's keep the paper's)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stochseg.models.dropout import Dropout


def norm(width: int) -> nn.GroupNorm:
    """Group normalisation: the same in training and test, and for every batch size."""
    groups = next(g for g in (8, 4, 2, 1) if width % g == 0)
    return nn.GroupNorm(groups, width)


def conv(inside: int, outside: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, 3, stride, padding=1)


def conv_block(inside: int, outside: int, dropout: float = 0.0, normed: bool = True) -> nn.Sequential:
    """Two 3x3 convolutions, each with group norm (unless told not to) and SiLU."""
    layers: list[nn.Module] = []
    for width in (inside, outside):
        layers += [conv(width, outside), *([norm(outside)] if normed else []), nn.SiLU()]
        if dropout:
            layers.append(Dropout(dropout))
    return nn.Sequential(*layers)


def upsample(x: Tensor) -> Tensor:
    """Double h and w by repeating pixels. Autocast would make a float32 copy here; there is nothing to gain by it."""
    with torch.autocast(x.device.type, enabled=False):
        return F.interpolate(x, scale_factor=2, mode="nearest")


def to_blocks(x: Tensor, patch: int) -> Tensor:
    """Every block of patch x patch pixels as one, its pixels as channels: [b c h w] to [b c*patch*patch h/patch w/patch]."""
    return F.pixel_unshuffle(x, patch) if patch > 1 else x


def to_pixels(x: Tensor, patch: int) -> Tensor:
    """The way back."""
    return F.pixel_shuffle(x, patch) if patch > 1 else x
