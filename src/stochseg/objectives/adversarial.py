"""The adversarial losses, L_adv and L_D of the paper: refinement network against discriminator, with R1 penalty.

They take the discriminator's logits; its probability is D = max(sigmoid(logit), 1e-7), see `models.discriminator`.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

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


def r1_penalty(score: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """R1 of Mescheder et al. (2018): |grad D|^2 at real pairs, summed over all inputs of an image, mean over images.

    score: [b], what the discriminator says of each pair, computed from `inputs`: its probability in the paper, its
    logit in our presets. inputs: tensors [b ...] that require a gradient: the image and its label map. Differentiable.
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
