"""Scores of a split by several processes, equal to those of one to the last bit.

Each takes every size-th batch of images, whole: a network may round otherwise in a batch of another size. What comes of
an image is put back in its place, and sums over images add up without rounding (metrics/reliability.py).
"""

from collections.abc import Callable, Sequence
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import NDArray

from stochseg.processes import World
from stochseg.scoring.split_scores import Scores


def score_shared(world: World, rows: Sequence[int], batch: int, score: Callable[[list[int]], Scores]) -> Scores:
    """The scores of rows of a split, in their order, in every process. score: those of some rows, in batches of `batch`."""
    places = np.arange(len(rows))
    mine = _joined(world.share(np.split(places, range(batch, len(rows), batch))))
    own = score([rows[place] for place in mine]) if len(mine) else None  # few batches may not go round
    found = [(places, scores) for places, scores in world.gather((mine, own)) if scores is not None]
    if len(found) == 1:
        return found[0][1]
    order = np.argsort(_joined([places for places, _ in found]))
    parts = [scores for _, scores in found]

    def whole(pieces: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        return np.concatenate(pieces)[order]

    first = parts[0]
    return type(first)(
        {name: whole([p.values[name] for p in parts]) for name in first.values},
        {
            trivial: {name: whole([p.baselines[trivial][name] for p in parts]) for name in values}
            for trivial, values in first.baselines.items()
        },
        {key: reduce(add, [p.reliability[key] for p in parts]) for key in first.reliability},
        {name: whole([p.bins[name] for p in parts]) for name in first.bins},
        {name: whole([p.counts[name] for p in parts]) for name in first.counts},
    )


def _joined(places: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(places) if len(places) else np.empty(0, np.int64)
