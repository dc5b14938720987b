"""Training of all runs at once: the same objective as segmentation's, with a Gaussian in place of the categorical."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stochseg.config import ObjectiveConfig
from stochseg.data.regression import Bimodal
from stochseg.errors import Stopped
from stochseg.objectives.energy import energy_loss
from stochseg.objectives.likelihood import GAUSSIAN
from stochseg.progress import track
from stochseg.regression.config import METHODS, StudyConfig
from stochseg.regression.runs import Runs, draw_samples
from stochseg.regression.scores import grid_of_x, score_samples
from stochseg.training.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from stochseg.training.loop import step_generator
from stochseg.training.objective import backward, discriminator_gradients, refinement_losses
from stochseg.training.phases import Phase
from stochseg.training.step import check_finite
from stochseg.training.stopping import StopRequest

SECONDS_BETWEEN_CHECKPOINTS = 60.0
CURVE_POINTS, CURVE_SAMPLES = 40, 50
"""Numbers x, and samples of each, behind a point of a training curve."""

Losses = dict[str, Tensor]
Numbers = dict[str, Any]
"""What a training leaves beside its weights: "step", "seconds" it took, and "curves", its scores by step."""


def train_calibration(
    network: nn.Module, data: Bimodal, config: StudyConfig, folder: Path, stopped: StopRequest
) -> Numbers:
    """Train F of every setting, or go on from the checkpoint in `folder`."""

    def gradients(generator: torch.Generator) -> Losses:
        x, y = draw_batch(data, config.calibration_batch, generator)
        loss = GAUSSIAN.cross_entropy(network(x), y)
        backward(loss, share=len(data.pi))
        return {"cross_entropy": loss.detach()}

    networks = nn.ModuleDict({"calibration": network})
    return _train(networks, gradients, None, config.calibration_steps, "calibration network", config, folder, stopped)


def train_runs(runs: Runs, config: StudyConfig, folder: Path, stopped: StopRequest) -> Numbers:
    """Train G, and D where the objective wants one, of every run, or go on from the checkpoint in `folder`.

    Its curves are the scores of every run after each `score_every` steps: {"step": step, score: [a number a run]}.
    """
    objective, data = config.objective(runs.method), runs.grid.runs
    networks = nn.ModuleDict({"refinement": runs.networks["refinement"]})
    if objective.adversarial:
        networks["discriminator"] = runs.networks["discriminator"]

    def gradients(generator: torch.Generator) -> Losses:
        x, y = draw_batch(data, config.batch, generator)  # drawn before z: the same batches by every method
        z = torch.randn(len(x), objective.samples, 1, generator=generator).to(x.device)
        reference = runs.calibration(x.view(len(data.pi), -1)).view(-1, 1)
        return accumulate_gradients(networks, x, y, reference, z, objective, len(data.pi))

    def score() -> dict[str, list[float]]:
        x = grid_of_x(data, CURVE_POINTS)
        samples = runs.sample(x, CURVE_SAMPLES, torch.Generator().manual_seed(config.seed))
        return {name: [float(f"{v:.5g}") for v in each] for name, each in score_samples(data, x, samples).items()}

    return _train(networks, gradients, score, config.steps, METHODS[runs.method], config, folder, stopped)


def draw_batch(data: Bimodal, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """x ~ U(0, 1) and an answer to each, `batch` of every run: [rows 1] in the order of the runs."""
    x = torch.rand(len(data.pi), batch, generator=generator).to(data.pi.device)
    return x.view(-1, 1), data.draw(x, generator).view(-1, 1)


def accumulate_gradients(
    networks: nn.ModuleDict, x: Tensor, y: Tensor, reference: Tensor, z: Tensor, objective: ObjectiveConfig, runs: int
) -> Losses:
    """Gradients of G and D from one batch, of each run as if it were alone; returns the losses, means over the runs.

    x, y, reference: [rows 1] in the order of the runs; reference: F(x), without a gradient; z: [rows n 1].
    A mean over all rows is a mean over runs, so `runs` times it has the gradients of every run's own mean.
    """
    samples = draw_samples(networks["refinement"], x, reference, z)
    discriminator = networks["discriminator"] if "discriminator" in networks else None
    losses, total = refinement_losses(
        GAUSSIAN, discriminator, x, y, samples, samples.mean(1), reference, objective, torch.float32
    )
    if objective.energy:
        losses["energy"] = _energy(samples, y, objective)
        total = total + objective.energy * losses["energy"]
    backward(total, share=runs)
    if discriminator is not None:
        losses |= discriminator_gradients(
            discriminator, x, y, samples[:, 0].detach(), objective, torch.float32, train=True, share=runs
        )
    return {name: loss.detach() for name, loss in losses.items()}


def _energy(samples: Tensor, y: Tensor, objective: ObjectiveConfig) -> Tensor:
    """Segmentation's energy loss, to which a number is a map of one pixel, beside a background that does not count."""

    def maps(numbers: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(numbers), numbers], 2)[..., None]  # [rows n 2 1 1]

    weights = y.new_ones(len(y), 1)
    return energy_loss(maps(samples), maps(y[:, None]), weights, objective.kernel, spread=objective.spread).mean()


def _train(
    networks: nn.ModuleDict,
    gradients: Callable[[torch.Generator], Losses],
    score: Callable[[], dict[str, list[float]]] | None,
    steps: int,
    what: str,
    config: StudyConfig,
    folder: Path,
    stopped: StopRequest,
) -> Numbers:
    """The loop of either training; batches and noise are functions of (seed, step), all else is in the checkpoint."""
    phases = [Phase(name, network, config.phase()) for name, network in networks.items()]
    numbers: Numbers = {"step": 0, "seconds": 0.0, "curves": []}
    if has_checkpoint(folder):
        numbers = load_checkpoint(folder, networks, None, phases)
    saved = time.monotonic()
    start = saved - numbers["seconds"]
    todo = range(numbers["step"] + 1, steps + 1)
    for step in track(todo, len(todo), what, "steps"):
        losses = gradients(step_generator(config.seed, step))
        check_finite(losses, step, "--lr")
        for phase in phases:
            phase.update(config.lr)
        numbers["step"] = step
        if score is not None and (step % config.score_every == 0 or step == steps):
            numbers["curves"].append({"step": step} | score())
        ended = stopped.is_set() or step == steps
        if ended or time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
            saved = time.monotonic()
            numbers["seconds"] = saved - start
            save_checkpoint(folder, networks, None, phases, numbers)
        if stopped.is_set():
            raise Stopped(f"stopped by a signal at step {step}, {what}; go on with --resume")
    return numbers
