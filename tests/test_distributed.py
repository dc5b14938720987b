"""Several real processes: the weights and the numbers of one, through kills, stops and resumes; never a hang."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stochseg.config import CalibrationConfig, InputConfig, RefinementConfig
from stochseg.data.batches import Batches
from stochseg.data.store import open_store
from stochseg.errors import InputError
from stochseg.models.car import CAR
from stochseg.processes import World, environment
from stochseg.training.run import train

from .conftest import write_blobs
from .several import Started, run, start
from .test_training import flags, same, step_lines, steps_done, weights

SMALL: dict[str, Any] = {
    "input.crop": 16,
    "input.jitter": 1.0,
    "input.rotate": 20,
    "calibration.widths": [16, 16],
    "calibration.patch": 1,
    "refinement.widths": [16, 16],
    "refinement.patch": 1,
    "discriminator.width": 4,
    "objective.adversarial": 1.0,
    "objective.calibration": 1.0,
    "phases.discriminator.active": 2,
    "phases.discriminator.period": 3,
    "training.batch": 8,
    "training.warmup": 2,
    "training.log_every": 1,
    "validation.images": None,
    "validation.samples": 4,
    "validation.every": 5,
    "precision": "float32",
}


def training(store: Path, out: Path, **more: Any) -> list[str]:
    return ["train", "--config", "lidc", "--data", str(store), "--out", str(out), *flags(SMALL | more)]


def test_two_processes_train_the_weights_of_one(tiny_store: Path, tmp_path: Path) -> None:
    one = train(data=tiny_store, out=tmp_path / "one", config="lidc", **SMALL, steps=7)
    run(2, tmp_path / "output", training(tiny_store, tmp_path / "two", steps=7))
    a, b = weights(one), weights(tmp_path / "two")
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-5, msg=name)


def test_stopped_killed_and_resumed_two_processes_end_with_the_same_bits(tiny_store: Path, tmp_path: Path) -> None:
    """The paper's refinement network: running statistics, and dropout that differs between the processes."""
    settings: dict[str, Any] = {"refinement.net": "paper", "refinement.width": 8}
    settings |= {"steps": 9, "training.save_every": 0.0}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(2, tmp_path / "output_whole", training(tiny_store, whole, **settings))
    resume = ["train", "--data", str(tiny_store), "--out", str(broken), "--resume"]

    stopped = start(2, tmp_path / "output_stopped", training(tiny_store, broken, **settings))
    wait_for_step(broken, 2, stopped)
    os.kill(stopped.processes[1].pid, signal.SIGTERM)  # one process is told, and all save and stop at the same step
    assert stopped.codes() == [75, 75], stopped.text(0) + stopped.text(1)
    assert "--resume" in stopped.text(0)
    assert stopped.text(1) == ""

    killed = start(2, tmp_path / "output_killed", resume)
    wait_for_step(broken, 5, killed)
    os.kill(killed.processes[1].pid, signal.SIGKILL)
    assert killed.codes() == [1, -signal.SIGKILL], killed.text(0)
    assert "process 0 of 2: stochseg: error: another process has ended" in killed.text(0)

    with pytest.raises(InputError, match=r"was trained by 2 processes, and this is 1 process;"):
        train(data=tiny_store, out=broken, resume=True)
    run(2, tmp_path / "output_resumed", resume)
    assert same(weights(whole), weights(broken))
    assert same(load_file(whole / "model/model.safetensors"), load_file(broken / "model/model.safetensors"))
    assert [line["step"] for line in step_lines(broken)] == list(range(1, 10))


def wait_for_step(out: Path, step: int, started: Started) -> None:
    deadline = time.monotonic() + 120
    while steps_done(out) < step:
        assert time.monotonic() < deadline, "too slow"
        assert all(process.is_alive() for process in started.processes), started.text(0) + started.text(1)
        time.sleep(0.01)


def test_a_process_that_does_not_answer_ends_the_run(tiny_store: Path, tmp_path: Path) -> None:
    command = training(
        tiny_store, tmp_path / "run", **{"steps": 10**6, "training.timeout": 3, "validation.every": 10**6}
    )
    started = start(2, tmp_path / "output", command)
    wait_for_step(tmp_path / "run", 2, started)
    os.kill(started.processes[1].pid, signal.SIGSTOP)
    started.processes[0].join(60)
    assert started.codes(timeout=0)[0] == 1
    assert "does not answer" in started.text(0)


def test_evaluate_and_sample_give_the_numbers_of_one_process(tmp_path: Path) -> None:
    store = write_blobs(tmp_path / "store", {"train": 4, "test": 70}, size=16)  # three batches for two processes
    model = CAR(2, 1, (16, 16), CalibrationConfig(widths=(4, 8)), RefinementConfig(widths=(4, 8)))
    torch.nn.init.normal_(model.refinement.head.weight, generator=torch.Generator().manual_seed(0))
    found = []
    for count in (1, 2):
        out = tmp_path / str(count)
        model.save(out / "model")
        command = ["evaluate", str(out), "--data", str(store), "--samples", "4", "--precision", "float32"]
        started = run(count, out / "output", command)
        result = json.loads((out / "evaluation/test.json").read_text())
        arrays = dict(np.load(out / "evaluation/test.npz"))
        examples = dict(np.load(out / "evaluation/test_examples.npz"))
        found.append((result | {"seconds": 0}, arrays, examples))
        assert "GED" in started.text(0)
    assert started.text(1) == ""
    assert json.dumps(found[0][0]) == json.dumps(found[1][0])
    for one, two in zip(found[0][1:], found[1][1:], strict=True):
        assert one.keys() == two.keys()
        assert all(np.array_equal(one[name], two[name], equal_nan=one[name].dtype.kind == "f") for name in one)

    images = tmp_path / "images"
    images.mkdir()
    for i in range(5):
        np.save(images / f"{i}.npy", open_store(store).split("test").images[i, :, :, 0])
    (images / "5.png").write_bytes(b"no picture")
    sampled = []
    for count in (1, 2):
        out = tmp_path / f"sampled_{count}"
        command = [
            "sample",
            str(tmp_path / "1"),
            str(images),
            "--samples",
            "3",
            "--out",
            str(out),
            "--on-error",
            "skip",
        ]
        started = start(count, out.with_suffix(".output"), command)
        assert started.codes() == [3] * count, started.text(0)
        assert "sampled 5 images" in started.text(0)
        assert "left out" in started.text(0)
        files = sorted(out.glob("*/samples.npz"))
        sampled.append({file.parent.name: np.load(file)["maps"] for file in files})
    assert list(sampled[0]) == list(sampled[1]) == list("01234")
    assert all(np.array_equal(sampled[0][name], sampled[1][name]) for name in sampled[0])


def test_what_is_wrong_is_said_once(tiny_store: Path, tmp_path: Path) -> None:
    def refused(*commands: list[str]) -> str:
        started = start(2, tmp_path / "output", *commands)
        assert started.codes() == [2, 2], started.text(0) + started.text(1)
        texts = [started.text(rank) for rank in range(2)]
        for file in started.outputs:
            file.unlink(missing_ok=True)
        assert len("".join(texts).splitlines()) == 1
        return "".join(texts)

    out = tmp_path / "run"
    assert "must be a multiple of 2" in refused(training(tmp_path / "none", out, steps=1, **{"training.batch": 7}))
    one_alone = [training(tiny_store, out, steps=1), training(tmp_path / "none", out, steps=1)]
    assert refused(*one_alone).startswith("process 1 of 2: stochseg: error: ")
    other_seed = [training(tiny_store, out, steps=1, seed=seed) for seed in (0, 1)]
    assert "process 1 has another config than process 0" in refused(*other_seed)
    assert not out.exists()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "2"}, "RANK and MASTER_ADDR and MASTER_PORT not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
            "RANK 2: must be from 0 to 1",
        ),
    ],
)
def test_variables_of_a_launcher_that_do_not_fit(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message):
        environment()


def test_a_share_of_a_batch_is_a_part_of_the_whole(tiny_store: Path) -> None:
    """Rows, crops, rotations, flips, intensities and the order of raters are those that one process would see."""
    config = InputConfig(crop=16, jitter=1, rotate=30, scale=0.2, zoom=(0.5, 0.8), intensity=0.3)
    split = open_store(tiny_store).split("train")
    for settings in (config, dataclasses.replace(config, rotate=0, scale=0)):
        batches = Batches(split, 8, settings, seed=0)
        whole = batches.at(4)
        parts = [batches.at(4, World(rank, 4).rows(8)) for rank in range(4)]
        assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)
        torch.testing.assert_close(torch.cat([part.images for part in parts]), whole.images, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_torchrun_ends_with_a_process_that_dies_and_goes_on_to_the_same_bits(tiny_store: Path, tmp_path: Path) -> None:
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "stochseg",
    ]
    settings: dict[str, Any] = {"steps": 12, "training.save_every": 0.0}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run([*torchrun, *training(tiny_store, whole, **settings)], check=True, timeout=300)
    launcher = subprocess.Popen(
        [*torchrun, *training(tiny_store, broken, **settings)], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 200
    while steps_done(broken) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    _, said = launcher.communicate(timeout=100)
    assert launcher.returncode == 1
    assert "SIGKILL" in said
    resume = ["train", "--data", str(tiny_store), "--out", str(broken), "--resume"]
    subprocess.run([*torchrun, *resume], check=True, timeout=300)
    assert same(weights(whole), weights(broken))
    refused = subprocess.run(
        [*torchrun, "report", str(whole)], capture_output=True, text=True, check=False, timeout=100
    )
    assert "is the work of one process" in refused.stderr
