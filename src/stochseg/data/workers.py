"""One function on many items, on all cores, in order, with no more results in memory than there are workers for."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from stochseg.errors import RunError

A = TypeVar("A")
B = TypeVar("B")

AHEAD = 4
"""Items a worker that are waiting or done before their turn."""


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(function: Callable[[A], B], items: Sequence[A], workers: int) -> Iterator[B]:
    """function(item) of every item in order; it must be one that another process can import.

    With one worker nothing is started. An exception of the function is raised here.
    """
    workers = min(workers, len(items))
    if workers <= 1:
        yield from map(function, items)
        return
    # spawn: a fork of a process with threads, as numpy and torch start, may hang
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        try:
            waiting: deque[Future[B]] = deque()
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise RunError(
                "workers ended before their work: with little memory pass --workers 1; in a script of your own put the "
                "call below `if __name__ == '__main__':`"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
