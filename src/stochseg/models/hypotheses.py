"""Our refinement network for images with few readings: all its shapes at once, each with its probability."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stochseg.models.blocks import conv, norm, to_pixels, upsample
from stochseg.models.interfaces import Choice
from stochseg.models.pyramid import Pyramid

EMBEDDING = 32
"""Length of what the network says of a pixel, of which every shape is a weighting of its own."""
TOKEN = 128
"""Length of what stands for a shape."""


class Features(NamedTuple):
    """All there is to draw from, once an image. shapes: logits [b m k h w]."""

    shapes: Tensor
    choice: Choice


class Hypotheses(Pyramid):
    """Refinement network G([x, q], z) -> logits [b n k h w]; images [b c h w] in [-1, 1], q [b k h w], z [b n 1].

    A U-Net says E numbers of every pixel. Each of m shapes has a token, made of the image as a whole and of a learned
    code, which gives the weights of those numbers in the shape's logits, a correction to log q (queries and pixel
    embeddings, as in MaskFormer, Cheng et al. 2021, arXiv 2107.06278). How likely a shape is follows from its token and
    from the mean of the pixels' numbers within it: what a halo looks like inside says how likely it belongs. So does
    whether anything is there at all.

    So the distribution is known: m shapes and the empty map, with their probabilities (`Choice`). The loss takes its
    expectation exactly, without the noise of draws; to draw is to choose by z's one number; a hundred samples cost what
    one costs. The price: an image has no more than m + 1 different maps, and where many objects vary independently that
    is too few (film has no such limit). count: m; patch: side of the blocks of pixels that the first level takes as one.
    """

    def __init__(
        self, channels: int, classes: int, count: int = 8, widths: Sequence[int] = (16, 32, 64), patch: int = 1
    ):
        super().__init__(channels, classes, widths, patch)
        self.latent, self.field_part = 1, slice(0, 0)
        self.classes = classes
        self.bring = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in zip(widths, widths[1:]))
        self.up = nn.ModuleList(
            nn.Sequential(norm(a), nn.SiLU(), conv(a, a), norm(a), nn.SiLU(), conv(a, a), nn.SiLU())
            for a in widths[:-1]
        )
        self.embed = conv(widths[0], EMBEDDING * patch**2)
        image, within = 2 * widths[-1], EMBEDDING + 1
        self.codes = nn.Parameter(torch.randn(count, TOKEN // 2))
        self.of_code = _mlp(TOKEN // 2, TOKEN, TOKEN)
        self.of_image = nn.Linear(image, TOKEN)
        self.query = nn.Sequential(nn.SiLU(), _mlp(TOKEN, TOKEN, (EMBEDDING + 1) * classes))
        self.weight = _mlp(TOKEN + 2 * within, TOKEN, TOKEN // 2, 1)
        # a bias would be the same for all shapes, and softmax sees only differences
        self.weight[-1].register_parameter("bias", None)
        self.presence = _mlp(image + within, TOKEN // 2, 1)

    def encode(self, x: Tensor, q: Tensor) -> Features:
        levels, base, crop = self.levels(x, q)
        level = levels[-1]
        image = torch.cat([level.mean((2, 3)), level.amax((2, 3))], 1)
        for i in reversed(range(len(self.up))):
            level = self.up[i](upsample(self.bring[i](level)) + levels[i])
        pixels = F.silu(crop(to_pixels(self.embed(level), self.patch)))  # [b e h w]
        tokens = self.of_image(image)[:, None] + self.of_code(self.codes)  # [b m t]
        shapes = self._shapes(tokens, pixels) + base[:, None]
        return Features(shapes, self._choice(tokens, image, pixels, shapes.detach()))

    def hypotheses(self, features: Features, z: Tensor) -> tuple[Tensor, Choice]:
        """Logits [b m k h w] of all shapes, whatever z, and the choice among them and the empty map."""
        return features.shapes, features.choice

    def decode(self, features: Features, z: Tensor) -> Tensor:
        return features.choice.samples_of(z, features.shapes)

    def forward(self, x: Tensor, q: Tensor, z: Tensor) -> Tensor:
        return self.decode(self.encode(x, q), z)

    def _shapes(self, tokens: Tensor, pixels: Tensor) -> Tensor:
        """Each shape's own weighting of the pixels' numbers, float32 [b m k h w]."""
        query, bias = self.query(tokens).split([EMBEDDING * self.classes, self.classes], 2)
        weighted = torch.einsum("bmke,behw->bmkhw", query.unflatten(2, (self.classes, EMBEDDING)), pixels)
        delta: Tensor = weighted.float() + bias[..., None, None].float()
        return delta

    def _choice(self, tokens: Tensor, image: Tensor, pixels: Tensor, shapes: Tensor) -> Choice:
        marked = 1 - shapes.softmax(2)[:, :, 0]  # [b m h w]
        area = marked.sum((2, 3))[..., None]
        mean = torch.einsum("bmhw,behw->bme", marked, pixels.float()) / (area + 1)
        within = torch.cat([mean, (area + 1).log()], 2).to(tokens.dtype)  # [b m e + 1]
        over_all = within.mean(1)
        seen = torch.cat([tokens, within, over_all[:, None].expand_as(within)], 2)
        weights = self.weight(seen)[..., 0].float().softmax(1)
        empty = self.presence(torch.cat([image, over_all], 1))[:, 0].float().sigmoid()
        blank = (shapes[:, :, 0] >= shapes[:, :, 1:].amax(2)).flatten(2).all(2)
        return Choice(empty, (weights.detach() * blank).sum(1), weights)


def _mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inside, outside in zip(widths, widths[1:]):
        layers += [nn.Linear(inside, outside), nn.SiLU()]
    return nn.Sequential(*layers[:-1])
