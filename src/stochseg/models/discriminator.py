"""Discriminators D(x, map): is this a map that an annotator drew for this image? One logit an image."""

import torch
from torch import Tensor, nn

from stochseg.errors import InputError
from stochseg.models.convolutions import ReflectedConv, Reflection, TwiceDifferentiable
from stochseg.models.padding import pad_to_multiple

PROBABILITY_FLOOR = 1e-7
POOL = 4
"""Side of the grid that `PooledDiscriminator` pools to."""


def probability(logit: Tensor) -> Tensor:
    """The probability that a map is real, float32 in [1e-7, 1], the floor being the paper's code's."""
    return torch.sigmoid(logit.to(torch.promote_types(logit.dtype, torch.float32))).clamp(min=PROBABILITY_FLOOR)


class PixelDiscriminator(nn.Module):
    """The paper's: three 3x3 convolutions, five of 4x4, and a linear layer over all that is left, tied to one size.

    channels: of the image; classes: k; size: (h, w), both at least 24; width: channels of the first stages.
    """

    def __init__(self, channels: int, classes: int, size: tuple[int, int], width: int = 64) -> None:
        super().__init__()
        self.size = size
        grid = [_side_left(side) for side in size]
        if min(grid) < 1:
            raise InputError(
                f"images of {size[0]}x{size[1]} pixels are too small for the paper's discriminator, which needs 24x24; "
                "use the pooled discriminator"
            )
        fine: list[nn.Module] = []
        for inside in (channels + classes, width, width):
            fine += [ReflectedConv(inside, width), nn.LeakyReLU(0.2, inplace=True)]
        coarse: list[nn.Module] = [Reflection()]
        for inside, outside, stride, bias in (
            (width, width, 2, True),
            (width, 2 * width, 2, False),
            (2 * width, 4 * width, 2, False),
            (4 * width, 8 * width, 1, False),
            (8 * width, width, 1, True),
        ):
            conv = TwiceDifferentiable(inside, outside, 4, stride=stride, padding=1, bias=bias)
            coarse += [conv, nn.LeakyReLU(0.2, inplace=True)]
        self.fine = nn.Sequential(*fine)
        self.coarse = nn.Sequential(*coarse)
        self.head = nn.Linear(width * grid[0] * grid[1], 1)

    def forward(self, x: Tensor, maps: Tensor) -> Tensor:
        """x: [b c h w]; maps: [b k h w], one-hot or probabilities. Returns logits [b]."""
        if tuple(x.shape[-2:]) != self.size:
            raise InputError(
                f"the discriminator was made for images of {self.size[0]}x{self.size[1]} pixels and got "
                f"{x.shape[-2]}x{x.shape[-1]}; crop them to that size, or train with the pooled discriminator"
            )
        left = self.coarse(self.fine(torch.cat([x, maps], 1)))
        logit: Tensor = self.head(left.flatten(1))
        return logit.squeeze(1)


class PooledDiscriminator(nn.Module):
    """A lighter one for images of any size: three strided 4x4 convolutions, one of 3x3, averages on a 4x4 grid, linear.

    channels: of the image; classes: k; width: channels of the first stage.
    """

    def __init__(self, channels: int, classes: int, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inside, outside in ((channels + classes, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [TwiceDifferentiable(inside, outside, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        layers += [TwiceDifferentiable(4 * width, 4 * width, 3, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(POOL))
        self.head = nn.Linear(4 * width * POOL * POOL, 1)

    def forward(self, x: Tensor, maps: Tensor) -> Tensor:
        """x: [b c h w]; maps: [b k h w], one-hot or probabilities. Returns logits [b]."""
        padded, _ = pad_to_multiple(torch.cat([x, maps], 1), 8)
        logit: Tensor = self.head(self.features(padded).flatten(1))
        return logit.squeeze(1)


def _side_left(side: int) -> int:
    """Pixels left of a side of `PixelDiscriminator`'s input after its 4x4 convolutions."""
    side += 2
    for stride in (2, 2, 2, 1, 1):
        side = (side + 2 - 4) // stride + 1
    return side
