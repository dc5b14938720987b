"""Memory that the process frees stays with it, ready for the next arrays of the same size."""

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Numbers of malloc.h: above what free memory at the top goes back, above what an array gets pages of its own, and how many
arrays may have such pages."""


def keep_freed_memory(large: bool = False) -> None:
    """Let malloc reuse freed arrays of up to 32 MiB, with `large` all, instead of giving their pages back to the system.

    As it comes, glibc lets the system clear new pages for many arrays that were freed just before: a quarter of a training
    step of the paper's networks on a CPU. `large` is for training, whose arrays have the same sizes in every step; among
    large arrays of ever other sizes, free pieces that fit none would add up. Nothing happens without glibc, or where the
    variables of the environment that are meant for this (MALLOC_...) are set.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        if large:
            mallopt(_MMAP_MAX, 0)
