"""Splits by group: whole groups, the asked shares, the same for the same seed whatever the order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stochseg.data.splits import parse_shares, split_by_group
from stochseg.errors import InputError

SHARES = st.lists(st.floats(0.01, 1), min_size=1, max_size=3).map(lambda s: "/".join(map(str, s)))


def test_shares() -> None:
    assert parse_shares("60/20/20") == {"train": 0.6, "val": 0.2, "test": 0.2}
    assert parse_shares("3/1") == {"train": 0.75, "val": 0.25}
    assert parse_shares("80/0/20") == {"train": 0.8, "test": 0.2}
    assert parse_shares("0/0/5") == {"test": 1.0}


@given(st.lists(st.integers(0, 40), min_size=1), SHARES, st.integers(0, 2**32))
def test_groups_stay_whole_and_shares_are_met(numbers: list[int], text: str, seed: int) -> None:
    groups = [f"p{n}" for n in numbers]
    distinct = sorted(set(groups))
    shares = parse_shares(text)
    if len(distinct) < len(shares):
        with pytest.raises(InputError, match="cannot fill the splits"):
            split_by_group(groups, shares, seed)
        return
    splits = split_by_group(groups, shares, seed)
    pairs = set(zip(groups, splits, strict=True))
    assert len(pairs) == len(distinct)  # one split a group
    assert {split for _, split in pairs} == set(shares)  # none empty
    for name, share in shares.items():
        count = sum(split == name for _, split in pairs)
        assert abs(count - share * len(distinct)) <= len(shares)
    assert dict(zip(groups[::-1], split_by_group(groups[::-1], shares, seed), strict=True)) == dict(pairs)


def test_every_group_can_land_in_every_split() -> None:
    groups = list("abcdef")
    halves = [split_by_group(groups, parse_shares("1/1"), seed) for seed in range(60)]
    seen = {pair for splits in halves for pair in zip(groups, splits, strict=True)}
    assert len(seen) == 12
