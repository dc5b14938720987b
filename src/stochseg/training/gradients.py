"""One step's losses of all networks, and their gradients. Which equation is where: ARCHITECTURE.md."""

from typing import cast

import torch
from torch import Tensor, nn

from stochseg.baselines.baseline import Baseline
from stochseg.config import ObjectiveConfig
from stochseg.data.batches import Batch
from stochseg.models.discriminator import probability
from stochseg.models.interfaces import RefinementNet
from stochseg.models.precision import autocast
from stochseg.objectives.adversarial import discriminator_accuracy, discriminator_loss, generator_loss, r1_penalty
from stochseg.objectives.calibration import calibration_kl, mask_ignored
from stochseg.objectives.cross_entropy import cross_entropy
from stochseg.objectives.energy import energy_loss, marginal_cross_entropy
from stochseg.objectives.targets import Targets


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
    with autocast(dtype, device):
        losses = model.losses(part.images, targets, z)
    _backward(next(iter(losses.values())), share)
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
) -> dict[str, Tensor]:
    """Add the gradients of one part of a step's batch, weighted by its share; returns the losses by name.

    The three losses touch one network each: q is detached before it enters G, the discriminator's weights are frozen
    while G learns from it, and its own loss sees a detached sample.
    """
    device = part.images.device
    targets = Targets.of(part.labels, classes, ignore, objective.raters == "all")
    x = part.images
    losses: dict[str, Tensor] = {}

    with torch.set_grad_enabled(objective.cross_entropy > 0), autocast(dtype, device):
        logits = networks["calibration"](x)
        losses["cross_entropy"] = cross_entropy(logits, targets.mean)
    _backward(objective.cross_entropy * losses["cross_entropy"], share)

    q = _visible(logits.detach().float().softmax(1), targets, ignore)
    refinement = cast(RefinementNet, networks["refinement"])
    with autocast(dtype, device):
        sample_logits = refinement.decode(refinement.encode(x, q), z)  # [b n k h w]
    samples = _visible(sample_logits.float().softmax(2), targets, ignore)
    total = samples.new_zeros(())
    if objective.energy:
        losses["energy"] = energy_loss(
            samples, targets.labels, targets.weights, objective.kernel, objective.smooth, ignore, objective.spread
        ).mean()
        total = total + objective.energy * losses["energy"]
    if objective.marginal:
        losses["marginal"] = marginal_cross_entropy(samples, targets.mean)
        total = total + objective.marginal * losses["marginal"]
    if objective.calibration:
        losses["calibration"] = calibration_kl(samples.mean(1), q)
        total = total + objective.calibration * losses["calibration"]
    discriminator = networks["discriminator"] if "discriminator" in networks and objective.adversarial else None
    if discriminator is not None:
        discriminator.requires_grad_(False)
        n = samples.shape[1]
        with autocast(dtype, device):
            fake = discriminator(x.repeat_interleave(n, 0), samples.flatten(0, 1))
        discriminator.requires_grad_(True)
        losses["adversarial"] = generator_loss(fake)
        total = total + objective.adversarial * losses["adversarial"]
    _backward(total, share)

    if discriminator is not None:
        losses |= _discriminator(
            discriminator, x, targets.one, samples[:, 0].detach(), objective, dtype, train_discriminator, share
        )
    return {name: loss.detach() for name, loss in losses.items()}


def _discriminator(
    discriminator: nn.Module,
    x: Tensor,
    real_maps: Tensor,
    fake_maps: Tensor,
    objective: ObjectiveConfig,
    dtype: torch.dtype,
    train: bool,
    share: float,
) -> dict[str, Tensor]:
    """The discriminator's loss on one real and one fake map an image; frozen steps only measure its accuracy."""
    with torch.set_grad_enabled(train), autocast(dtype, x.device):
        real_x, real_y = x.detach().requires_grad_(train), real_maps.detach().requires_grad_(train)
        real, fake = discriminator(real_x, real_y), discriminator(x, fake_maps)
    losses = {"accuracy": discriminator_accuracy(real, fake)}
    if train:
        losses["discriminator"] = total = discriminator_loss(real, fake)
        if objective.r1:
            score = probability(real.float()) if objective.r1_on == "probability" else real.float()
            losses["r1"] = r1_penalty(score, (real_x, real_y))
            total = total + objective.r1 * losses["r1"]
        _backward(total, share)
    return losses


def _visible(maps: Tensor, targets: Targets, ignore: int | None) -> Tensor:
    """At ignored pixels every map is the one-hot ignore class, so that no loss and no gradient reaches them."""
    if targets.ignored is None or ignore is None:
        return maps
    return mask_ignored(maps, targets.ignored, ignore)


def _backward(loss: Tensor, share: float) -> None:
    if loss.requires_grad:
        (loss * share).backward()
