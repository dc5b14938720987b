"""Work on several cores: the order of the items, errors as they were, and a killed worker told in words."""

import os

import pytest

from stochseg.data.workers import Workers
from stochseg.errors import InputError, RunError


def fail_at_seven(number: int) -> int:
    if number == 7:
        raise InputError("seven")
    return -number


def test_results_come_in_order_and_errors_as_they_were() -> None:
    with Workers(2) as pool:
        assert list(pool.each(abs, range(-40, 0))) == list(range(40, 0, -1))
        assert list(pool.each(fail_at_seven, [1])) == [-1]  # one item starts nothing
        with pytest.raises(ValueError, match="invalid literal"):
            list(pool.each(int, ["1", "two", "3"]))
        assert list(pool.each(abs, [-1, -2])) == [1, 2]  # and the pool goes on
    with Workers(1) as alone, pytest.raises(InputError, match="seven"):
        list(alone.each(fail_at_seven, range(9)))


def test_a_killed_worker_is_told_in_words() -> None:
    with Workers(2) as pool, pytest.raises(RunError, match="with little memory use one worker"):
        list(pool.each(os._exit, [1, 1]))
