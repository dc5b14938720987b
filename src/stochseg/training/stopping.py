"""Signals that ask a training to save and end."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Interrupted(BaseException):
    """A signal ended a block that `StopRequest.at_once` guards. No Exception, so that nothing on the way swallows it."""


class StopRequest:
    """Whether a signal has come."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._at_once = False

    def is_set(self) -> bool:
        return self._asked.is_set()

    def ask(self) -> None:
        self._asked.set()
        if self._at_once:
            raise Interrupted

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """For a block that may end anywhere: a signal raises Interrupted in it instead of waiting for its end.

        Where several processes train together they must end together, so there the signal waits.
        """
        self._at_once = not (torch.distributed.is_available() and torch.distributed.is_initialized())
        try:
            if self._at_once and self.is_set():
                raise Interrupted
            yield
        finally:
            self._at_once = False


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """A request that SIGTERM and Ctrl-C set, so that the loop can save and end (main thread only).

    Once set, the handlers before are back: a second Ctrl-C ends at once.
    """
    stopped = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(*_: object) -> None:
        restore()
        stopped.ask()

    for number in before:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        restore()
