"""Freed memory is reused: the same arrays, taken and freed again and again, cost new pages only once."""

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, resource, sys
from stochseg.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory(large=sys.argv[2] == "large")
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.memset.argtypes, libc.free.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], [ctypes.c_void_p]
size, held = (2**26, [0] * 3) if sys.argv[2] == "large" else (2**23, [0] * 12)
def use():
    for i in range(len(held)):
        held[i] = libc.malloc(size)
        libc.memset(held[i], 1, size)
    for array in reversed(held):
        libc.free(array)
for _ in range(3):
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
"""By malloc itself, as torch does: objects of Python's on top of the arrays may keep them from going back, or not."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is told")
@pytest.mark.parametrize("size", ["small", "large"])
def test_freed_arrays_are_reused(size: str) -> None:
    def faults(how: str, **more: str) -> int:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | more
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT, how, size], env=kept, capture_output=True, text=True, check=True
        )
        return int(run.stdout)

    assert faults("kept") * 10 < faults("as it comes")
    assert faults("kept", MALLOC_ARENA_MAX="2") * 2 > faults("as it comes")  # the user's own settings hold
