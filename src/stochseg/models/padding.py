"""Padding to the sizes that strided networks need, so that they take images of any size."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(x: Tensor, stride: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Pad the right and lower edge by reflection until h and w are multiples of `stride`.

    x: [b c h w]. Returns the padded tensor and `crop`, which cuts a map of the padded size back to h x w. A side of
    one pixel, which has nothing to reflect, is repeated.
    """
    h, w = x.shape[-2:]

    def crop(padded: Tensor) -> Tensor:
        return padded[..., :h, :w]

    if torch.compiler.is_compiling():  # a graph is for every size, so it cannot ask whether this one needs padding
        rows, columns = (_reflected(size, stride, x.device) for size in (h, w))
        return x.index_select(-2, rows).index_select(-1, columns), crop
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
    return x, crop


def _reflected(size: int, stride: int, device: torch.device) -> Tensor:
    """Which row or column each of the padded ones repeats: there and back again, as often as it takes."""
    last = torch.arange(size, device=device)[-1]
    place = torch.arange((size + stride - 1) // stride * stride, device=device) % (2 * last).clamp_min(1)
    return torch.minimum(place, (2 * last - place).abs())


def _whole(padded: Tensor) -> Tensor:
    return padded
