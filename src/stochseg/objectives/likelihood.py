"""What F(x) says of an answer: the one thing in which segmentation and regression differ for the paper's objective."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from stochseg.objectives.calibration import calibration_kl, gaussian_kl
from stochseg.objectives.cross_entropy import cross_entropy, gaussian_cross_entropy


@dataclass(frozen=True)
class Likelihood:
    """A family of distributions of an answer given F(x)."""

    cross_entropy: Callable[[Tensor, Tensor], Tensor]
    """L_ce(what F returns, answers): a scalar."""
    divergence: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """L_cal(mean of the samples, F(x), what of an answer is ignored): a scalar, without a gradient for F."""


CATEGORICAL = Likelihood(cross_entropy, calibration_kl)
"""Classes of pixels: F returns logits [b k h w], F(x) is their softmax, the mean of one-hot maps."""
GAUSSIAN = Likelihood(gaussian_cross_entropy, gaussian_kl)
"""Numbers: F returns, and F(x) is, the mean of a Gaussian of variance 1."""
