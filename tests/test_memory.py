"""Freed memory is reused: the same arrays, taken and freed again and again, cost new pages only once."""

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from stochseg.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
sizes = [2**21] * 12
def use():
    held = [torch.ones(size) for size in sizes]
    held.reverse()
for _ in range(3):
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is told")
def test_freed_arrays_are_reused() -> None:
    def faults(how: str, **more: str) -> int:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | more
        run = subprocess.run([sys.executable, "-c", SCRIPT, how], env=kept, capture_output=True, text=True, check=True)
        return int(run.stdout)

    assert faults("kept") * 10 < faults("as it comes")
    assert faults("kept", MALLOC_ARENA_MAX="2") * 2 > faults("as it comes")  # the user's own settings hold
