"""One training at a time in a run directory."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stochseg.errors import InputError
from stochseg.progress import say

NAME = ".lock"


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run directory, which must be there; InputError where another process trains in it.

    The operating system frees the lock however its process ends, so nothing is left to clean up; the file stays. Where
    a file system has no locks, that is said and training goes on.
    """
    try:
        stream = (run / NAME).open("a+")
    except OSError as error:
        raise InputError(f"--out {run}: cannot be written ({error.strerror}); choose another directory") from error
    with stream:
        try:
            _lock(stream.fileno())
        except BlockingIOError as error:
            stream.seek(0)
            raise InputError(
                f"--out {run}: another training is at work there ({stream.read().strip() or 'unknown'}); wait for it, "
                "end it, or choose another directory"
            ) from error
        except OSError as error:
            say(f"{run}: cannot be locked ({error.strerror}); let no other training write there")
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        stream.flush()
        yield


def _lock(descriptor: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows; a process that trains keeps its files open there
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
