"""What the methods for comparison have in common: one network, built from a `BaselineConfig`."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from stochseg.config import BaselineConfig, to_plain
from stochseg.data.store import ClassInfo
from stochseg.models.class_maps import class_maps
from stochseg.models.model_files import as_tuples, classes_of
from stochseg.models.segmenter import Segmenter
from stochseg.objectives.targets import Targets
from stochseg.sampling.sample import PIXELS_AT_ONCE
from stochseg.sampling.tiling import Tile

MARGINAL_SAMPLES = 16
"""Samples whose mean stands for q, where a method has no marginals of its own."""


class Baseline(Segmenter):
    """A method with one network. A subclass builds it, gives its losses, and draws soft samples."""

    def __init__(
        self,
        classes: int | Sequence[ClassInfo] = 2,
        channels: int = 1,
        size: tuple[int, int] = (64, 64),
        config: BaselineConfig | None = None,
        seed: int = 0,
        precision: str = "float32",
    ) -> None:
        super().__init__(classes, channels, size, precision)
        self.config = config or BaselineConfig()
        with torch.random.fork_rng([]):  # the weights are drawn on the CPU
            torch.manual_seed(seed)
            network = self.build(channels, len(self.classes), self.config)
        self.networks = nn.ModuleDict({"baseline": network}).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.networks.eval()

    @property
    def network(self) -> nn.Module:
        return self.networks["baseline"]

    @abstractmethod
    def build(self, channels: int, classes: int, config: BaselineConfig) -> nn.Module:
        """The network, with weights drawn from the global generator."""

    @abstractmethod
    def losses(self, x: Tensor, targets: Targets, z: Tensor) -> dict[str, Tensor]:
        """Scalars by name for images x [b c h w]; the first is what is minimised. z: standard normal [b n z]."""

    @abstractmethod
    def soft_samples(self, x: Tensor, z: Tensor) -> Tensor:
        """Probabilities float32 [b n k h w] of the samples that z [b n z] stands for; a class map is their argmax."""

    @torch.no_grad()
    def marginals(self, images: Tensor, blackbox: Tensor | None = None, tile: Tile = None) -> Tensor:
        """The mean of soft samples of a fixed z: float32 [b k h w]."""
        self.tiling((images.shape[-2], images.shape[-1]), tile)  # refuses them
        z = torch.randn(MARGINAL_SAMPLES, self.latent, generator=torch.Generator().manual_seed(0))
        x = self.as_input(images)
        self.as_seen(x, blackbox)  # refuses one
        return torch.cat([soft.mean(1) for soft in self._chunks(x, z.expand(len(x), -1, -1))])

    def draw(self, x: Tensor, z: Tensor, seen: Tensor | None = None) -> Tensor:
        return torch.cat([class_maps(soft) for soft in self._chunks(x, z)])

    def _chunks(self, x: Tensor, z: Tensor) -> list[Tensor]:
        """Soft samples of a few images at a time."""
        self.networks.eval()
        at_once = max(1, PIXELS_AT_ONCE // (x.shape[-2] * x.shape[-1] * z.shape[1]))
        with self._autocast():
            return [
                self.soft_samples(part, noise.to(self.device)).float()
                for part, noise in zip(x.split(at_once), z.split(at_once), strict=True)
            ]

    def configs(self) -> dict[str, Any]:
        return {"baseline": self.config, "method": self.method}

    def facts(self) -> dict[str, Any]:
        return {"baseline": to_plain(self.config)}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], precision: str, calibration: nn.Module | None) -> Self:
        config = BaselineConfig(**as_tuples(facts["baseline"]))
        return cls(classes_of(facts), facts["channels"], tuple(facts["size"]), config, precision=precision)
