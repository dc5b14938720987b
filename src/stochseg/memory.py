"""Memory that the process frees stays with it, ready for the next arrays of the same size."""

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Numbers of malloc.h: above what free memory at the top goes back, and how many arrays may get pages of their own."""


def keep_freed_memory() -> None:
    """Let malloc reuse freed arrays instead of giving their pages back to the system.

    A training step takes and frees the same arrays again and again; as it comes, glibc lets the system clear new pages
    for many of them each time, 5 to 20 % of a step on a CPU. Nothing happens without glibc, or where the variables of
    the environment that are meant for this (MALLOC_...) are set.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
