"""The adversarial losses: L_adv and L_D of the paper, refinement network against discriminator, with gradient penalty,
and relativistic ones of pairs (Jolicoeur-Martineau 2018, arXiv 1807.00734; with penalties on both sides, "R3GAN", Huang
et al. 2024, arXiv 2501.05441), which ask whether a rater's map looks more real than a sample of the same image.

They take the discriminator's logits; its probability is D = max(sigmoid(logit), 1e-7), see `models.discriminator`.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stochseg.models.class_maps import class_maps, one_hot_maps
from stochseg.objectives.pixels import full_precision

LOG_FLOOR = math.log(1e-7)


def generator_loss(fake: Tensor) -> Tensor:
    """L_adv = -log D(x, G), non-saturating, mean over all samples: a scalar.

    fake: logits of the samples, any shape. As in the paper's code there is no gradient where D is at its floor.
    """
    return -_log_probability(fake).mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """L_D without its penalty: -log D(x, y) - log(1 - D(x, G)), each a mean over its logits: a scalar.

    Computed from logits, so the second term keeps its gradient where D is 1 in float32 (the paper's code loses it).
    """
    return -_log_probability(real).mean() + F.softplus(full_precision(fake)).mean()


def relativistic_generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """-log sigmoid(D(x, G) - D(x, y)), mean over all samples: a scalar.

    real: logits [b] of a rater's map of each image; fake: logits [b n] of its samples.
    """
    return F.softplus(full_precision(real)[:, None] - full_precision(fake)).mean()


def relativistic_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """-log sigmoid(D(x, y) - D(x, G)) without its penalties, mean over images: a scalar. real, fake: logits [b]."""
    return F.softplus(full_precision(fake) - full_precision(real)).mean()


def straight_through(maps: Tensor) -> Tensor:
    """One-hot class maps of soft ones [... k h w], with the gradient of the soft ones (Bengio et al. 2013)."""
    hard = one_hot_maps(class_maps(maps.detach()), maps.shape[-3])
    return hard + maps - maps.detach()


def r1_penalty(score: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """R1 of Mescheder et al. (2018): |grad D|^2 at real pairs, summed over all inputs of an image, mean over images.

    At pairs of image and sample it is their R2. score: [b], what the discriminator says of each pair, computed from
    `inputs`: its probability in the paper, its logit in our presets. inputs: tensors [b ...] that require a gradient:
    the image and its label map. Differentiable.
    """
    gradients = torch.autograd.grad(full_precision(score).sum(), list(inputs), create_graph=True)
    return torch.stack([full_precision(g).square().flatten(1).sum(1) for g in gradients]).sum(0).mean()


@torch.no_grad()
def discriminator_accuracy(real: Tensor, fake: Tensor) -> Tensor:
    """The share of pairs, real and fake together, that the discriminator tells rightly: a scalar in [0, 1].

    real, fake: logits [b]. A pair is called real where D > 1/2. The paper's schedule stops training the discriminator
    in the step after this reached its cap.
    """
    return torch.cat([real > 0, fake <= 0]).float().mean()


def _log_probability(logit: Tensor) -> Tensor:
    return F.logsigmoid(full_precision(logit)).clamp(min=LOG_FLOOR)
