"""What the pixel-wise losses share: their precision, and their mean over the pixels of a batch."""

from typing import Literal

import torch
from torch import Tensor

Normalize = Literal["all", "valid"]


def full_precision(x: Tensor) -> Tensor:
    """x in float32, or in float64 if it is so already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def pixel_mean(values: Tensor, ignored: Tensor | None, normalize: Normalize = "all") -> Tensor:
    """Mean of values [b h w] where ignored [b h w] pixels count 0: a scalar.

    normalize: "all" divides by the number of all pixels, as the paper's code does; "valid" by that of pixels that are
    not ignored. No gradient reaches an ignored pixel.
    """
    if ignored is None:
        return values.mean()
    values = values.masked_fill(ignored, 0)
    if normalize == "all":
        return values.mean()
    return values.sum() / (~ignored).sum().clamp(min=1)
