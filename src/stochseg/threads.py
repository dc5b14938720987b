"""Threads that wait for each other without holding on to a core that others want."""

import os

SPINS = "10000"
"""Turns that a waiting thread takes before it sleeps; libgomp itself takes 300,000. With 1,000 it sleeps in the gaps of a step,
and to wake it takes longer than the gap: on a quiet CPU with AMX training loses a third by that."""


def wait_asleep() -> None:
    """Let OpenMP's threads sleep where they wait long; to be called before torch is imported.

    A step is thousands of pieces of work that all threads share. While another program has one of the cores, the threads
    on the others wait for the one that is not running, and as it comes keep it from running by that: beside one busy
    program two threads train several times as fast with this (`benchmarks/threads.py`). What the environment says
    (GOMP_SPINCOUNT, OMP_WAIT_POLICY) holds.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
