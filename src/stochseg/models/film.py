"""Our own refinement network: cheap per sample, with z at every scale and a start at the calibration network's answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stochseg.models.blocks import conv, to_pixels, upsample
from stochseg.models.interfaces import FIELD, Choice
from stochseg.models.pyramid import Pyramid

SHARP = 0.2
"""Temperature of samples with class noise: soft maps are then nearly the class maps that are scored."""


@dataclass
class Features:
    """What does not depend on z, computed once an image.

    levels: one map a level, finest first; base: log q [b k h w]; choice: None without that choice.
    """

    levels: list[Tensor]
    base: Tensor
    choice: Choice | None
    crop: Callable[[Tensor], Tensor]


class FilmRefinement(Pyramid):
    """Refinement network G([x, q], z) -> logits [b n k h w]; images [b c h w] in [-1, 1], q [b k h w], z [b n z].

    z = [global, field, classes, choice]: the global part scales and shifts features at every level (FiLM, Perez et al.
    2018); the field, 8x8 cells over the whole image, enters each level through a 1x1 convolution that starts at zero;
    classes has a number for each class (below); choice, one number, decides whether anything is there at all, with a
    probability that the image alone gives (`Choice`). All are part of z, so one z is one hypothesis, and the network is a
    pure function. Samples are corrections to log q: before training every sample is q. No norms in the path that runs once
    a sample: there they cost more than the convolutions. patch: side of the blocks of pixels that the first level takes as
    one, in more channels; the head gives their pixels back.
    fine: with patch above 1, z enters the first level too; without, it is drawn from the coarser ones and the image.
    class_noise: without it z has no such part. A class's number is the same everywhere: as Gumbel noise on log q it makes
    all pixels draw their class together, each as often as q says (the Gumbel-max trick; Maddison et al. 2014,
    arXiv 1411.0030). So already before training samples are coherent, and as calibrated as q is.
    bound: the most that a correction adds or takes, in nats. Without one, some z may grow into corrections that swap a class
    for another that q rules out in the whole image, and the energy loss, whose value grows with the square of how often
    that happens, hardly sees it.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        widths: Sequence[int] = (16, 32, 64, 128),
        latent: int = 16,
        field: bool = True,
        patch: int = 1,
        choice: bool = False,
        fine: bool = True,
        class_noise: bool = False,
        bound: float | None = None,
    ):
        super().__init__(channels, classes, widths, patch)
        self.class_noise, self.bound = class_noise, bound
        self._parts = [latent, FIELD * FIELD * field, classes * class_noise, int(choice)]
        self.latent = sum(self._parts)
        self.field_part = slice(latent, latent + FIELD * FIELD * field)
        self.style = nn.Sequential(nn.Linear(latent, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())
        self.bring = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in zip(widths, widths[1:]))
        self.steps = nn.ModuleList(FilmStep(width, 64, field) for width in widths[1:])
        self.last = FilmStep(widths[0], 64, field) if patch > 1 and fine else None
        self.head = conv(widths[0], classes * patch**2)
        self.presence = nn.Sequential(nn.Linear(2 * widths[-1], 64), nn.SiLU(), nn.Linear(64, 2)) if choice else None
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def encode(self, x: Tensor, q: Tensor) -> Features:
        levels, base, crop = self.levels(x, q)
        return Features(levels, base, self._choice(levels[-1]), crop)

    def decode(self, features: Features, z: Tensor) -> Tensor:
        shapes, choice = self.hypotheses(features, z)
        return shapes if choice is None else choice.samples_of(z, shapes)

    def hypotheses(self, features: Features, z: Tensor) -> tuple[Tensor, Choice | None]:
        """Logits [b n k h w] of maps meant to hold something, and the choice; None for a network without it.

        Training takes the mean over the choice exactly; `decode` draws it.
        """
        b, n = z.shape[:2]
        z_global, z_field, z_classes, _ = z.split(self._parts, 2)
        style = self.style(z_global.flatten(0, 1))
        noise = z_field.reshape(b * n, 1, FIELD, FIELD) if z_field.shape[-1] else None
        levels = features.levels
        x = levels[-1][:, None].expand(-1, n, -1, -1, -1).flatten(0, 1)
        for level in reversed(range(len(self.steps))):
            x = self.steps[level](x, style, noise)
            x = upsample(self.bring[level](x))
            # the skip belongs to the image: added to each of its samples without copying it n times
            x = (x.unflatten(0, (b, n)) + levels[level][:, None]).flatten(0, 1)
        x = F.silu(x) if self.last is None else self.last(x, style, noise)
        delta: Tensor = features.crop(to_pixels(self.head(x), self.patch)).float().unflatten(0, (b, n))
        if self.bound is not None:
            delta = self.bound * torch.tanh(delta / self.bound)
        logits = delta + features.base[:, None]
        if self.class_noise:
            logits = (logits + gumbel(z_classes)[..., None, None]) / SHARP
        return logits, features.choice

    def _choice(self, coarsest: Tensor) -> Choice | None:
        """Of the coarsest features [b c h w]."""
        if self.presence is None:
            return None
        pooled = torch.cat([coarsest.mean((2, 3)), coarsest.amax((2, 3))], 1)
        empty = self.presence(pooled)[:, 0]
        by_shape = self.presence(pooled.detach())[:, 1]  # watches the shapes, and is not to change them
        return Choice(empty.float().sigmoid(), by_shape.float().sigmoid())

    def forward(self, x: Tensor, q: Tensor, z: Tensor) -> Tensor:
        return self.decode(self.encode(x, q), z)


def gumbel(normal: Tensor) -> Tensor:
    """Standard normal numbers as Gumbel ones, -log(-log u) of the share u of normal numbers below them."""
    wide = normal if torch.compiler.is_compiling() else normal.double()  # onnxruntime has no erf of doubles
    u = torch.special.ndtr(wide).clamp(1e-9, 1 - max(1e-9, torch.finfo(wide.dtype).eps))
    noise: Tensor = -(-u.log()).log()
    return noise.float()


class FilmStep(nn.Module):
    """One level of the stochastic decoder: convolution, FiLM and noise, SiLU, residual convolution."""

    def __init__(self, width: int, style: int, field: bool):
        super().__init__()
        self.first = conv(width, width)
        self.film = nn.Linear(style, 2 * width)
        self.second = conv(width, width)
        self.noise = nn.Conv2d(1, width, 1, bias=False) if field else None
        if self.noise is not None:
            nn.init.zeros_(self.noise.weight)

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        h = self.first(x)
        scale, shift = self.film(style)[..., None, None].chunk(2, 1)
        h = torch.addcmul(shift, h, 1 + scale)
        if self.noise is not None and noise is not None:
            field = F.interpolate(noise, size=h.shape[-2:], mode="bilinear", align_corners=False)
            # the convolution written as a product: a fifth of its time for one channel
            h = torch.addcmul(h, field.to(h.dtype), self.noise.weight.to(h.dtype).view(1, -1, 1, 1))
        h = F.silu(h)
        return F.silu(h + self.second(h))
