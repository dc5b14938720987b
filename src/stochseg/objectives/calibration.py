"""The calibration loss, L_cal of the paper: it ties the samples' mean to F(x). And the mask of ignored pixels."""

import torch
from torch import Tensor

from stochseg.objectives.pixels import Normalize, full_precision, pixel_mean

FLOOR = 1e-3
"""Both distributions are held in [FLOOR, 1 - FLOOR], without being normalised again."""


def calibration_kl(
    mean_samples: Tensor, q: Tensor, ignored: Tensor | None = None, normalize: Normalize = "all"
) -> Tensor:
    """L_cal = mean_pixels KL(mean of the samples || q), in nats: a scalar.

    mean_samples: [b k h w], the mean over an image's samples; q: [b k h w], which gets no gradient; ignored: bool
    [b h w], pixels that count 0. Where a mean lies outside [1e-3, 1 - 1e-3] it gets no gradient either.
    """
    p = full_precision(mean_samples).clamp(FLOOR, 1 - FLOOR)
    q = full_precision(q.detach()).clamp(FLOOR, 1 - FLOOR)
    return pixel_mean((p * (p.log() - q.log())).sum(1), ignored, normalize)


def gaussian_kl(mean_samples: Tensor, mean: Tensor, ignored: Tensor | None = None) -> Tensor:
    """L_cal where F(x) is the mean of a Gaussian: KL(N(mean of the samples, 1) || N(F(x), 1)), in nats: a scalar.

    That is 1/2 of the mean squared distance of the two. mean_samples: any shape; mean: the same shape, which gets no
    gradient; ignored: bool of that shape, numbers that count 0. The mean of n samples is itself random, with an n-th of
    their variance, so the loss is least for samples that vary a little less than they should.
    """
    return pixel_mean(0.5 * (full_precision(mean_samples) - full_precision(mean.detach())).square(), ignored)


def mask_ignored(maps: Tensor, ignored: Tensor, ignore: int) -> Tensor:
    """`maps` with the one-hot class `ignore` at ignored pixels, through which no gradient flows back.

    maps: [b k h w] or [b n k h w], q or samples; ignored: bool [b h w]. To be done before G and D see the maps, in
    training and test.
    """
    between = maps.ndim - ignored.ndim
    everywhere = ignored.reshape(ignored.shape[0], *(1,) * between, *ignored.shape[1:])
    one_hot = maps.new_zeros(maps.shape[-3], 1, 1)
    one_hot[ignore] = 1
    return torch.where(everywhere, one_hot, maps)
