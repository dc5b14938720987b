"""Padding to the sizes that strided networks need, so that they take images of any size."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(x: Tensor, stride: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Pad the right and lower edge by reflection until h and w are multiples of `stride`.

    x: [b c h w]. Returns the padded tensor and `crop`, which cuts a map of the padded size back to h x w. A side of
    one pixel, which has nothing to reflect, is repeated.
    """
    h, w = x.shape[-2:]
    below, right = -h % stride, -w % stride
    if not below and not right:
        return x, _whole
    while below or right:
        # One reflection reaches no further than the image does, so a small image is reflected again and again.
        down, across = min(below, x.shape[-2] - 1), min(right, x.shape[-1] - 1)
        if down or across:
            x = F.pad(x, (0, across, 0, down), mode="reflect")
        else:
            down, across = below, right
            x = F.pad(x, (0, across, 0, down), mode="replicate")
        below, right = below - down, right - across

    def crop(padded: Tensor) -> Tensor:
        return padded[..., :h, :w]

    return x, crop


def _whole(padded: Tensor) -> Tensor:
    return padded
