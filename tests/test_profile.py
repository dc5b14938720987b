"""The profile of a step: parts that add up, each with its own time, at no cost where it is not asked for."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from stochseg.training.profile import NAME, end_of, end_step, profiling, timed
from stochseg.training.run import train

from .test_training import SMALL, flags, same, weights


def test_each_part_gets_its_own_time(tmp_path: Path) -> None:
    with profiling(tmp_path, torch.device("cpu"), {"batch": 1}):
        for _ in range(2):
            with timed("losses"):
                time.sleep(0.01)
                with timed("backward"):
                    time.sleep(0.03)
                time.sleep(0.01)
            end_step()
        time.sleep(0.02)
        end_of("saving")
    found = json.loads((tmp_path / NAME).read_text())
    assert found["parts_ms"].keys() == {"losses", "backward", "other"}
    assert found["parts_ms"]["losses"] >= 20
    assert found["parts_ms"]["backward"] >= 30
    assert found["ms_per_step"] == pytest.approx(sum(found["parts_ms"].values()))
    assert found["seconds_between"]["saving"] >= 0.02
    assert found["steps"] == 2


def test_outside_of_a_profile_nothing_is_measured(tmp_path: Path) -> None:
    with profiling(None, torch.device("cpu"), {}), timed("losses"):
        end_step()
        end_of("saving")
    assert not list(tmp_path.iterdir())


def test_a_profiled_run_is_the_same_run_and_says_where_its_time_went(tiny_store: Path, tmp_path: Path) -> None:
    plain = train(data=tiny_store, out=tmp_path / "plain", config="lidc", **SMALL, steps=3)
    command = [sys.executable, "-m", "stochseg", "train", "--data", str(tiny_store), "--out", str(tmp_path / "run")]
    start = time.monotonic()
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # as the plain run: more would add up in another order
    ended = subprocess.run(
        [*command, "--profile", *flags(SMALL | {"steps": 3})],
        capture_output=True,
        text=True,
        check=True,
        env=one_thread,
    )
    seconds = time.monotonic() - start
    found = json.loads((tmp_path / "run" / NAME).read_text())
    assert found["parts_ms"].keys() == {"data", "F", "G", "losses", "backward", "optimizer", "other"}
    assert all(ms > 0 for ms in found["parts_ms"].values())
    assert found["seconds_between"].keys() == {"validation", "saving"}
    assert found["steps"] * found["ms_per_step"] / 1e3 + sum(found["seconds_between"].values()) < seconds
    for word in ("backward", "a step", "images/s", "mean of 3 steps", "validation"):
        assert word in ended.stdout
    assert same(weights(plain), weights(tmp_path / "run"))
