"""A small U-Net: the calibration network for small machines."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stochseg.models.blocks import conv, conv_block, norm, to_blocks, to_pixels, upsample
from stochseg.models.padding import pad_to_multiple

LEAST = 1e-4
"""What a class counts as where a black box gives it less, or nothing."""
MOST = 2.0
"""The most that a correction adds to the logarithm or takes from it, in nats. A class to which a black box gives no probability
stays rare with it, so that it is learned in the matrix, not pixel by pixel."""
KEPT = 7.0
"""Logit of a class being shown as itself before training, where that of another is 0."""
QUICK = 100.0
"""How much faster these logits learn than weights do: they have to move by several nats."""


class UNet(nn.Module):
    """Calibration network F(x) -> logits [b k h w] for images [b c h w] of any size.

    An encoder of two convolutions a level and a light decoder: skips are added after a 1x1 convolution, since
    concatenating full-size maps costs more than convolving them. No norm at full size, where it costs most. patch: side
    of the blocks of pixels that the first level takes as one, in more channels; the head gives their pixels back.

    start: whether the last k channels of x are a black box's probabilities, which the answer starts from. Corrections, 0
    before training, are added to their logarithm. Then a matrix of probabilities, at first nearly the identity, says as which
    class each is shown (a noise transition matrix; Patrini et al. 2017, arXiv 1609.03683): classes that flip keep one ratio
    everywhere, also where the black box is not sure of them. Class maps (`of_maps`), which are always sure, are only seen.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        widths: Sequence[int] = (16, 32, 64, 128),
        dropout: float = 0.0,
        patch: int = 1,
        start: bool = False,
    ):
        super().__init__()
        self.patch = patch
        self.stride = patch * 2 ** (len(widths) - 1)
        channels = channels * patch**2
        self.down = nn.ModuleList(
            conv_block(a, b, dropout, normed=level > 0 or patch > 1)
            for level, (a, b) in enumerate(zip((channels, *widths), widths))
        )
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in zip(widths, widths[1:]))
        self.skip = nn.ModuleList(nn.Conv2d(a, a, 1) for a in widths[:-1])
        self.merge = nn.ModuleList(
            nn.Sequential(norm(a) if level or patch > 1 else nn.Identity(), nn.SiLU(), conv(a, a), nn.SiLU())
            for level, a in enumerate(widths[:-1])
        )
        self.head = conv(widths[0], classes * patch**2)
        self.of_maps = False  # CAR says so where its black box gives maps
        self.shown_as = nn.Parameter(torch.zeros(classes, classes)) if start else None
        if start:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        whole = x
        x, crop = pad_to_multiple(x, self.stride)
        x = to_blocks(x, self.patch)
        levels: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            levels.append(x)
        for level in reversed(range(len(self.up))):
            x = upsample(self.up[level](x)) + self.skip[level](levels[level])
            x = self.merge[level](x)
        logits: Tensor = crop(to_pixels(self.head(x), self.patch))
        if self.shown_as is None or self.of_maps:
            return logits
        return self._shown(logits.float(), whole[:, -logits.shape[1] :].float())

    def _shown(self, corrections: Tensor, start: Tensor) -> Tensor:
        """log q of a black box's probabilities and their corrections, all float32 [b k h w]."""
        assert self.shown_as is not None
        with torch.autocast(corrections.device.type, enabled=False):
            bounded = MOST * torch.tanh(corrections / MOST)
            classes = (bounded + start.clamp_min(LEAST).log()).softmax(1)
            own = torch.eye(len(self.shown_as), device=corrections.device) * KEPT
            q: Tensor = torch.einsum("bchw,ck->bkhw", classes, (own + QUICK * self.shown_as).softmax(1))
            return q.clamp_min(1e-8).log()
