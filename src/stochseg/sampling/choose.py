"""A few samples that stand for many: medoids under IoU, each with the share of draws that it speaks for."""

import torch
from torch import Tensor

from stochseg.errors import InputError
from stochseg.metrics import pairwise_iou

GAIN = 1e-9
"""Less than this is no gain: sums of distances round differently in another order, and would be swapped for ever."""


def most_different(maps: Tensor, count: int, classes: int, ignore: int | None = None) -> tuple[Tensor, Tensor]:
    """The numbers of `count` maps of an image, int64 [b count], and the share of all maps nearest to each, float64.

    maps: integer [b n h w]. The chosen ones are medoids: the mean distance from a map to the nearest of them is as small
    as swaps of one of them for another map can make it (Kaufman and Rousseeuw 1990, PAM). Distances are 1 - IoU, the
    mean over classes. Those that speak for more come first. These are not draws: their shares say how often their like
    is drawn, and are 0 where a map repeats one before it. Raises InputError for a count that n does not hold.
    """
    n = maps.shape[1]
    if not 1 <= count <= n:
        raise InputError(f"--most-different {count}: must be from 1 to the {n} samples drawn")
    picked, shares = [], []
    for distances in (1 - pairwise_iou(maps, maps, classes, ignore)).double().cpu():
        chosen = torch.tensor(medoids(distances, count))
        nearest = distances[:, chosen].argmin(1)
        share = torch.nn.functional.one_hot(nearest, count).double().mean(0)
        order = share.argsort(descending=True, stable=True)
        picked.append(chosen[order])
        shares.append(share[order])
    return torch.stack(picked), torch.stack(shares)


def medoids(distances: Tensor, count: int) -> list[int]:
    """The rows of distances [n n] whose sum of distances from each row to the nearest of them no swap makes smaller.

    The first is that of the least mean distance, every further one helps most; then any one is swapped for the row that
    helps most, until none does.

    >>> medoids(torch.tensor([[0.0, 0.1, 0.9], [0.1, 0.0, 0.8], [0.9, 0.8, 0.0]]), 2)
    [1, 2]
    """
    chosen = [int(distances.sum(1).argmin())]
    while len(chosen) < count:
        costs = _costs(distances, chosen)
        chosen.append(int(costs.argmin()))
    total = float(distances[:, chosen].amin(1).sum())
    while True:
        others = [chosen[:i] + chosen[i + 1 :] for i in range(count)]
        costs = torch.stack([_costs(distances, rest) for rest in others])  # [count n]
        costs[:, chosen] = torch.inf
        place, row = divmod(int(costs.argmin()), len(distances))
        if not costs[place, row] < total - GAIN:
            return chosen
        total = float(costs[place, row])
        chosen[place] = row


def _costs(distances: Tensor, chosen: list[int]) -> Tensor:
    """The sum of distances to the nearest of those chosen and one more, for every row as that one: [n], inf for themselves."""
    near = distances[:, chosen].amin(1) if chosen else torch.full_like(distances[0], torch.inf)
    costs = torch.minimum(near[:, None], distances).sum(0)
    costs[chosen] = torch.inf
    return costs
