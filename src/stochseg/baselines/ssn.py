"""Stochastic segmentation networks: a low-rank normal distribution over the logits of all pixels together.

Monteiro et al. 2020, arXiv 2006.06015: logits = mean + factor e_1 + sqrt(diagonal) e_2, with e_1 normal [rank] and e_2
normal [k h w]; trained by the Monte Carlo estimate of the likelihood of a rater's map (equation 6),

    -log p(y|x) = -log 1/n sum_i exp(sum over pixels of log softmax(logits_i)_y)
"""

import math

import torch
from torch import Tensor, nn

from stochseg.baselines.baseline import Baseline
from stochseg.config import BaselineConfig
from stochseg.models.unet import UNet
from stochseg.objectives.targets import Targets
from stochseg.sampling.noise import normal_of

SMALLEST_VARIANCE = 1e-5


class StochasticSegmentationNetwork(Baseline):
    """The samples of a training step (`objective.samples`, 20 in the paper) are those of its estimate."""

    method = "ssn"

    @property
    def latent(self) -> int:
        return self.config.rank

    def build(self, channels: int, classes: int, config: BaselineConfig) -> nn.Module:
        return UNet(channels, classes * (2 + config.rank), config.widths, patch=config.patch)

    def losses(self, x: Tensor, targets: Targets, z: Tensor) -> dict[str, Tensor]:
        h, w = x.shape[-2:]
        noise = torch.randn(*z.shape[:2], len(self.classes), h, w, device=x.device)
        log_p = self._logits(x, z, noise).log_softmax(2).flatten(2)  # [b n k*h*w]
        y = targets.labels if targets.ignored is None else targets.labels * ~targets.ignored[:, None, None]
        likelihood = torch.einsum("bnp,brp->bnr", log_p, y.flatten(2))
        loss = math.log(z.shape[1]) - likelihood.logsumexp(1)  # [b r]
        return {"likelihood": (loss * targets.weights).sum(1).mean() / (h * w)}

    def soft_samples(self, x: Tensor, z: Tensor) -> Tensor:
        noise = normal_of(z, (len(self.classes), *x.shape[-2:])).to(x.device)
        return self._logits(x, z, noise).softmax(2)

    def _logits(self, x: Tensor, z: Tensor, noise: Tensor) -> Tensor:
        """Float32 [b n k h w] for e_1 = z [b n rank] and e_2 = noise [b n k h w]."""
        k = len(self.classes)
        found: Tensor = self.network(x)
        mean, log_variance, factor = found.float().split([k, k, k * self.config.rank], 1)
        factor = factor.unflatten(1, (self.config.rank, k))
        shared = torch.einsum("brkhw,bnr->bnkhw", factor, z.float())
        spread = (log_variance.exp() + SMALLEST_VARIANCE).sqrt()
        logits: Tensor = mean[:, None] + shared + spread[:, None] * noise
        return logits
