"""One step's losses of all networks, and their gradients. Which equation is where: ARCHITECTURE.md."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from stochseg.config import ObjectiveConfig
from stochseg.data.batches import Batch
from stochseg.data.store import MISSING_RATER
from stochseg.models.car import one_hot_maps
from stochseg.models.discriminator import probability
from stochseg.models.interfaces import RefinementNet
from stochseg.models.precision import autocast
from stochseg.objectives.adversarial import discriminator_accuracy, discriminator_loss, generator_loss, r1_penalty
from stochseg.objectives.calibration import calibration_kl, mask_ignored
from stochseg.objectives.cross_entropy import cross_entropy
from stochseg.objectives.energy import energy_loss, marginal_cross_entropy


@dataclass(frozen=True)
class Targets:
    """The annotations of a batch as the losses want them.

    labels: one-hot [b r k h w], zeros for a missing rater; weights [b r], rows summing to 1 (0 for a missing rater);
    mean: the raters' frequencies [b k h w], zeros where ignored; one: a one-hot map [b k h w] of one rater;
    ignored: bool [b h w], or None where the store ignores no class.
    """

    labels: Tensor
    weights: Tensor
    mean: Tensor
    one: Tensor
    ignored: Tensor | None

    @classmethod
    def of(cls, labels: Tensor, classes: int, ignore: int | None, all_raters: bool) -> "Targets":
        """labels: uint8 [b r h w], raters in random order. With all_raters False every target is the first rater's."""
        present = (labels != MISSING_RATER).flatten(2).any(2)
        first = present.float().argmax(1)  # the raters are shuffled: the first one present is one at random
        if not all_raters:
            rows = torch.arange(len(labels), device=labels.device)
            labels, present = labels[rows, first][:, None], present[rows, first][:, None]
            first = torch.zeros_like(first)
        ignored = None
        if ignore is not None:  # a pixel that one rater ignores carries no loss for any, so all say the same there
            ignored = (labels == ignore).any(1)
            labels = torch.where(ignored[:, None] & present[..., None, None], ignore, labels)
        one_hot = one_hot_maps(labels, classes)
        weights = present.float() / present.sum(1, keepdim=True).clamp_min(1)
        one = one_hot[torch.arange(len(labels), device=labels.device), first]
        mean = torch.einsum("brkhw,br->bkhw", one_hot, weights)
        if ignored is not None:
            mean = mean * ~ignored[:, None]
        return cls(one_hot, weights, mean, one, ignored)


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
            samples, targets.labels, targets.weights, objective.kernel, objective.smooth, ignore
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
