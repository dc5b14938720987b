"""One training step: gradients of all networks from one batch, then the updates that are due."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stochseg.baselines.baseline import Baseline
from stochseg.config import Config
from stochseg.data.batches import Batch
from stochseg.errors import NotFinite
from stochseg.models.segmenter import Segmenter
from stochseg.training.distributed import Exchange
from stochseg.training.gradients import accumulate_gradients, baseline_gradients
from stochseg.training.phases import Phase
from stochseg.training.profile import timed

Losses = dict[str, float]


def take_step(
    model: Segmenter,
    phases: list[Phase],
    batch: Batch,
    z: Tensor,
    config: Config,
    ignore: int | None,
    dtype: torch.dtype,
    accuracy: float,
    rates: Mapping[str, float],
    step: int,
    exchange: Exchange,
    flips: Sequence[tuple[int, int, float]] = (),
) -> Losses:
    """Train on one batch, or on this process's rows of one.

    z: [b n z]; accuracy: the discriminator's in the step before; rates: a learning rate a phase; exchange: with the other
    processes; flips: the store's, which say what classes the energy loss compares. Returns the losses and gradient norms
    by name. Raises NotFinite at a value that is not finite, before it reaches the weights.
    """
    due = {phase.name: phase.due(step, accuracy) for phase in phases}
    model.networks.train()
    losses: Losses = defaultdict(float)
    size = len(z) // config.training.accumulate
    for rows in torch.arange(len(z)).split(size):
        with timed("data"):
            images = model.as_input(batch.images[rows])
            seen = model.as_seen(images, None if batch.blackbox is None else batch.blackbox[rows])
            part = Batch(images, batch.labels[rows].to(model.device), seen)
        share = len(rows) / config.training.batch
        noise = z[rows].to(model.device)
        with timed("losses"):
            if isinstance(model, Baseline):
                found = baseline_gradients(model, part, noise, config.objective, ignore, dtype, share)
            else:
                found = accumulate_gradients(
                    model.networks,
                    part,
                    noise,
                    config.objective,
                    len(model.classes),
                    ignore,
                    dtype,
                    due.get("discriminator", False),
                    share,
                    flips,
                )
        for name, loss in found.items():
            losses[name] += float(loss) * share
    updated = [phase.network for phase in phases if due[phase.name]]
    losses = exchange.add_up(updated, model.networks, losses, model.device)
    check_finite(losses, step)
    with timed("optimizer"):
        norms = {phase.name: phase.gradient_norm(config.training.clip) for phase in phases if due[phase.name]}
        check_finite({f"gradient of {name}": norm for name, norm in norms.items()}, step)
        for phase in phases:
            phase.update(rates[phase.name] if due[phase.name] else None)
    return dict(losses) | {f"gradient_{name}": norm for name, norm in norms.items()}


def check_finite(values: Mapping[str, Any], step: int, rate: str = "--phases.*.lr") -> None:
    """RunError that names the first value that is not finite, and the flag of the learning rate."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise NotFinite(
                f"{name} is {value} in step {step}; nothing of this step was kept. Lower the learning rate "
                f"({rate}) or check the data, then go on from the last checkpoint with --resume"
            )
