"""Numbers too small for a CPU to be quick with count as zero."""

from collections.abc import Iterator
from contextlib import contextmanager

TINY = 1e-39
"""Below the smallest normal float32, 1.2e-38."""


@contextmanager
def without_denormals() -> Iterator[None]:
    """Within it, or within a function that it decorates, floats below 1.2e-38 are zero on CPUs that can do so.

    A CPU is slow over them, and a network that grows sure of its pixels gives more and more: a training step of `lidc`
    took five times as long after 2,500 steps. What was set before is set again at the end.
    It holds for this thread and for those that begin within it, among them torch's own if they had no work before.
    """
    import torch

    kept = bool(torch.tensor(TINY) != 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        if kept:
            torch.set_flush_denormal(False)
