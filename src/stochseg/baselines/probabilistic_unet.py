"""The Probabilistic U-Net: a conditional variational autoencoder, one z of a few numbers for the whole image.

Kohl et al. 2018, arXiv 1806.05034. A prior net sees the image, a posterior net the image and a rater's map; z joins
the last features of a U-Net, three 1x1 convolutions turn both into logits. Trained by the evidence lower bound
(equation 4): cross entropy, summed over pixels, of a sample of the posterior + beta KL(posterior, prior).
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence

from stochseg.baselines.baseline import Baseline
from stochseg.config import BaselineConfig
from stochseg.models.blocks import conv_block, to_blocks
from stochseg.models.padding import pad_to_multiple
from stochseg.models.unet import UNet
from stochseg.objectives.targets import Targets


class ProbabilisticUNet(Baseline):
    """One rater's map at random is encoded and decoded in each step, as in the paper."""

    method = "probabilistic-unet"

    @property
    def latent(self) -> int:
        return self.config.latent

    @property
    def parts(self) -> "Parts":
        return cast(Parts, self.network)

    def build(self, channels: int, classes: int, config: BaselineConfig) -> nn.Module:
        return Parts(channels, classes, config.widths, config.latent, config.patch)

    def losses(self, x: Tensor, targets: Targets, z: Tensor) -> dict[str, Tensor]:
        prior, posterior = self.parts.prior(x), self.parts.posterior(torch.cat([x, targets.one], 1))
        drawn = posterior.mean + posterior.stddev * z[:, 0]
        log_p = self.parts.decode(self.parts.features(x), drawn[:, None])[:, 0].float().log_softmax(1)
        y = targets.one if targets.ignored is None else targets.one * ~targets.ignored[:, None]
        reconstruction = -(y * log_p).sum((1, 2, 3)).mean()
        divergence = kl_divergence(posterior, prior).mean()
        pixels = x.shape[-2] * x.shape[-1]
        return {
            "bound": (reconstruction + self.config.beta * divergence) / pixels,
            "reconstruction": reconstruction / pixels,
            "divergence": divergence,
        }

    def soft_samples(self, x: Tensor, z: Tensor) -> Tensor:
        return self.logits(x, z)[0].float().softmax(2)

    def logits(self, x: Tensor, z: Tensor, seen: Tensor | None = None) -> tuple[Tensor, None]:
        mean, sigma = self.parts.prior.moments(x)
        return self.parts.decode(self.parts.features(x), mean[:, None] + sigma[:, None] * z), None


class Parts(nn.Module):
    """The four networks of the method."""

    def __init__(self, channels: int, classes: int, widths: Sequence[int], latent: int, patch: int) -> None:
        super().__init__()
        width = widths[0]
        self.features = UNet(channels, width, widths, patch=patch)
        self.prior = GaussianEncoder(channels, widths, latent, patch)
        self.posterior = GaussianEncoder(channels + classes, widths, latent, patch)
        self.combine = nn.Sequential(
            nn.Conv2d(width + latent, width, 1), nn.SiLU(), nn.Conv2d(width, width, 1), nn.SiLU(),
            nn.Conv2d(width, classes, 1),
        )  # fmt: skip

    def decode(self, features: Tensor, z: Tensor) -> Tensor:
        """Logits [b n k h w] of features [b c h w] and z [b n z]."""
        b, n = z.shape[:2]
        h, w = features.shape[-2:]
        shared = features[:, None].expand(-1, n, -1, -1, -1).flatten(0, 1)
        stretched = z.flatten(0, 1)[..., None, None].expand(-1, -1, h, w).to(shared.dtype)
        logits: Tensor = self.combine(torch.cat([F.silu(shared), stretched], 1)).unflatten(0, (b, n))
        return logits


class GaussianEncoder(nn.Module):
    """Images [b c h w] to an axis-aligned normal distribution of z [b z]."""

    def __init__(self, channels: int, widths: Sequence[int], latent: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        channels = channels * patch**2
        self.levels = nn.ModuleList(
            conv_block(a, b, normed=level > 0 or patch > 1)
            for level, (a, b) in enumerate(zip((channels, *widths), widths))
        )
        self.head = nn.Linear(widths[-1], 2 * latent)

    def forward(self, x: Tensor) -> Any:
        # checking the values would make a GPU wait
        return Independent(Normal(*self.moments(x), validate_args=False), 1, validate_args=False)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [b z]."""
        x, _ = pad_to_multiple(x, self.patch)
        x = to_blocks(x, self.patch)
        for level, block in enumerate(self.levels):
            x = block(F.avg_pool2d(x, 2, ceil_mode=True) if level else x)
        mean, log_sigma = self.head(x.mean((2, 3))).float().chunk(2, 1)
        return mean, log_sigma.exp()
