"""Seeded splits that keep a group (a patient, a city) whole."""

from collections.abc import Mapping, Sequence

import numpy as np

from stochseg.errors import InputError

SPLIT_NAMES = ("train", "val", "test")


def parse_shares(text: str, flag: str = "--splits") -> dict[str, float]:
    """Shares of train, val and test, as in "60/20/20" (or "80/20": no test), made to sum to 1; shares of 0 left out."""
    try:
        shares = [float(share) for share in text.split("/")]
    except ValueError:
        shares = []
    if not 1 <= len(shares) <= 3 or not all(0 <= s < float("inf") for s in shares) or sum(shares) == 0:
        raise InputError(f"{flag} {text}: shares of train/val/test are needed, such as 60/20/20 or 80/20")
    return {name: s / sum(shares) for name, s in zip(SPLIT_NAMES, shares, strict=False) if s > 0}


def split_by_group(groups: Sequence[str], shares: Mapping[str, float], seed: int) -> list[str]:
    """The split of each item, so that all items of a group share one split.

    The distinct groups are shuffled by `seed` and cut at the cumulated `shares` (of groups, not of items); each split
    gets at least one group. The order of the items plays no part. Raises InputError for fewer groups than splits.
    """
    distinct = sorted(set(groups))
    if len(distinct) < len(shares):
        raise InputError(
            f"{len(distinct)} patients cannot fill the splits {'/'.join(shares)}: ask for fewer, as in --splits 100"
        )
    order = np.random.default_rng(seed).permutation(len(distinct))
    split_of: dict[str, str] = {}
    start, total = 0, 0.0
    for n, (name, share) in enumerate(shares.items(), 1):
        total += share
        still_to_come = len(shares) - n  # each of these needs a group
        end = min(max(round(total * len(distinct)), start + 1), len(distinct) - still_to_come)
        split_of.update((distinct[group], name) for group in order[start:end])
        start = end
    return [split_of[group] for group in groups]
