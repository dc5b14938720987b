"""Answers that a model is compared with: pixels drawn from q on their own, and draws from a distribution that is known."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stochseg.config import Crop
from stochseg.data.batches import crop_size
from stochseg.data.store import Split
from stochseg.metrics.modes import missed_mass, mode_total_variation, nearest_modes


def independent_pixels(q: Tensor, n: int, seed: int, numbers: Sequence[int]) -> Tensor:
    """Maps uint8 [b n h w] whose pixels are drawn from q [b k h w] on their own: calibrated, and not coherent."""
    b, _, h, w = q.shape
    draws = np.stack([np.random.default_rng([seed, i, 1]).random((n, h, w), dtype=np.float32) for i in numbers])
    steps = q.float().cumsum(1)[:, None, :-1]  # [b 1 k-1 h w]
    return (torch.from_numpy(draws)[:, :, None] >= steps).sum(2).to(torch.uint8).reshape(b, n, h, w)


def modes_of(split: Split, numbers: Sequence[int], crop: Crop) -> tuple[Tensor, Tensor]:
    """Modes uint8 [b m h w] and their probabilities [b m] of images whose exact distribution a store holds."""
    maps = torch.from_numpy(np.stack([split.extras["modes"][i] for i in numbers]))
    p = torch.from_numpy(np.stack([split.extras["mode_probabilities"][i] for i in numbers])).double()
    h, w = maps.shape[-2:]
    ch, cw = crop_size(crop, (h, w))
    top, left = (h - ch) // 2, (w - cw) // 2
    return maps[..., top : top + ch, left : left + cw], p / p.sum(1, keepdim=True)


def draws_from_modes(modes: Tensor, probabilities: Tensor, n: int, seed: int, numbers: Sequence[int]) -> Tensor:
    """Maps uint8 [b n h w] drawn from the exact distribution: the best reachable answer."""
    picks = [
        np.random.default_rng([seed, i, 2]).choice(len(p), n, p=p / p.sum())
        for i, p in zip(numbers, probabilities.numpy(), strict=True)
    ]
    return torch.stack([of_image[torch.from_numpy(pick)] for of_image, pick in zip(modes, picks, strict=True)])


def mode_scores(maps: Tensor, modes: Tensor, probabilities: Tensor, k: int, ignore: int | None) -> dict[str, Tensor]:
    """How the samples [b n h w] spread over the modes of their images, each [b]."""
    nearest = nearest_modes(maps, modes, k, ignore)
    return {
        "mode_total_variation": mode_total_variation(nearest.frequencies(), probabilities),
        "missed_mass": missed_mass(nearest.frequencies(), probabilities),
        "off_mode_share": nearest.off_share(),
    }
