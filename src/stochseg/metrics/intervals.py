"""Confidence intervals of scores whose images come in groups: slices of one patient, frames of one city."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stochseg.errors import InputError

DRAWS_AT_ONCE_ELEMENTS = 1 << 22


def bootstrap_interval(
    values: ArrayLike,
    groups: Sequence[str] | Sequence[int] | NDArray[Any],
    statistic: Callable[[NDArray[np.float64]], Any] = np.mean,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval (low, high) of a statistic of values [N], resampling whole groups with replacement.

    Images of one patient are alike, so intervals that resample images are too narrow. groups: N names or numbers.
    level: share of such intervals that hold the true value, in 0..1 (a little less with few groups). The mean is
    computed from sums and counts by group, any other statistic draw by draw. nan values, where a score is undefined,
    are left out; count them yourself. Raises InputError where lengths differ or fewer than 2 groups have values.
    Efron and Tibshirani 1993, chapter 13.

    >>> bootstrap_interval([0.0, 1.0, 0.5, 0.5], ["p1", "p1", "p2", "p3"])  # every group has the mean 0.5
    (0.5, 0.5)
    """
    kept, sums, counts = _by_group(values, groups)
    if not 0 < level < 1:
        raise InputError(f"level is {level}; give a share between 0 and 1, such as 0.95")
    if draws < 1:
        raise InputError(f"draws is {draws}; give at least 1, 2000 is usual")
    if len(sums) < 2:
        raise InputError(f"{len(sums)} group(s) with values; an interval over groups takes at least 2")
    rng = np.random.default_rng(seed)
    size = len(sums)
    drawn = []
    step = max(1, DRAWS_AT_ONCE_ELEMENTS // size)
    for start in range(0, draws, step):
        chosen = rng.integers(size, size=(min(step, draws - start), size))
        if statistic is np.mean:
            drawn.append(sums[chosen].sum(1) / counts[chosen].sum(1))
        else:
            drawn.append(np.array([statistic(np.concatenate([kept[g] for g in row])) for row in chosen], np.float64))
    low, high = np.quantile(np.concatenate(drawn), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_totals_interval(
    totals: NDArray[np.float64],
    groups: Sequence[str] | Sequence[int] | NDArray[Any],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """The same for a statistic of sums over images, such as a calibration error, which is no mean of images' values.

    totals: [N ...], what each image adds. statistic: of summed totals [draws ...], one number each.
    Raises InputError for fewer than 2 groups.

    >>> hits = np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 4.0]])  # right, of all
    >>> bootstrap_totals_interval(hits, ["p1", "p2", "p3"], lambda sums: sums[:, 0] / sums[:, 1])
    (0.5, 0.5)
    """
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        raise InputError(f"{len(names)} group(s) with values; an interval over groups takes at least 2")
    by_group = np.zeros((len(names), totals[0].size))
    np.add.at(by_group, index, totals.reshape(len(totals), -1))
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    drawn = statistic((times.astype(np.float64) @ by_group).reshape(draws, *totals.shape[1:]))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _by_group(
    values: ArrayLike, groups: Sequence[str] | Sequence[int] | NDArray[Any]
) -> tuple[list[NDArray[np.float64]], NDArray[np.float64], NDArray[np.float64]]:
    """The defined values of each group that has any, their sums and their counts."""
    numbers, names = np.asarray(values, np.float64), np.asarray(groups)
    if numbers.ndim != 1 or numbers.shape != names.shape:
        raise InputError(
            f"values have shape {numbers.shape} and groups {names.shape}; give one group a value, [N] each"
        )
    defined = ~np.isnan(numbers)
    numbers = numbers[defined]
    _, index = np.unique(names[defined], return_inverse=True)
    counts = np.bincount(index)
    kept = np.split(numbers[np.argsort(index, kind="stable")], np.cumsum(counts)[:-1])
    sums: NDArray[np.float64] = np.bincount(index, weights=numbers).astype(np.float64)
    return kept, sums, counts.astype(np.float64)
