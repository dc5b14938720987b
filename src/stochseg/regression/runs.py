"""All runs of the study: the settings of their data, their networks, and what is drawn from them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stochseg.data.regression import Bimodal
from stochseg.regression.config import Method, StudyConfig
from stochseg.regression.networks import ManyMLPs

LEAKY = 0.01
ROWS_AT_ONCE = 1 << 19
"""Rows that networks take when they only sample, to hold memory."""


@dataclass(frozen=True)
class Grid:
    """The data of every setting and of every run. Runs are in the order of the settings, repetitions side by side."""

    settings: Bimodal
    runs: Bimodal

    @classmethod
    def of(cls, config: StudyConfig, device: torch.device) -> "Grid":
        pairs = torch.tensor([(pi, sigma) for pi in config.pi for sigma in config.sigma], device=device)
        repeated = pairs.repeat_interleave(config.repetitions, 0)
        return cls(*(Bimodal(each[:, :1], each[:, 1:]) for each in (pairs, repeated)))


def build_networks(config: StudyConfig, grid: Grid) -> nn.ModuleDict:
    """F of each setting, G and D of each run, with the random weights of the seed: the same for every method."""
    generator = torch.Generator().manual_seed(config.seed)

    def many(data: Bimodal, inputs: int, slope: float) -> ManyMLPs:
        return ManyMLPs(len(data.pi), inputs, slope, config.width, config.depth, generator).to(data.pi.device)

    return nn.ModuleDict(
        {
            "calibration": many(grid.settings, 1, 0.0),  # F(x)
            "refinement": many(grid.runs, 3, LEAKY),  # G([x, F(x)], z)
            "discriminator": many(grid.runs, 2, LEAKY),  # D([x, y])
        }
    )


@dataclass(frozen=True)
class Runs:
    """All runs of one method, r of them. x below: [r m], every run its own numbers."""

    method: Method
    grid: Grid
    networks: nn.ModuleDict

    @torch.no_grad()
    def calibration(self, x: Tensor) -> Tensor:
        """F(x) of each run's setting, [r m]."""
        mean: Tensor = self.networks["calibration"](x.reshape(-1, 1))
        return mean.view(x.shape)

    @torch.no_grad()
    def probability(self, x: Tensor, y: Tensor) -> Tensor:
        """D([x, y]) as a probability, [r m]."""
        logits: Tensor = self.networks["discriminator"](x.reshape(-1, 1), y.reshape(-1, 1))
        return logits.view(x.shape).sigmoid()

    @torch.no_grad()
    def sample(self, x: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """n samples of each x, [r m n]."""
        columns = max(1, ROWS_AT_ONCE // (len(x) * n))
        parts = []
        for part in x.split(columns, 1):
            z = torch.randn(part.numel(), n, 1, generator=generator).to(x.device)
            reference = self.calibration(part).view(-1, 1)
            parts.append(
                draw_samples(self.networks["refinement"], part.reshape(-1, 1), reference, z).view(*part.shape, n)
            )
        return torch.cat(parts, 1)


def draw_samples(refinement: nn.Module, x: Tensor, reference: Tensor, z: Tensor) -> Tensor:
    """G([x, F(x)], z), [rows n 1]. x, reference: [rows 1], reference being F(x); z: [rows n 1]."""
    n = z.shape[1]
    repeated = (each.repeat_interleave(n, 0) for each in (x, reference))
    samples: Tensor = refinement(*repeated, z.flatten(0, 1))
    return samples.view(z.shape)
