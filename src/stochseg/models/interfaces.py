"""What the networks must offer to each other."""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

CERTAIN = 20.0
"""Logit of the background in a map without anything."""

FIELD = 8
"""Side of the coarse noise field, in cells: FIELD * FIELD numbers of z, stretched over the image."""


class Choice(NamedTuple):
    """What is chosen beside the shapes, with probabilities that the image alone gives: whether anything is there at all, and
    of a network with a fixed number m of shapes, which. z's last number chooses."""

    empty: Tensor
    """P(empty), [b]: what training takes its exact mean over."""
    by_shape: Tensor
    """How often a shape turns out empty although something was chosen, [b]: a network that is not sure of one may do so."""
    weights: Tensor | None = None
    """How likely each of the m shapes is where something is chosen, [b m]; None where every z has a shape of its own."""

    @property
    def drawn(self) -> Tensor:
        """How often the empty map is to be drawn, so that with the empty shapes P(empty) comes out right."""
        return ((self.empty - self.by_shape) / (1 - self.by_shape).clamp_min(1e-3)).clamp(0, 1)

    def falls(self, z: Tensor) -> Tensor:
        """Which of the samples that z [b n z] stands for are the empty map, bool [b n]: z's last number says."""
        chosen: Tensor = torch.special.ndtr(z[..., -1].float()) < self.drawn[:, None]
        return chosen

    def shapes_of(self, z: Tensor, shapes: Tensor) -> Tensor:
        """The shape [b n ...] of each sample that z [b n z] stands for, of `shapes`, [b n ...] or the m [b m ...].

        From the smallest numbers of z to the largest: the empty map, the first shape, the second, ... So draws that are
        spread evenly over z hold each as often as it should be.
        """
        if self.weights is None:
            return shapes
        drawn = self.drawn[:, None]
        rest = (torch.special.ndtr(z[..., -1].float()) - drawn) / (1 - drawn).clamp_min(1e-6)
        index = (rest[..., None] >= self.weights.cumsum(1)[:, None, :-1]).sum(2)  # [b n]
        chosen: Tensor = shapes[torch.arange(shapes.shape[0], device=shapes.device)[:, None], index]
        return chosen

    def samples_of(self, z: Tensor, shapes: Tensor, certain: float = CERTAIN) -> Tensor:
        """The samples [b n k h w], logits like `shapes`, or with `certain` 1 probabilities; class 0 of the empty map has it."""
        nothing = torch.zeros_like(shapes[:1, :1])
        nothing[:, :, 0] = certain
        return torch.where(self.falls(z)[..., None, None, None], nothing, self.shapes_of(z, shapes))


class RefinementNet(Protocol):
    """G([x, q], z), cut in two so that the work without z is done once an image."""

    latent: int
    """Length of z."""
    field_part: slice
    """Which numbers of z are a field of FIELD x FIELD cells; empty for a network without one."""
    masks_ignored: bool
    """Whether training shows it the ignore class in q at ignored pixels, as the official code does, and not what q says."""

    def encode(self, x: Tensor, q: Tensor) -> Any:
        """Features of images [b c h w] and their q [b k h w] that do not depend on z."""

    def decode(self, features: Any, z: Tensor) -> Tensor:
        """Logits [b n k h w] of the samples that z [b n z] stands for."""

    def hypotheses(self, features: Any, z: Tensor) -> tuple[Tensor, Choice | None]:
        """The same before anything is chosen, and the choice; None for a network without it. With `choice.weights` [b m]
        these are all m shapes [b m k h w], whatever z."""
