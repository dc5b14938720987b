"""Confidence intervals of scores, and a test of two methods, for images that come in groups: slices of one patient,
frames of one city. Images of a group are alike, so the group is what is drawn again and what counts as one."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stochseg.errors import InputError

DRAWS_AT_ONCE_ELEMENTS = 1 << 22
EXACT_UP_TO_GROUPS = 16
"""Groups up to which a paired test takes every flip of signs (65,536 of 16 groups), not a random part of them."""
TIE = 1e-12
"""Sums closer than this share of all magnitudes are equal: rounding alone must not decide what is as extreme."""


class PairedTest(NamedTuple):
    """Two methods on the same images: mean of the first minus mean of the second."""

    difference: float
    """Mean over the images whose value both methods define."""
    low: float
    """Lower end of the interval of the difference, bootstrapped over whole groups."""
    high: float
    """Its upper end."""
    p_value: float
    """Two-sided, by flips of sign of whole groups; at least 2 / 2^groups, however large the difference."""
    images: int
    """How many images both methods define."""
    groups: int
    """How many groups these come from."""
    undefined: int
    """How many images were left out: nan for either method."""


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
    _check(len(sums), level, draws)
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
    Raises InputError where lengths differ or for fewer than 2 groups.

    >>> hits = np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 4.0]])  # right, of all
    >>> bootstrap_totals_interval(hits, ["p1", "p2", "p3"], lambda sums: sums[:, 0] / sums[:, 1])
    (0.5, 0.5)
    """
    if len(totals) != len(groups):
        raise InputError(f"{len(totals)} totals and {len(groups)} groups; give one group a total, N each")
    if not np.isfinite(totals).all():
        raise InputError("totals hold values that are not finite; give what each image adds, 0 where it adds nothing")
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    _check(len(names), level, draws)
    by_group = np.zeros((len(names), totals[0].size))
    np.add.at(by_group, index, totals.reshape(len(totals), -1))
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    drawn = statistic((times.astype(np.float64) @ by_group).reshape(draws, *totals.shape[1:]))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_test(
    a: ArrayLike,
    b: ArrayLike,
    groups: Sequence[str] | Sequence[int] | NDArray[Any],
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> PairedTest:
    """Does one method score otherwise than another on the same images? Difference of means, interval and p-value.

    a, b: values [N] of the two methods, image by image; groups: N names or numbers, such as patients. An image that
    is nan for either method leaves both and is counted in `undefined`.

        difference = 1/N sum_i (a_i - b_i)
        interval: percentile bootstrap over groups (`bootstrap_interval`; Efron and Tibshirani 1993, chapter 13)
        p_value = share of flips s in {-1, 1}^G with |sum_g s_g D_g| >= |sum_g D_g|,  D_g = sum_(i in g) (a_i - b_i)

    If the methods were equally good, which of them is called a would not matter in any group: every flip is as
    likely (paired randomisation test; Good 2005, Permutation, Parametric and Bootstrap Tests of Hypotheses). Up to 16
    groups all 2^G flips are taken; of more, `draws` random ones, and p = (1 + as extreme) / (1 + draws), which is
    never 0 (Phipson and Smyth 2010). Exchanging a and b changes the signs of difference and interval alone.
    Raises InputError where lengths differ, a value is infinite, or fewer than 2 groups have values.

    >>> test = paired_test([0.1, 0.2, 0.3, 0.1], [0.3, 0.3, 0.5, 0.2], ["p1", "p1", "p2", "p3"])
    >>> round(test.difference, 3), test.p_value  # all three groups agree: 2 of 8 flips are as extreme
    (-0.15, 0.25)
    """
    first, second, names = np.asarray(a, np.float64), np.asarray(b, np.float64), np.asarray(groups)
    if first.ndim != 1 or not first.shape == second.shape == names.shape:
        raise InputError(
            f"a has shape {first.shape}, b {second.shape} and groups {names.shape}; give the same images' values, [N] each"
        )
    if np.isinf(first).any() or np.isinf(second).any():
        raise InputError(
            "a or b holds an infinite value, of which there is no mean; give nan where a score is undefined"
        )
    difference = first - second
    _, sums, counts = _by_group(difference, names)
    low, high = bootstrap_interval(difference, names, level=level, draws=draws, seed=seed)
    images = int(counts.sum())
    return PairedTest(
        difference=math.fsum(difference[~np.isnan(difference)]) / images,
        low=low,
        high=high,
        p_value=_share_of_flips(sums, draws, seed),
        images=images,
        groups=len(sums),
        undefined=len(difference) - images,
    )


def _share_of_flips(sums: NDArray[np.float64], draws: int, seed: int) -> float:
    """Two-sided p-value of the sum over groups, each of which might as well have the other sign."""
    reach = abs(float(sums.sum())) - TIE * float(np.abs(sums).sum())
    if len(sums) <= EXACT_UP_TO_GROUPS:
        flipped = sums[:1]  # the first sign is held: a flip of all signs is as extreme
        for one in sums[1:]:
            flipped = np.concatenate([flipped + one, flipped - one])
        return float(np.mean(np.abs(flipped) >= reach))
    rng = np.random.default_rng([seed, 1])  # other numbers than the bootstrap's
    as_extreme = 0
    step = max(1, DRAWS_AT_ONCE_ELEMENTS // len(sums))
    for start in range(0, draws, step):
        signs = np.where(rng.random((min(step, draws - start), len(sums))) < 0.5, -1.0, 1.0)
        as_extreme += int(np.count_nonzero(np.abs(signs @ sums) >= reach))
    return (1 + as_extreme) / (1 + draws)


def _check(groups: int, level: float, draws: int) -> None:
    if not 0 < level < 1:
        raise InputError(f"level is {level}; give a share between 0 and 1, such as 0.95")
    if draws < 1:
        raise InputError(f"draws is {draws}; give at least 1, 2000 is usual")
    if groups < 2:
        raise InputError(f"{groups} group(s) with values; an interval over groups takes at least 2")


def _by_group(
    values: ArrayLike, groups: Sequence[str] | Sequence[int] | NDArray[Any]
) -> tuple[list[NDArray[np.float64]], NDArray[np.float64], NDArray[np.float64]]:
    """The defined values of each group that has any, their sums and their counts."""
    numbers, names = np.asarray(values, np.float64), np.asarray(groups)
    if numbers.ndim != 1 or numbers.shape != names.shape:
        raise InputError(
            f"values have shape {numbers.shape} and groups {names.shape}; give one group a value, [N] each"
        )
    if np.isinf(numbers).any():
        raise InputError("values hold infinity, which has no mean; leave such images out as nan and count them")
    defined = ~np.isnan(numbers)
    numbers = numbers[defined]
    _, index = np.unique(names[defined], return_inverse=True)
    counts = np.bincount(index)
    kept = np.split(numbers[np.argsort(index, kind="stable")], np.cumsum(counts)[:-1])
    sums: NDArray[np.float64] = np.bincount(index, weights=numbers).astype(np.float64)
    return kept, sums, counts.astype(np.float64)
