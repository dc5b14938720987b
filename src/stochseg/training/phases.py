"""The networks' updates as data: which network, with what optimizer, in which steps."""

from collections.abc import Iterator

import torch
from torch import nn

from stochseg.config import Config, PhaseConfig


class Phase:
    """One network and its optimizer."""

    def __init__(self, name: str, network: nn.Module, config: PhaseConfig) -> None:
        self.name, self.network, self.config = name, network, config
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        self.optimizer: torch.optim.Optimizer = kind(
            network.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True
        )

    def due(self, step: int, accuracy: float) -> bool:
        """Whether the network is updated in this step. accuracy: the discriminator's in the step before."""
        if step % self.config.period >= self.config.active:
            return False
        return self.config.accuracy_cap is None or accuracy < self.config.accuracy_cap

    def gradient_norm(self, clip: float | None) -> float:
        """Clip the gradients to this norm; returns the norm they had."""
        largest = float("inf") if clip is None else clip
        return float(torch.nn.utils.clip_grad_norm_(self.network.parameters(), largest))

    def update(self, rate: float | None) -> None:
        """Take one step at this learning rate (None: none), and clear the gradients."""
        if rate is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def make_phases(networks: nn.ModuleDict, config: Config) -> list[Phase]:
    """A phase for each network that is there, in the order of their updates."""

    def phases() -> Iterator[Phase]:
        for name in ("calibration", "refinement", "discriminator", "baseline"):
            if name in networks and any(True for _ in networks[name].parameters()):
                yield Phase(name, networks[name], getattr(config.phases, name))

    return list(phases())
