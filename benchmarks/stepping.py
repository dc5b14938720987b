"""A training step as training takes it, and what it computes: for every benchmark that times one."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from stochseg.config import Config
from stochseg.data.batches import Batch
from stochseg.models.car import CAR
from stochseg.models.precision import resolve_precision
from stochseg.processes import World
from stochseg.training.distributed import Exchange
from stochseg.training.phases import make_phases
from stochseg.training.recorded import BEFORE, Recorder
from stochseg.training.step import take_step


def our_step(
    model: CAR, config: Config, images: Tensor, labels: Tensor, recorded: bool | None = None
) -> Callable[[], object]:
    """A step on a batch that is there, of a preset with a discriminator one in which it is due.

    recorded: whether its gradients are a CUDA graph, which is then recorded already; None: on a GPU, as training does.
    """
    phases = make_phases(model.networks, config)
    dtype = resolve_precision(model.precision, model.device)
    batch = Batch(images.cpu(), labels.cpu())
    z = torch.randn(len(images), config.objective.samples, model.latent)
    alone = Exchange(World(), lambda: False, lambda: 0.0)
    rates = {phase.name: phase.config.lr for phase in phases}
    recorded = model.device.type == "cuda" if recorded is None else recorded
    recorder = Recorder(model.networks) if recorded else None

    def step() -> object:
        return take_step(model, phases, batch, z, config, None, dtype, 0.0, rates, 0, alone, recorder=recorder)

    for _ in range(2 * BEFORE if recorder else 0):
        step()
    return step


class Operations(TorchDispatchMode):
    """Counts them, of a step that is not recorded. torch's own FlopCounterMode hooks into modules, which some releases
    forbid under R1's gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=found)
        return found


def blobs(images: int, maps: int, size: int) -> Tensor:
    """Discs of which a third are missing, uint8 [b maps h w]."""
    g = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centre = size * (0.4 + 0.2 * torch.rand(2, images, 1, 1, 1, generator=g))
    radius = size * (0.05 + 0.1 * torch.rand(images, maps, 1, 1, generator=g))
    there = torch.rand(images, maps, 1, 1, generator=g) > 1 / 3
    return (((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2) & there).to(torch.uint8)
