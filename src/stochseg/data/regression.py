"""Numbers y with two answers to each x, whose distribution is known exactly: the paper's regression (section 5.1).

 0.5  ------\\            x ~ U(0, 1); the upper branch has probability pi, the lower one the rest; noise N(0, sigma)
 0.0         >-----
-0.5  ------/            branches: +-0.5 below x = 0.4, +-(1 - 1.25 x) up to 0.8, 0 beyond
      0    .4  .8   1
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

FORKED = 0.7
"""Below this x the branches lie apart by more than 8 of the largest sigma, so that an answer's sign tells its branch."""
DENSITY_FLOOR = 1e-11
"""Added to the density under the logarithm, as in the paper's code: no answer scores less than -25.3."""


def upper_branch(x: Tensor) -> Tensor:
    """The height of the upper branch; the lower one is its mirror image."""
    return torch.where(x < 0.4, 0.5, torch.where(x < 0.8, 1 - 1.25 * x, 0.0))


@dataclass(frozen=True)
class Bimodal:
    """The distribution of y given x in several settings at once.

    pi: probability of the upper branch; sigma: deviation of the noise; one number a setting, [s 1]. Every x and y below
    is [s ...]: its first axis is the setting.
    """

    pi: Tensor
    sigma: Tensor

    def draw(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """One answer to each x [s m], drawn on the CPU: the same on every device."""
        upper = torch.rand(x.shape, generator=generator).to(x.device) < self.pi
        noise = torch.randn(x.shape, generator=generator).to(x.device)
        branch = upper_branch(x)
        return torch.where(upper, branch, -branch) + self.sigma * noise

    def mean(self, x: Tensor) -> Tensor:
        """E[y | x] of each x [s m]: what a calibration network should learn."""
        return (2 * self.pi - 1) * upper_branch(x)

    def log_density(self, x: Tensor, y: Tensor) -> Tensor:
        """log(p(y | x) + DENSITY_FLOOR) of answers y [s m n] to x [s m]."""
        branch, pi, sigma = upper_branch(x)[..., None], self.pi[..., None], self.sigma[..., None]
        density = pi * _normal((y - branch) / sigma) + (1 - pi) * _normal((y + branch) / sigma)
        return (density / sigma + DENSITY_FLOOR).log()

    def mean_distance(self, x: Tensor, y: Tensor) -> Tensor:
        """E|y - Y| of numbers y [s m n], Y an answer to x [s m]: exact."""
        branch, pi, sigma = upper_branch(x)[..., None], self.pi[..., None], self.sigma[..., None]
        return pi * _mean_absolute(y - branch, sigma) + (1 - pi) * _mean_absolute(y + branch, sigma)

    def mean_difference(self, x: Tensor) -> Tensor:
        """E|Y - Y'| of two independent answers to each x [s m]: exact."""
        two = math.sqrt(2) * self.sigma
        unlike = 2 * self.pi * (1 - self.pi)
        apart = 2 * upper_branch(x)
        return (1 - unlike) * _mean_absolute(torch.zeros_like(x), two) + unlike * _mean_absolute(apart, two)


def _normal(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)


def _mean_absolute(distance: Tensor, sigma: Tensor) -> Tensor:
    """E|d + sigma N(0, 1)|, the mean of a folded Gaussian (Leone et al. 1961)."""
    z = distance / sigma
    return sigma * (2 * _normal(z) + z * torch.erf(z / math.sqrt(2)))
