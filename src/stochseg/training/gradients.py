"""One step's losses of all networks, and their gradients. Which equation is where: ARCHITECTURE.md."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from stochseg.baselines.baseline import Baseline
from stochseg.config import ObjectiveConfig
from stochseg.data.batches import Batch
from stochseg.models.blackbox import with_seen
from stochseg.models.class_maps import class_maps, one_hot_maps
from stochseg.models.interfaces import RefinementNet
from stochseg.models.precision import autocast
from stochseg.objectives.adversarial import straight_through
from stochseg.objectives.calibration import mask_ignored
from stochseg.objectives.energy import (
    empty_cross_entropy,
    energy_loss,
    marginal_brier,
    marginal_cross_entropy,
    mean_of_samples,
    nearest_cross_entropy,
)
from stochseg.objectives.likelihood import CATEGORICAL
from stochseg.objectives.targets import Targets
from stochseg.training.compiled import calibrate, hypothesise
from stochseg.training.objective import backward, discriminator_gradients, refinement_losses
from stochseg.training.profile import timed


def baseline_gradients(
    model: Baseline,
    part: Batch,
    z: Tensor,
    objective: ObjectiveConfig,
    ignore: int | None,
    dtype: torch.dtype,
    share: float,
) -> dict[str, Tensor]:
    """The same for a method with one network and one loss of its own: the first of those that it names."""
    device = part.images.device
    targets = Targets.of(part.labels, len(model.classes), ignore, objective.raters == "all")
    with timed("F"), autocast(dtype, device):
        losses = model.losses(part.images, targets, z)
    backward(next(iter(losses.values())), share)
    return {name: loss.detach() for name, loss in losses.items()}


def accumulate_gradients(
    networks: nn.ModuleDict,
    part: Batch,
    z: Tensor,
    objective: ObjectiveConfig,
    classes: int,
    ignore: int | None,
    dtype: torch.dtype,
    train_discriminator: bool,
    share: float,
    flips: Sequence[tuple[int, int, float]] = (),
    pull: Tensor | None = None,
) -> dict[str, Tensor]:
    """Add the gradients of one part of a step's batch, weighted by its share; returns the losses by name.

    part: images and, where there is a black box, what is seen of it [b k h w], as the networks take them.
    flips: where classes flip, the energy loss compares those, as the scores do; else all but the first. pull: the weight
    `objective.nearest` as a tensor, where it changes under a recorded step.
    The three losses touch one network each: q is detached before it enters G, the discriminator's weights are frozen
    while G learns from it, and its own loss sees a detached sample.
    """
    device = part.images.device
    targets = Targets.of(part.labels, classes, ignore, objective.raters == "all")
    x = part.images
    losses: dict[str, Tensor] = {}

    with torch.set_grad_enabled(objective.cross_entropy > 0), autocast(dtype, device):
        with timed("F"):
            logits = calibrate(networks, with_seen(x, part.blackbox))
        losses["cross_entropy"] = CATEGORICAL.cross_entropy(logits, targets.mean)
    backward(objective.cross_entropy * losses["cross_entropy"], share)

    q = logits.detach().float().softmax(1)
    if cast(RefinementNet, networks["refinement"]).masks_ignored:
        q = _visible(q, targets, ignore)
    with timed("G"), autocast(dtype, device):
        logits, choice = hypothesise(networks, x, q, z)  # [b n k h w], or all m shapes [b m k h w]
    empty = None if choice is None else choice.empty
    samples = logits.float().softmax(2)
    weights = None if choice is None else choice.weights
    mean = mean_of_samples(samples, empty, weights)
    total = samples.new_zeros(())
    if objective.energy:
        distance = _distance_arguments(targets, objective, ignore, flips)

        def energy(maps: Tensor) -> Tensor:
            drawn: dict[str, Any] = {"sample_weights": weights, "whole": weights is not None, "empty": empty}
            return energy_loss(maps, spread=objective.spread, **drawn, **distance).mean()

        losses["energy"] = energy(samples)
        total = total + objective.energy * losses["energy"]
        with torch.no_grad():  # what is scored in the end are class maps: by how much is the loss of soft ones off?
            losses["energy_gap"] = energy(one_hot_maps(class_maps(samples), classes)) - losses["energy"]
    if objective.nearest and weights is not None:
        losses["nearest"] = nearest_cross_entropy(
            logits, **_distance_arguments(targets, objective, ignore, flips)
        ).mean()
        total = total + (objective.nearest if pull is None else pull) * losses["nearest"]
    if objective.marginal:
        losses["marginal"] = (
            marginal_cross_entropy(mean, targets.mean)
            if objective.marginal_score == "log"
            else marginal_brier(samples, targets.mean, empty, weights)
        )
        total = total + objective.marginal * losses["marginal"]
    if objective.empty and choice is not None:
        losses["empty"] = empty_cross_entropy(choice.empty, targets.labels, targets.weights, ignore)
        total = total + objective.empty * losses["empty"]
        if weights is None:  # else it is counted, not learned
            equally = samples.new_full(samples.shape[:2], 1 / samples.shape[1])
            shapes = _visible(straight_through(samples.detach()), targets, ignore)
            losses["by_shape"] = empty_cross_entropy(choice.by_shape, shapes, equally, ignore)
            total = total + objective.empty * losses["by_shape"]
    discriminator = networks["discriminator"] if "discriminator" in networks and objective.adversarial else None
    maps = samples
    if discriminator is not None:
        drawn = samples if choice is None else choice.samples_of(z, samples, certain=1)
        maps = _visible(drawn, targets, ignore)
        maps = straight_through(maps) if objective.adversary == "relativistic" else maps
    papers, sum_of_papers = refinement_losses(
        CATEGORICAL, discriminator, x, targets.one, maps, mean, q, objective, dtype, targets.ignored
    )
    losses |= papers
    backward(total + sum_of_papers, share)
    if discriminator is not None:
        losses |= discriminator_gradients(
            discriminator, x, targets.one, maps[:, 0].detach(), objective, dtype, train_discriminator, share
        )
    return {name: loss.detach() for name, loss in losses.items()}


def _distance_arguments(
    targets: Targets, objective: ObjectiveConfig, ignore: int | None, flips: Sequence[tuple[int, int, float]]
) -> dict[str, Any]:
    """What the losses that measure how far maps are from labels have in common, as arguments."""
    counted, present = _flipping(targets.labels, flips)
    return {
        "labels": targets.labels,
        "weights": targets.weights,
        "kernel": objective.kernel,
        "smooth": objective.smooth,
        "ignore": ignore,
        "counted": counted,
        "present": present,
        "ignored": targets.ignored,
        "block": objective.block,
    }


def _flipping(labels: Tensor, flips: Sequence[tuple[int, int, float]]) -> tuple[list[int] | None, Tensor | None]:
    """The classes that flip, and which of them labels [b r k h w] of an image show on either side, bool [b k]."""
    if not flips:
        return None, None
    shown = labels.amax((1, 3, 4)) > 0
    present = torch.zeros_like(shown)
    for source, target, _ in flips:
        present[:, source] = present[:, target] = shown[:, source] | shown[:, target]
    return [c for flip in flips for c in flip[:2]], present


def _visible(maps: Tensor, targets: Targets, ignore: int | None) -> Tensor:
    """At ignored pixels every map is the one-hot ignore class, so that no loss and no gradient reaches them."""
    if targets.ignored is None or ignore is None:
        return maps
    return mask_ignored(maps, targets.ignored, ignore)
