"""What the networks must offer to each other."""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

FIELD = 8
"""Side of the coarse noise field, in cells: FIELD * FIELD numbers of z, stretched over the image."""


class Choice(NamedTuple):
    """Whether anything is there at all, as a choice beside the shapes: probabilities [b] that the image alone gives."""

    empty: Tensor
    """P(empty): what training takes its exact mean over."""
    by_shape: Tensor
    """How often a shape turns out empty although something was chosen: a network that is not sure of a shape may do so."""

    @property
    def drawn(self) -> Tensor:
        """How often the empty map is to be drawn, so that with the empty shapes P(empty) comes out right."""
        return ((self.empty - self.by_shape) / (1 - self.by_shape).clamp_min(1e-3)).clamp(0, 1)

    def falls(self, z: Tensor) -> Tensor:
        """Which of the samples that z [b n z] stands for are the empty map, bool [b n]: z's last number says."""
        chosen: Tensor = torch.special.ndtr(z[..., -1].float()) < self.drawn[:, None]
        return chosen


class RefinementNet(Protocol):
    """G([x, q], z), cut in two so that the work without z is done once an image."""

    latent: int
    """Length of z."""
    field_part: slice
    """Which numbers of z are a field of FIELD x FIELD cells; empty for a network without one."""

    def encode(self, x: Tensor, q: Tensor) -> Any:
        """Features of images [b c h w] and their q [b k h w] that do not depend on z."""

    def decode(self, features: Any, z: Tensor) -> Tensor:
        """Logits [b n k h w] of the samples that z [b n z] stands for."""

    def hypotheses(self, features: Any, z: Tensor) -> tuple[Tensor, Choice | None]:
        """The same before the choice of the empty map, and that choice; None for a network without it."""
