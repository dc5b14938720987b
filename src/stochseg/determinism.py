"""The same bits on a GPU too, for those who ask for them. On a CPU they are the same without."""

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

from stochseg.errors import RunError

P = ParamSpec("P")
R = TypeVar("R")

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""What cuBLAS takes its memory from; with the setting below it adds up in one order."""


@contextmanager
def only_deterministic(asked: bool) -> Iterator[None]:
    """Let torch take none but deterministic algorithms, and none by what was quickest a moment ago.

    RunError where an operation has none on this device. What was set before is set again at the end.
    """
    if not asked:
        yield
        return
    import torch

    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
    )
    os.environ.setdefault(WORKSPACE, ":4096:8")  # read when the first matrix is multiplied on the GPU
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise RunError(
            f"--deterministic true: {str(error).partition('.')[0]}; leave it out, or take the CPU"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = before[2]


def deterministic_if_asked(function: Callable[P, R]) -> Callable[P, R]:
    """For a function with a parameter `deterministic`: its whole work obeys it."""
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        with only_deterministic(given.arguments["deterministic"]):
            return function(*args, **kwargs)

    return call
