"""One segmenter trained with cross entropy, and pixels drawn independently from what it says."""

import torch
from torch import Tensor, nn

from stochseg.baselines.baseline import Baseline
from stochseg.config import BaselineConfig
from stochseg.models.unet import UNet
from stochseg.objectives.cross_entropy import cross_entropy
from stochseg.objectives.targets import Targets
from stochseg.sampling.noise import generators_of
from stochseg.sampling.tiling import Tile


class Deterministic(Baseline):
    """Marginals q by cross entropy; samples are independent pixels drawn from q: calibrated, and not coherent."""

    method = "deterministic"
    latent = 2

    def build(self, channels: int, classes: int, config: BaselineConfig) -> nn.Module:
        return UNet(channels, classes, config.widths, patch=config.patch)

    def losses(self, x: Tensor, targets: Targets, z: Tensor) -> dict[str, Tensor]:
        return {"cross_entropy": cross_entropy(self.network(x), targets.mean)}

    def soft_samples(self, x: Tensor, z: Tensor) -> Tensor:
        logits: Tensor = self.network(x).float()
        shape = logits.shape[1:]
        noise = torch.stack(  # argmax of logits plus Gumbel noise is a draw from their softmax
            [torch.stack([_gumbel(shape, generator) for generator in row]) for row in generators_of(z)]
        )
        drawn: Tensor = logits[:, None] + noise.to(logits.device)
        return drawn.softmax(2)

    @torch.no_grad()
    def marginals(self, images: Tensor, blackbox: Tensor | None = None, tile: Tile = None) -> Tensor:
        x = self.as_input(images)
        self.as_seen(x, blackbox)  # refuses one
        self.tiling((x.shape[-2], x.shape[-1]), tile)  # refuses them
        self.networks.eval()
        with self._autocast():
            logits: Tensor = self.network(x)
        return logits.float().softmax(1)


def _gumbel(shape: torch.Size, generator: torch.Generator) -> Tensor:
    return -torch.empty(shape).exponential_(generator=generator).log()
