"""The same schedule as the paper's code, written plainly: what `against_official.py` compares with where no clone is given.

Float32, samples decoded one after the other, losses on probabilities, gradients of the generator's loss into the
discriminator too, unfused optimizers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stochseg.models.discriminator import probability


class PlainTraining:
    """networks: calibration, refinement, discriminator of the package; one Adam each."""

    def __init__(self, networks: nn.ModuleDict, samples: int = 5) -> None:
        self.networks, self.samples = networks.to(memory_format=torch.contiguous_format), samples  # type: ignore[call-overload]
        rates = {"calibration": 2e-4, "refinement": 2e-4, "discriminator": 1e-5}
        self.optimizers = {
            name: torch.optim.Adam(networks[name].parameters(), lr, (0.5, 0.99), weight_decay=5e-4, foreach=False)
            for name, lr in rates.items()
        }

    def step(self, x: Tensor, y: Tensor) -> None:
        """One step of all three networks. x: [b c h w]; y: one-hot [b k h w]."""
        f, g, d = (self.networks[name] for name in ("calibration", "refinement", "discriminator"))
        self.networks.train()
        q = f(x).softmax(1)
        self._update("calibration", -(y * q.clamp_min(1e-7).log()).sum(1).mean())
        q = q.detach()
        features = g.encode(x, q)
        each = [
            g.decode(features, torch.randn(len(x), 1, g.latent, device=x.device))[:, 0].softmax(1)
            for _ in range(self.samples)
        ]
        score = probability(d(x.repeat(self.samples, 1, 1, 1), torch.cat(each)))
        p, q = (maps.clamp(1e-3, 1 - 1e-3) for maps in (torch.stack(each).mean(0), q))
        divergence = (p * (p.log() - q.log())).sum(1).mean()
        self._update("refinement", 10 * F.binary_cross_entropy(score, torch.ones_like(score)) + 5 * divergence)
        x, y = x.detach().clone().requires_grad_(), y.detach().clone().requires_grad_()
        real, fake = probability(d(x, y)), probability(d(x, each[0].detach()))
        penalty = sum(
            grad.square().sum((1, 2, 3)) for grad in torch.autograd.grad(real.sum(), (x, y), create_graph=True)
        )
        loss = F.binary_cross_entropy(real, torch.ones_like(real)) + F.binary_cross_entropy(
            fake, torch.zeros_like(fake)
        )
        self._update("discriminator", (loss + 10 * penalty).mean())

    @torch.no_grad()
    def sample(self, x: Tensor, n: int) -> Tensor:
        """Soft maps [n b k h w]."""
        self.networks.eval()
        g = self.networks["refinement"]
        features = g.encode(x, self.networks["calibration"](x).softmax(1))
        drawn = [
            g.decode(features, torch.randn(len(x), 1, g.latent, device=x.device))[:, 0].softmax(1) for _ in range(n)
        ]
        return torch.stack(drawn)

    def _update(self, name: str, loss: Tensor) -> None:
        self.optimizers[name].zero_grad()
        loss.backward()
        self.optimizers[name].step()
