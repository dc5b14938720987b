"""The paper's refinement network: G([x, q], z) -> one coherent map.

Everything that does not depend on z is done once an image (`encode`); `decode` does the rest for all samples at once.
"""

from collections import OrderedDict
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stochseg.models.convolutions import DoublingConv, doubled
from stochseg.models.dropout import Dropout
from stochseg.models.padding import pad_to_multiple

STRIDE = 16
SCALE_FLOOR = 1e-5
"""Added to an injection's scale, as in the official code."""


class Features(NamedTuple):
    """What `decode` needs of an image beside z, one row an image (H, W: h, w padded to a multiple of 16).

    For some rows only, use `Features(*(f[rows] for f in features))`.
    """

    coarse: Tensor  # [b 2*width H/4 W/4]; where z enters first
    middle: Tensor  # [b width H/2 W/2]; the share of the encoder's second stage in the third decoder stage
    fine: Tensor  # [b width h w]; the share of the encoder's first stage in the last decoder stage


class Refinement(nn.Module):
    """A U-Net whose last three decoder stages take z.

    channels: of the image; classes: k; latent: length of z; width: channels of the first stage, doubled at each of
    the four; dropout: after every stage.
    """

    def __init__(self, channels: int, classes: int, latent: int, width: int = 32, dropout: float = 0.1) -> None:
        super().__init__()
        self.latent = latent
        self.field_part = slice(0, 0)
        self.masks_ignored = True
        w1, w2, w3, w4 = width, 2 * width, 4 * width, 8 * width
        self.down1 = _down(channels + classes, w1, dropout)
        self.down2 = _down(w1, w2, dropout)
        self.down3 = _down(w2, w3, dropout)
        self.down4 = _down(w3, w4, dropout)
        self.up1 = _up(w4, w3, dropout)
        self.up2 = _up(w3 + w3, w2, dropout)
        self.up3 = MergingUp(w2, w2, w1, dropout)
        self.up4 = MergingUp(w1, w1, w1, dropout)
        self.inject1 = _Injection(latent, w2, w2)
        self.inject2 = _Injection(latent, w1, w1)
        self.inject3 = _Injection(latent, w1, classes)

    def forward(self, x: Tensor, q: Tensor, z: Tensor) -> Tensor:
        """x: [b c h w]; q: [b k h w], probabilities; z: [b n z]. Returns logits [b n k h w]."""
        return self.decode(self.encode(x, q), z)

    def encode(self, x: Tensor, q: Tensor) -> Features:
        """x: [b c h w]; q: [b k h w]; any size. Returns all that does not depend on z."""
        padded, crop = pad_to_multiple(torch.cat([x, q], 1), STRIDE)
        half = self.down1(padded)
        quarter = self.down2(half)
        eighth = self.down3(quarter)
        coarse = self.up2(torch.cat([self.up1(self.down4(eighth)), eighth], 1))
        return Features(coarse, self.up3.share(quarter), crop(self.up4.share(half)))

    def decode(self, features: Features, z: Tensor) -> Tensor:
        """z: [b n z], n samples of each image. Returns logits [b n k h w]; their softmax over k is a sample."""
        b, n, _ = z.shape
        z = z.flatten(0, 1)
        coarse = features.coarse[:, None].expand(-1, n, -1, -1, -1).flatten(0, 1)
        x = F.leaky_relu(self.inject1(coarse, z))
        x = self.up3(x, features.middle)
        x = F.leaky_relu(self.inject2(x, z))
        x = self.up4(x, features.fine)
        logits: Tensor = self.inject3(x, z)
        return logits.view(b, n, *logits.shape[1:])

    def hypotheses(self, features: Features, z: Tensor) -> tuple[Tensor, None]:
        """The same: there is no choice beside z."""
        return self.decode(features, z), None


class _Injection(nn.Module):
    """z shifts and scales every channel, then a 1x1 convolution: mix((f + shift z) * (scale z + 1e-5)).

    With z given this is one linear map a sample, so it is done as one product of matrices, never writing the shifted
    and scaled features: memory traffic is what this network waits for.
    """

    def __init__(self, latent: int, inside: int, outside: int) -> None:
        super().__init__()
        self.shift = nn.Linear(latent, inside)
        self.scale = nn.Linear(latent, inside)
        self.mix = nn.Conv2d(inside, outside, 1)
        for linear in (self.shift, self.scale):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        nn.init.orthogonal_(self.mix.weight)
        assert self.mix.bias is not None
        nn.init.trunc_normal_(self.mix.bias, std=0.001, a=-0.002, b=0.002)

    def forward(self, f: Tensor, z: Tensor) -> Tensor:
        """f: [b c h w]; z: [b z]. Returns [b o h w]."""
        return self.mixed(f, *self.mixing(z))

    def mixed(self, f: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
        """The map of `mixing` of features f [b c h w]: [b o h w]."""
        pixels = f.flatten(2).transpose(1, 2)  # [b h*w c]
        mixed = torch.baddbmm(offset[:, None], pixels, weight)
        return mixed.view(f.shape[0], *f.shape[2:], -1).permute(0, 3, 1, 2)

    def mixing(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The map of z [b z], which is f @ weight + offset for the channels f of a pixel: [b c o] and [b o]."""
        mix = self.mix.weight.flatten(1)  # [o c]
        scale = self.scale(z) + SCALE_FLOOR  # [b c]
        offset = F.linear(self.shift(z) * scale, mix, self.mix.bias)  # [b o]
        return (mix * scale[:, None]).transpose(1, 2), offset


class MergingUp(nn.Module):
    """Doubles h and w: transposed convolution of [deep, skip], norm, LeakyReLU, dropout.

    The convolution is linear, so it is the sum of deep's share, one a sample, and skip's `share`, one an image.
    """

    def __init__(self, deep: int, skip: int, outside: int, dropout: float) -> None:
        super().__init__()
        self.deep = deep
        self.conv = DoublingConv(deep + skip, outside)
        self.norm = nn.BatchNorm2d(outside)
        self.slope = 0.2
        self.dropout = Dropout(dropout)

    def share(self, skip: Tensor) -> Tensor:
        """skip: [b c h w]. Returns [b o 2h 2w], bias included."""
        assert self.conv.bias is not None
        return doubled(skip, self.conv.weight[self.deep :], self.conv.bias)

    def forward(self, deep: Tensor, share: Tensor) -> Tensor:
        """deep: [b*n c h w]; share: [b o h2 w2], where h2, w2 may be less than 2h, 2w. Returns [b*n o h2 w2]."""
        weight = self.conv.weight[: self.deep]
        if not self.training:  # the norm is a fixed affine map now, which costs nothing if weight and share take it
            assert self.norm.running_var is not None
            weight = weight * (self.norm.weight * torch.rsqrt(self.norm.running_var + self.norm.eps))[:, None, None]
            share = self.norm(share)
        b, o, h, w = share.shape
        x = F.conv_transpose2d(deep, weight, stride=2)[..., :h, :w].view(b, -1, o, h, w)
        share = share[:, None].to(x.dtype)
        x = self.norm((x + share).flatten(0, 1)) if self.training else x.add_(share).flatten(0, 1)
        x = F.leaky_relu(x, self.slope, inplace=True)
        out: Tensor = self.dropout(x)
        return out


def _down(inside: int, outside: int, dropout: float) -> nn.Sequential:
    return _stage(nn.Conv2d(inside, outside, 3, stride=2, padding=1), outside, dropout)


def _up(inside: int, outside: int, dropout: float) -> nn.Sequential:
    return _stage(DoublingConv(inside, outside), outside, dropout)


def _stage(conv: nn.Module, width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=conv,
            norm=nn.BatchNorm2d(width),
            activation=nn.LeakyReLU(0.2, inplace=True),
            dropout=Dropout(dropout),
        )
    )
