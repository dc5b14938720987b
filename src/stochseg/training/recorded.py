"""A step's losses and gradients as one CUDA graph: recorded once, then started as a whole.

A step of small networks is some thousand kernels of a few microseconds, and starting them one by one from Python takes
many times as long as they run. A graph starts them together, with the same arithmetic in the same order.
"""

import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stochseg.progress import say
from stochseg.training.profile import unmeasured

Inputs = tuple[Tensor | None, ...]
Work = Callable[..., dict[str, Tensor]]
"""From inputs to losses by name; leaves gradients at the weights, which had none. It must not read a value on the CPU."""
BEFORE = 3
"""Steps of a kind that run as they are, before one is recorded: libraries choose their kernels and take memory in them."""


class Recorder:
    """Runs the work of steps, from a recording where there is one. networks: whose weights get the gradients."""

    def __init__(self, networks: nn.Module) -> None:
        self._weights = list(networks.parameters())
        self._failed = False
        self._seen: dict[Hashable, int] = {}
        self._recordings: dict[Hashable, _Recording] = {}
        self._aside: Any = None

    def run(self, kind: Hashable, work: Work, inputs: Inputs) -> dict[str, Tensor]:
        """work(*inputs). kind: all that the work depends on beside them; shapes need not be named."""
        if self._failed:
            return work(*inputs)
        kind = kind, tuple(None if each is None else (each.shape, each.dtype, each.stride()) for each in inputs)
        if kind not in self._recordings:
            self._seen[kind] = self._seen.get(kind, 0) + 1
            try:
                if self._seen[kind] <= BEFORE:
                    return self._beside(work, inputs, strictly=self._seen[kind] == BEFORE)
                self._recordings[kind] = _Recording(work, inputs, self._weights)
            except RuntimeError as error:  # where the step itself is at fault, it fails once more
                self._failed = True
                reason = next(iter(str(error).strip().splitlines()), "")
                say(f"training.record: a step cannot be recorded ({reason}); it runs as it is")
                for weight in self._weights:
                    weight.grad = None
                return work(*inputs)
        return self._recordings[kind].replay(inputs)

    def _beside(self, work: Work, inputs: Inputs, strictly: bool) -> dict[str, Tensor]:
        """On another stream than the usual one, which a recording cannot use either: autograd remembers where it ran.

        strictly: RuntimeError where the CPU waits for a value, which in a recording would leave CUDA's generator unusable.
        """
        if not strictly:
            return self._run_beside(work, inputs)
        with _no_waiting():
            return self._run_beside(work, inputs)

    def _run_beside(self, work: Work, inputs: Inputs) -> dict[str, Tensor]:
        self._aside = self._aside or torch.cuda.Stream()
        self._aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._aside):
            losses = work(*inputs)
        torch.cuda.current_stream().wait_stream(self._aside)
        return losses


@contextmanager
def _no_waiting() -> Iterator[None]:
    """RuntimeError in the block where the CPU waits for a GPU's value."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this is a prototype and may overlook some
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


class _Recording:
    def __init__(self, work: Work, inputs: Inputs, weights: list[nn.Parameter]) -> None:
        self._inputs = tuple(None if each is None else each.clone() for each in inputs)
        self._graph = torch.cuda.CUDAGraph()
        # other threads, such as those of NCCL, may ask the GPU what they like meanwhile
        with unmeasured(), torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._losses = work(*self._inputs)
        self._gradients = [(weight, weight.grad) for weight in weights if weight.grad is not None]

    def replay(self, inputs: Inputs) -> dict[str, Tensor]:
        for kept, given in zip(self._inputs, inputs, strict=True):
            if kept is not None and given is not None:
                kept.copy_(given)
        self._graph.replay()
        for weight, gradient in self._gradients:
            weight.grad = gradient
        return self._losses
