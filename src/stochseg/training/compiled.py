"""torch.compile for the forward passes of a training step, with a way back where it fails.

The discriminator stays as it is: its gradient penalties need the gradient of a gradient, which torch.compile lacks.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from stochseg.models.interfaces import Choice, RefinementNet
from stochseg.progress import say

T = TypeVar("T")

_compiled: ContextVar[dict[str, Callable[..., Any]] | None] = ContextVar("compiled", default=None)


@contextmanager
def compiled(networks: nn.ModuleDict, mode: str = "default") -> Iterator[None]:
    """In this block `calibrate` and `hypothesise` run compiled; a network that cannot be is said, and runs as it is.

    mode: that of torch.compile. reduce-overhead records CUDA graphs, so that the many kernels of small networks are
    started at once; on a CPU there are none, and it is like default.
    """
    if "refinement" not in networks:
        say("training.compile: is for method car; this one runs as it is")
        yield
        return
    plain: dict[str, Callable[..., Any]] = {"calibration": networks["calibration"], "refinement": _whole(networks)}
    quick = {name: or_plain(name, run, torch.compile(run, mode=mode)) for name, run in plain.items()}
    token = _compiled.set(quick)
    try:
        yield
    finally:
        _compiled.reset(token)


def calibrate(networks: nn.ModuleDict, x: Tensor) -> Tensor:
    """Logits of the calibration network."""
    if (quick := _compiled.get()) is None:
        plain: Tensor = networks["calibration"](x)
        return plain
    # The first network of a step: what the CUDA graphs of the step before have put out may be written over.
    torch.compiler.cudagraph_mark_step_begin()
    found: Tensor = quick["calibration"](x)
    return found


def hypothesise(networks: nn.ModuleDict, x: Tensor, q: Tensor, z: Tensor) -> tuple[Tensor, Choice | None]:
    """The refinement network's `hypotheses` of images and q."""
    quick = _compiled.get()
    run = _whole(networks) if quick is None else quick["refinement"]
    found: tuple[Tensor, Choice | None] = run(x, q, z)
    return found


def or_plain(name: str, plain: Callable[..., T], quick: Callable[..., T]) -> Callable[..., T]:
    """`quick`, or after its first failure `plain`, of which a failure is a failure."""
    run = quick

    def call(*inputs: Any) -> T:
        nonlocal run
        if run is plain:
            return plain(*inputs)
        try:
            return run(*inputs)
        except Exception as error:  # compilers fail in many ways
            run = plain
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            say(f"training.compile: the {name} network cannot be compiled ({reason}); it runs as it is")
            return plain(*inputs)

    return call


def _whole(networks: nn.ModuleDict) -> Callable[..., tuple[Tensor, Choice | None]]:
    """Both halves of the refinement network as one function, so that nothing of the features crosses its border."""
    refinement = cast(RefinementNet, networks["refinement"])
    return lambda x, q, z: refinement.hypotheses(refinement.encode(x, q), z)
