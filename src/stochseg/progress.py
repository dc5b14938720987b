"""Progress for people: a bar on a terminal, a plain line now and then where there is none (logs, CI)."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from stochseg.processes import several, speaks

T = TypeVar("T")

SECONDS_BETWEEN_LINES = 10.0


def say(message: str) -> None:
    """Print one line of status on stderr, in the first of several processes; stdout is kept for results."""
    if speaks():
        print(message, file=sys.stderr, flush=True)


def complain(message: str) -> None:
    """Print one line on why a process ends; of several, each for itself, with its number."""
    who = f"process {os.environ.get('RANK')} of {os.environ['WORLD_SIZE']}: " if several() else ""
    print(who + message, file=sys.stderr, flush=True)


def track(items: Iterable[T], total: int, what: str, unit: str = "images") -> Iterator[T]:
    """Yield `items`, showing how many of `total` are done."""
    if sys.stderr.isatty() and speaks():
        from tqdm import tqdm

        yield from tqdm(items, total=total, desc=what, unit=f" {unit}", leave=False)
        return
    start = last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last > SECONDS_BETWEEN_LINES:
            left = (now - start) / done * (total - done)
            say(f"{what}: {done} of {total} {unit}, {left:.0f} s left")
            last = now
