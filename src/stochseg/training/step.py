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
from stochseg.training.recorded import Recorder

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
    recorder: Recorder | None = None,
) -> Losses:
    """Train on one batch, or on this process's rows of one.

    z: [b n z]; accuracy: the discriminator's in the step before; rates: a learning rate a phase; exchange: with the other
    processes; flips: the store's, which say what classes the energy loss compares; recorder: of steps, on a GPU. Returns
    the losses and gradient norms by name. Raises NotFinite at a value that is not finite, before it reaches the weights.
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
            found = _gradients(model, part, noise, config, ignore, dtype, due, share, flips, recorder)
        for name, loss in zip(found, torch.stack([loss.float() for loss in found.values()]).tolist()):
            losses[name] += loss * share
    updated = [phase.network for phase in phases if due[phase.name]]
    losses = exchange.add_up(updated, model.networks, losses, model.device)
    check_finite(losses, step)
    with timed("optimizer"):
        norms = {phase.name: phase.gradient_norm(config.training.clip) for phase in phases if due[phase.name]}
        check_finite({f"gradient of {name}": norm for name, norm in norms.items()}, step)
        for phase in phases:
            phase.update(rates[phase.name] if due[phase.name] else None)
    return dict(losses) | {f"gradient_{name}": norm for name, norm in norms.items()}


def _gradients(
    model: Segmenter,
    part: Batch,
    noise: Tensor,
    config: Config,
    ignore: int | None,
    dtype: torch.dtype,
    due: Mapping[str, bool],
    share: float,
    flips: Sequence[tuple[int, int, float]],
    recorder: Recorder | None,
) -> dict[str, Tensor]:
    """Gradients of one part of the batch, left at the weights; returns the losses by name."""
    objective, classes = config.objective, len(model.classes)
    train_discriminator = due.get("discriminator", False)

    def work(images: Tensor, labels: Tensor, seen: Tensor | None, z: Tensor, pull: Tensor | None) -> dict[str, Tensor]:
        batch = Batch(images, labels, seen)
        if isinstance(model, Baseline):
            return baseline_gradients(model, batch, z, objective, ignore, dtype, share)
        return accumulate_gradients(
            model.networks, batch, z, objective, classes, ignore, dtype, train_discriminator, share, flips, pull
        )

    inputs = part.images, part.labels, part.blackbox, noise
    if recorder is None:
        return work(*inputs, None)
    # what a recording holds does not change, but this weight does from step to step
    pull = torch.tensor(objective.nearest, device=noise.device) if objective.nearest else None
    return recorder.run(train_discriminator, work, (*inputs, pull))


def check_finite(values: Mapping[str, Any], step: int, rate: str = "--phases.*.lr") -> None:
    """RunError that names the first value that is not finite, and the flag of the learning rate."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise NotFinite(
                f"{name} is {value} in step {step}; nothing of this step was kept. Lower the learning rate "
                f"({rate}) or check the data, then go on from the last checkpoint with --resume"
            )
