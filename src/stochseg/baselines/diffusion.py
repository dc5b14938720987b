"""Conditional categorical diffusion (CCDM): maps drawn by taking noise off class by class, many passes a sample.

Zbinden et al. 2023, arXiv 2303.08888, after Hoogeboom et al. 2021, arXiv 2102.05379. With a_t the share of pixels that
step t keeps and A_t = a_1 ... a_t (cosine schedule),

    q(x_t | x_0)            = Cat(A_t x_0 + (1 - A_t) / k)
    q(x_{t-1} | x_t, x_0)   proportional to  (a_t x_t + (1 - a_t) / k) (A_{t-1} x_0 + (1 - A_{t-1}) / k)
    p(x_{t-1} | x_t)        = sum over x_0 of q(x_{t-1} | x_t, x_0) net(x_0 | x_t, image, t)

trained by KL(q(x_{t-1} | x_t, x_0), p(x_{t-1} | x_t)) at a random t, which at t = 1 is the cross entropy of x_0.
"""

import math

import torch
from torch import Tensor, nn

from stochseg.baselines.baseline import Baseline
from stochseg.baselines.time_unet import TimeUNet
from stochseg.config import BaselineConfig
from stochseg.models.class_maps import one_hot_maps
from stochseg.objectives.targets import Targets
from stochseg.sampling.noise import generators_of


class CategoricalDiffusion(Baseline):
    """One rater's map at random is noised in each step; a sample takes `sampling_steps` passes."""

    method = "ccdm"
    latent = 2  # seeds the noise of all steps
    _shares: Tensor | None = None

    @property
    def passes(self) -> int:  # type: ignore[override]
        return self.config.sampling_steps

    def build(self, channels: int, classes: int, config: BaselineConfig) -> nn.Module:
        return TimeUNet(channels + classes, classes, config.widths, config.patch)

    def _kept(self, device: torch.device) -> Tensor:
        """`kept_shares` on a device, copied there once."""
        if self._shares is None or self._shares.device != device:
            self._shares = kept_shares(self.config.diffusion_steps).to(device)
        return self._shares

    def losses(self, x: Tensor, targets: Targets, z: Tensor) -> dict[str, Tensor]:
        kept = self._kept(x.device)
        t = torch.randint(1, len(kept), (len(x),), device=x.device)
        clean = targets.one
        if targets.ignored is not None:  # no class is right there: the loss leaves the pixels out
            clean = torch.where(targets.ignored[:, None], 1 / clean.shape[1], clean)
        noisy = _drawn(_noised(clean, kept[t]), torch.rand_like(clean[:, 0]))
        log_x0 = self.network(torch.cat([x, noisy], 1), t / self.config.diffusion_steps).float().log_softmax(1)
        wanted = _posterior(noisy, clean, kept[t], kept[t - 1])
        predicted = _expected_posterior(noisy, log_x0.exp(), kept[t], kept[t - 1])
        loss = (wanted * (wanted.clamp_min(1e-12).log() - predicted.clamp_min(1e-12).log())).sum(1)
        if targets.ignored is not None:
            loss = loss * ~targets.ignored
        return {"divergence": loss.mean()}

    def soft_samples(self, x: Tensor, z: Tensor) -> Tensor:
        n, k = z.shape[1], len(self.classes)
        h, w = x.shape[-2:]
        steps = self.config.diffusion_steps
        kept = self._kept(x.device)
        times = torch.linspace(steps, 0, self.config.sampling_steps + 1).round().long().tolist()
        generators = [g for row in generators_of(z) for g in row]
        image = x.repeat_interleave(n, 0)

        def uniform() -> Tensor:
            return torch.stack([torch.rand(h, w, generator=g) for g in generators]).to(x.device)

        noisy = _drawn(torch.full((len(image), k, h, w), 1 / k, device=x.device), uniform())
        clean: Tensor = noisy
        for t, before in zip(times, times[1:], strict=False):
            at = torch.full((len(image),), t / steps, device=x.device)
            clean = self.network(torch.cat([image, noisy], 1), at).float().softmax(1)
            if before:
                both = kept[torch.tensor([t, before], device=x.device)]
                p = _expected_posterior(noisy, clean, both[:1].expand(len(image)), both[1:].expand(len(image)))
                noisy = _drawn(p, uniform())
        drawn: Tensor = clean.unflatten(0, (-1, n))
        return drawn


def kept_shares(steps: int) -> Tensor:
    """A_0 = 1 to A_T, float32 [steps + 1], by the cosine schedule (Nichol and Dhariwal 2021, arXiv 2102.09672)."""
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    wanted = torch.cos((t + 0.008) / 1.008 * math.pi / 2).square()
    each = (wanted[1:] / wanted[:-1]).clamp(0.001, 1)
    return torch.cat([torch.ones(1, dtype=torch.float64), each.cumprod(0)]).float()


def _noised(x0: Tensor, kept: Tensor) -> Tensor:
    """Probabilities of x_t given x_0 [b k h w], for the share kept of each image [b]."""
    share = kept[:, None, None, None]
    return share * x0 + (1 - share) / x0.shape[1]


def _posterior(xt: Tensor, x0: Tensor, kept: Tensor, kept_before: Tensor) -> Tensor:
    """q(x_s | x_t, x_0) [b k h w] of one-hot x_t and x_0, for the shares kept at t and at s < t, [b] each."""
    found = _noised(xt, kept / kept_before) * _noised(x0, kept_before)
    return found / found.sum(1, keepdim=True)


def _expected_posterior(xt: Tensor, p0: Tensor, kept: Tensor, kept_before: Tensor) -> Tensor:
    """p(x_s | x_t) = sum_c q(x_s | x_t, x_0 = c) p0(c), [b k h w]."""
    k = p0.shape[1]
    likely = _noised(xt, kept / kept_before)  # of x_t given each x_s
    before = kept_before[:, None, None, None]
    total = likely.sum(1, keepdim=True)
    # q(s | t, c) = likely_s (before [s = c] + (1 - before) / k) / (before likely_c + (1 - before) / k total)
    weight = p0 / (before * likely + (1 - before) / k * total)
    return likely * (before * weight + (1 - before) / k * weight.sum(1, keepdim=True))


def _drawn(p: Tensor, uniform: Tensor) -> Tensor:
    """One-hot draws [b k h w] from p [b k h w] by uniform numbers [b h w]."""
    ids = (uniform[:, None] >= p.cumsum(1)[:, :-1]).sum(1)
    return one_hot_maps(ids, p.shape[1])
