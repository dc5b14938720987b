"""A few samples that stand for many: as different as they come, each with the share of draws it speaks for."""

import torch
from torch import Tensor

from stochseg.errors import InputError
from stochseg.metrics import pairwise_iou


def most_different(maps: Tensor, count: int, classes: int, ignore: int | None = None) -> tuple[Tensor, Tensor]:
    """The numbers of `count` maps of an image, int64 [b count], and the share of all maps nearest to each, float64.

    maps: integer [b n h w]. The first is the most typical one, of the least mean distance to all; every further one lies
    farthest from those chosen (Gonzalez 1985). Distances are 1 - IoU, the mean over classes. These are not draws: their
    shares say how often their like is drawn. Raises InputError for a count that n does not hold.
    """
    b, n = maps.shape[:2]
    if not 1 <= count <= n:
        raise InputError(f"--most-different {count}: must be from 1 to the {n} samples drawn")
    distances = 1 - pairwise_iou(maps, maps, classes, ignore)
    rows = torch.arange(b, device=distances.device)
    chosen = [distances.mean(2).argmin(1)]
    for _ in range(count - 1):
        near = distances[rows[:, None], torch.stack(chosen, 1)].amin(1)
        near[rows[:, None], torch.stack(chosen, 1)] = -1  # never one twice, even where all are alike
        chosen.append(near.argmax(1))
    picked = torch.stack(chosen, 1)
    nearest = distances[rows[:, None], picked].argmin(1)  # [b n]
    shares = torch.nn.functional.one_hot(nearest, count).double().mean(1)
    return picked, shares
