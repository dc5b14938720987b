"""Batches drawn ahead of the step that asks for them, by processes of their own."""

import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, Self

import torch
from torch.utils.data import DataLoader, Dataset

from stochseg.data.batches import Batch
from stochseg.data.workers import cores
from stochseg.errors import RunError

MOST = 8
"""Workers that are started where no number is asked for: a step of small networks takes no more than they draw."""


def workers_for(asked: int | None, device: torch.device, processes: int = 1) -> int:
    """How many workers draw for one of several processes of this machine: what is asked for, or on a GPU a core each.

    On a CPU none: they would take the time from the step that they save it. Only Linux forks processes safely.
    """
    if sys.platform != "linux":
        return 0
    if asked is not None:
        return asked
    return 0 if device.type == "cpu" else min(MOST, max(1, cores() // processes - 1))


class Ahead:
    """Batches by step; the next ones are drawn by `workers` processes while this one is worked on. A context manager.

    draw: the batch of a step, whatever was asked before. It runs in forks of this process, so it may hold open maps.
    """

    def __init__(self, draw: Callable[[int], Batch], workers: int) -> None:
        self._draw, self._workers = draw, workers
        self._next = -1
        self._coming: Iterator[Batch | Exception] = iter(())

    def at(self, step: int) -> Batch:
        """The batch of this step; RunError where a worker was killed."""
        if not self._workers:
            return self._draw(step)
        if step != self._next:
            self._coming = iter(self._loader(step))
        try:
            found = next(self._coming)
        except (RuntimeError, OSError, EOFError) as error:  # of the connection: errors of the work come as values
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise RunError(
                f"a worker that draws batches ended before its work ({reason}); where memory or /dev/shm "
                "is short, use --training.workers 0, and go on with --resume"
            ) from error
        if isinstance(found, Exception):
            self.__exit__()
            raise found
        self._next = step + 1
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._next, self._coming = -1, iter(())  # workers end with their iterator

    def _loader(self, step: int) -> "DataLoader[Any]":
        return DataLoader(
            _Steps(self._draw),
            batch_size=None,
            sampler=range(step, 2**62),
            num_workers=self._workers,
            multiprocessing_context="fork",
            worker_init_fn=_leave_signals,
            generator=torch.Generator(),  # else it would draw a number from the global one, whose numbers are the step's
        )


class _Steps(Dataset[Batch | Exception]):
    def __init__(self, draw: Callable[[int], Batch]) -> None:
        self._draw = draw

    def __getitem__(self, step: int) -> Batch | Exception:
        try:
            return self._draw(step)
        except Exception as error:  # raised where the batch is asked for, with its own message
            return error


def _leave_signals(_: int) -> None:
    """A signal to all processes of a run is for the one that trains, which saves and then ends its workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
