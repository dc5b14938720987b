"""MC dropout: a segmenter whose dropout stays on, each sample with masks of its own.

Kendall, Badrinarayanan, Cipolla 2017, arXiv 1511.02680; as the "Dropout U-Net" of Kohl et al. 2018, arXiv 1806.05034:
dropout in all levels of the encoder but the first.
"""

import torch
from torch import Tensor, nn

from stochseg.baselines.baseline import Baseline
from stochseg.config import BaselineConfig
from stochseg.models.unet import UNet
from stochseg.objectives.cross_entropy import cross_entropy
from stochseg.objectives.targets import Targets
from stochseg.sampling.noise import seeds_of


class MCDropout(Baseline):
    """Cross entropy against the raters' mean in training; at test the argmax under random dropout masks."""

    method = "mc-dropout"
    latent = 2  # seeds the masks

    def build(self, channels: int, classes: int, config: BaselineConfig) -> nn.Module:
        net = UNet(channels, classes, config.widths, config.dropout, config.patch)
        first = net.down[0]
        assert isinstance(first, nn.Sequential)
        for i, layer in enumerate(first):
            if isinstance(layer, nn.Dropout):
                first[i] = nn.Identity()
        return net

    def losses(self, x: Tensor, targets: Targets, z: Tensor) -> dict[str, Tensor]:
        return {"cross_entropy": cross_entropy(self.network(x), targets.mean)}

    def soft_samples(self, x: Tensor, z: Tensor) -> Tensor:
        devices = [x.device] if x.device.type == "cuda" else []
        self.network.train()  # the network has no other layer that differs between training and test
        try:
            with torch.random.fork_rng(devices):
                maps = [
                    torch.stack([self._drawn(image, seed) for seed in seeds])
                    for image, seeds in zip(x.split(1), seeds_of(z), strict=True)
                ]
        finally:
            self.network.eval()
        return torch.stack(maps)

    def _drawn(self, image: Tensor, seed: int) -> Tensor:
        """Probabilities [k h w] of one image [1 c h w] under the masks of one seed."""
        torch.manual_seed(seed)
        logits: Tensor = self.network(image)
        return logits.float().softmax(1)[0]
