"""Dropout that a CPU is quick with in bfloat16."""

import torch
from torch import Tensor, nn

WORDS = 2**16
"""Numbers that 16 random bits stand for: p is taken to the nearest of so many parts."""


class Dropout(nn.Dropout):
    """`nn.Dropout`, whose random numbers a CPU draws one by one for bfloat16: a tenth of a training step of the paper's.

    There, four elements share a random number of 64 bits, from the same generator. Else it is `nn.Dropout` to the bit.
    """

    def forward(self, x: Tensor) -> Tensor:
        fits = x.dtype == torch.bfloat16 and x.device.type == "cpu" and 1 / WORDS <= self.p <= 1 - 1 / WORDS
        if not self.training or not fits or torch.compiler.is_compiling():
            return super().forward(x)
        return x * _factors(x, self.p)


def _factors(x: Tensor, p: float) -> Tensor:
    """Zero or 1 / (1 - p), each by chance, in the shape of x and as it lies in memory."""
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[: x.numel()]
    limit = round((1 - p) * WORDS) - WORDS // 2  # kept below it
    kept = bits.clamp_(limit - 1, limit).sub_(limit)  # all bits where kept, none else
    factor = torch.tensor(1 / (1 - p), dtype=torch.bfloat16).view(torch.int16)
    return kept.bitwise_and_(factor).view(torch.bfloat16).as_strided(x.shape, torch.empty_like(x).stride())
