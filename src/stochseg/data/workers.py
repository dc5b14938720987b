"""One function on many items, on all cores, in order, with no more results in memory than the workers are ahead."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Self, TypeVar

from stochseg.errors import RunError

A = TypeVar("A")
B = TypeVar("B")

AHEAD = 4
"""Items a worker that are waiting or done before their turn."""
FEW_FILES = 400
"""With less than this to read, starting workers takes longer than the work."""


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """Processes that are started when first needed and end with the block; with a count of 1 none is."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool:
            self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def each(self, function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
        """function(item) of every item in order; it must be one that another process can import. Items are taken as
        they are needed.

        An exception of the function is raised here; RunError where a worker was killed.
        """
        if self.count <= 1 or (isinstance(items, Sized) and len(items) <= 1):
            yield from map(function, items)
            return
        # spawn: a fork of a process with threads, as numpy and torch start, may hang
        self._pool = self._pool or ProcessPoolExecutor(self.count, multiprocessing.get_context("spawn"))
        waiting: deque[Future[B]] = deque()
        try:
            for item in items:
                waiting.append(self._pool.submit(function, item))
                if len(waiting) >= AHEAD * self.count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise RunError(
                "workers ended before their work: with little memory use one worker; in a script of your own put the call "
                "below `if __name__ == '__main__':`"
            ) from error
