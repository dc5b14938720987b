"""Between soft maps and class maps."""

import torch
from torch import Tensor

FEW_CLASSES = 8
"""Up to so many classes `class_maps` compares them one by one."""


def one_hot_maps(maps: Tensor, classes: int) -> Tensor:
    """Integer maps [... h w] to float32 [... k h w]; a value outside the classes (a missing rater's 255) is all zero."""
    ids = torch.arange(classes, device=maps.device, dtype=maps.dtype)
    return (maps.unsqueeze(-3) == ids[:, None, None]).float()


def class_maps(soft: Tensor) -> Tensor:
    """The likeliest class of each pixel, uint8 [... h w], of logits or probabilities [... k h w]; the first of equals.

    For few classes pixels are compared class by class: `argmax` over an inner axis takes 50 times as long on a CPU, and
    `max` less than that.
    """
    k = soft.shape[-3]
    if k > FEW_CLASSES:
        return soft.max(-3).indices.to(torch.uint8)
    if k == 1:
        return torch.zeros_like(soft.select(-3, 0), dtype=torch.uint8)
    best, one = soft.select(-3, 0), soft.select(-3, 1)
    found = (one > best).to(torch.uint8)
    for c in range(2, k):
        best, one = torch.maximum(best, one), soft.select(-3, c)
        found = torch.where(one > best, torch.full_like(found, c), found)
    return found
