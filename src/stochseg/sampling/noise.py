"""More noise than z holds: a seed for each sample, made of its z, so that a sample stays a function of z."""

from hashlib import sha256

import torch
from torch import Tensor


def seeds_of(z: Tensor) -> list[list[int]]:
    """A seed for each image and sample of z [b n z]."""
    return [[_seed(each) for each in row] for row in z.detach().float().cpu()]


def generators_of(z: Tensor) -> list[list[torch.Generator]]:
    """A CPU generator for each image and sample of z [b n z]."""
    return [[torch.Generator().manual_seed(seed) for seed in row] for row in seeds_of(z)]


def normal_of(z: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise [b n *shape] for z [b n z], drawn on the CPU."""
    return torch.stack([torch.stack([torch.randn(shape, generator=g) for g in row]) for row in generators_of(z)])


def _seed(z: Tensor) -> int:
    return int.from_bytes(sha256(z.contiguous().numpy().tobytes()).digest()[:7])
