"""The paper's objective on one batch, the same for every likelihood: maps of classes here, numbers in the regression study.

An answer is whatever F, G and D are about, [b ...]; samples are answers [b n ...].
"""

import torch
from torch import Tensor, nn

from stochseg.config import ObjectiveConfig
from stochseg.models.discriminator import probability
from stochseg.models.precision import autocast
from stochseg.objectives.adversarial import (
    discriminator_accuracy,
    discriminator_loss,
    generator_loss,
    r1_penalty,
    relativistic_discriminator_loss,
    relativistic_generator_loss,
)
from stochseg.objectives.likelihood import Likelihood
from stochseg.training.profile import timed


def refinement_losses(
    likelihood: Likelihood,
    discriminator: nn.Module | None,
    x: Tensor,
    real: Tensor,
    samples: Tensor,
    mean: Tensor,
    reference: Tensor,
    objective: ObjectiveConfig,
    dtype: torch.dtype,
    ignored: Tensor | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """L_cal and L_adv of the samples, those that have a weight, and L_G, their weighted sum.

    real: an answer of the data to each x; samples: what the discriminator sees; mean: their mean, reference: F(x), both
    as the likelihood wants them; ignored: parts of an answer that count 0 in L_cal. The discriminator's weights get no
    gradient.
    """
    losses = {}
    total = mean.new_zeros(())
    if objective.calibration:
        losses["calibration"] = likelihood.divergence(mean, reference, ignored)
        total = total + objective.calibration * losses["calibration"]
    if discriminator is not None:
        losses["adversarial"] = _adversarial(discriminator, x, real, samples, objective, dtype)
        total = total + objective.adversarial * losses["adversarial"]
    return losses, total


def _adversarial(
    discriminator: nn.Module, x: Tensor, real: Tensor, samples: Tensor, objective: ObjectiveConfig, dtype: torch.dtype
) -> Tensor:
    b, n = samples.shape[:2]
    discriminator.requires_grad_(False)
    with timed("D"), autocast(dtype, x.device):
        fake_logits = discriminator(x.repeat_interleave(n, 0), samples.flatten(0, 1)).view(b, n)
        real_logits = discriminator(x, real) if objective.adversary == "relativistic" else None
    discriminator.requires_grad_(True)
    if real_logits is None:
        return generator_loss(fake_logits)
    return relativistic_generator_loss(real_logits.view(b), fake_logits)


def discriminator_gradients(
    discriminator: nn.Module,
    x: Tensor,
    real: Tensor,
    fake: Tensor,
    objective: ObjectiveConfig,
    dtype: torch.dtype,
    train: bool,
    share: float,
) -> dict[str, Tensor]:
    """L_D on one real and one fake answer to each x, and its gradients; frozen steps only measure the accuracy."""
    with timed("D"), torch.set_grad_enabled(train), autocast(dtype, x.device):
        real_pair = [each.detach().clone().requires_grad_(train and objective.r1 > 0) for each in (x, real)]
        fake_pair = [each.detach().clone().requires_grad_(train and objective.r2 > 0) for each in (x, fake)]
        real_logits, fake_logits = discriminator(*real_pair), discriminator(*fake_pair)
    relativistic = objective.adversary == "relativistic"
    # a relativistic one tells only which of two is real
    right = (
        (real_logits > fake_logits).float().mean() if relativistic else discriminator_accuracy(real_logits, fake_logits)
    )
    losses = {"accuracy": right}
    if train:
        loss = relativistic_discriminator_loss if relativistic else discriminator_loss
        losses["discriminator"] = total = loss(real_logits, fake_logits)
        for name, weight, logit, pair in (
            ("r1", objective.r1, real_logits, real_pair),
            ("r2", objective.r2, fake_logits, fake_pair),
        ):
            if weight:
                score = probability(logit.float()) if objective.r1_on == "probability" else logit.float()
                losses[name] = r1_penalty(score, pair)
                total = total + weight * losses[name]
        backward(total, share)
    return losses


def backward(loss: Tensor, share: float) -> None:
    """Add the gradients of `share` times a loss; none of one that is a constant."""
    if loss.requires_grad:
        with timed("backward"):
            (loss * share).backward()
