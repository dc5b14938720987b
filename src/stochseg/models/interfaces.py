"""What the networks must offer to each other."""

from typing import Any, Protocol

from torch import Tensor


class RefinementNet(Protocol):
    """G([x, q], z), cut in two so that the work without z is done once an image."""

    latent: int
    """Length of z."""

    def encode(self, x: Tensor, q: Tensor) -> Any:
        """Features of images [b c h w] and their q [b k h w] that do not depend on z."""

    def decode(self, features: Any, z: Tensor) -> Tensor:
        """Logits [b n k h w] of the samples that z [b n z] stands for."""

    def hypotheses(self, features: Any, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """The same before an explicit choice of the empty map, and the probability [b] of that choice, None without one."""
