"""Threads that wait for each other without holding on to a core that others want, and a word where others hold theirs."""

import os
import time
from pathlib import Path

from stochseg.progress import say

SPINS = "10000"
"""Turns that a waiting thread takes before it sleeps; libgomp itself takes 300,000. With 1,000 it sleeps in the gaps of a step,
and to wake it takes longer than the gap: on a quiet CPU with AMX training loses a fifth by that."""
LOOK_AFTER = 30.0
"""Seconds of a training after which is told whether its threads get their cores."""
CROWDED = 0.1
"""Share of their time that threads wait for a core from which on something is said; on a quiet machine it is .01."""


def wait_asleep() -> None:
    """Let OpenMP's threads sleep where they wait long; to be called before torch is imported.

    A step is thousands of pieces of work that all threads share. While another program has one of the cores, the threads
    on the others wait for the one that is not running, and as it comes keep it from running by that: beside one busy
    program two threads train several times as fast with this (`benchmarks/threads.py`). What the environment says
    (GOMP_SPINCOUNT, OMP_WAIT_POLICY) holds.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


class Crowd:
    """Says once, where other programs hold the cores, that a training would be faster in fewer threads."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._begun = time.monotonic()
        self._before = _seconds() if threads > 1 else None

    def look(self) -> None:
        """To be called now and then; looks at the time from the beginning to the first call after LOOK_AFTER seconds."""
        if self._before is None or time.monotonic() - self._begun < LOOK_AFTER:
            return
        (ran, waited), now = self._before, _seconds()
        self._before = None
        if now is None:
            return
        share = (now[1] - waited) / max(now[0] - ran + now[1] - waited, 1e-9)
        if share > CROWDED:
            say(
                f"too few free cores: the {self._threads} threads of this training wait {share:.0%} of their time for one, as "
                "where other programs hold them; with OMP_NUM_THREADS=1 (go on with --resume) it is often several times as fast"
            )


def _seconds() -> tuple[float, float] | None:
    """For how long this process's threads have run, and were ready to and had no core; None where the system does not say."""
    try:
        lines = [file.read_text().split() for file in Path("/proc/self/task").glob("*/schedstat")]
        ran, waited = (sum(int(line[i]) for line in lines) / 1e9 for i in (0, 1))
    except (OSError, IndexError, ValueError):  # another system, or a thread that ended meanwhile
        return None
    return ran, waited
