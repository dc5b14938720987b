"""A small U-Net that is told the time: the network of the diffusion model."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stochseg.models.blocks import conv, norm, to_blocks, to_pixels, upsample
from stochseg.models.padding import pad_to_multiple

EMBEDDING = 64


class TimeUNet(nn.Module):
    """Maps x [b c h w] and times [b] in 0..1 to logits [b k h w]; the layout of `UNet`, the time added in each block."""

    def __init__(self, channels: int, classes: int, widths: Sequence[int] = (16, 32, 64, 128), patch: int = 1) -> None:
        super().__init__()
        self.patch = patch
        self.stride = patch * 2 ** (len(widths) - 1)
        channels = channels * patch**2
        self.time = nn.Sequential(
            nn.Linear(EMBEDDING, EMBEDDING), nn.SiLU(), nn.Linear(EMBEDDING, EMBEDDING), nn.SiLU()
        )
        self.down = nn.ModuleList(TimeBlock(a, b) for a, b in zip((channels, *widths), widths))
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in zip(widths, widths[1:]))
        self.skip = nn.ModuleList(nn.Conv2d(a, a, 1) for a in widths[:-1])
        self.merge = nn.ModuleList(TimeBlock(a, a) for a in widths[:-1])
        self.head = conv(widths[0], classes * patch**2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        x, crop = pad_to_multiple(x, self.stride)
        x = to_blocks(x, self.patch)
        time = self.time(_waves(t))
        levels: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x, time)
            levels.append(x)
        for level in reversed(range(len(self.up))):
            x = self.merge[level](upsample(self.up[level](x)) + self.skip[level](levels[level]), time)
        return crop(to_pixels(self.head(x), self.patch))


class TimeBlock(nn.Module):
    """Two 3x3 convolutions with group norm and SiLU; the time shifts the features between them."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.first, self.second = conv(inside, outside), conv(outside, outside)
        self.norms = nn.ModuleList([norm(outside), norm(outside)])
        self.shift = nn.Linear(EMBEDDING, outside)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        x = F.silu(self.norms[0](self.first(x)) + self.shift(time)[..., None, None])
        return F.silu(self.norms[1](self.second(x)))


def _waves(t: Tensor) -> Tensor:
    """Sines and cosines of times [b] in 0..1 at falling wavelengths, [b EMBEDDING]."""
    rates = torch.exp(torch.linspace(0, math.log(1000), EMBEDDING // 2, device=t.device))
    angles = t.float()[:, None] * rates * 2 * math.pi
    return torch.cat([angles.sin(), angles.cos()], 1)
