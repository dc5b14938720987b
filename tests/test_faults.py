"""Faults survived: nothing wrong in silence, nothing lost that was whole. docs/reliability.md is the table of them."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stochseg.cli import main
from stochseg.config import CalibrationConfig, DiscriminatorConfig, RefinementConfig
from stochseg.data.batches import Batch, Batches
from stochseg.errors import InputError, RunError, Stopped
from stochseg.models.car import CAR
from stochseg.presets import load_config
from stochseg.processes import World
from stochseg.sample_files import sample_files
from stochseg.training import checkpoint
from stochseg.training.checkpoint import average_weights
from stochseg.training.distributed import Exchange
from stochseg.training.gradients import accumulate_gradients
from stochseg.training.phases import Phase, make_phases
from stochseg.training.run import train
from stochseg.training.run_lock import locked
from stochseg.training.step import take_step
from stochseg.training.validation import Validation

from .conftest import write_blobs
from .test_training import PAPER, SMALL, kill_and_compare, same, step_lines, weights

HOLD = """
import pathlib, sys, time
from stochseg.training.run_lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
"""A process that holds a run directory."""
AS_NOBODY = """
import json, os, shlex, sys
import jsonargparse, stochseg.evaluation, stochseg.report.table, stochseg.training.loop
from stochseg.cli import main
os.setgid(65534)
os.setuid(65534)
print([main(words) for words in json.loads(sys.argv[1])])
"""
"""Several command lines, as a user who may write nothing of ours."""
SETTINGS = SMALL | {"training.save_every": 0.0}


@pytest.fixture(scope="module")
def small_run(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps, each saved."""
    return train(data=tiny_store, out=tmp_path_factory.mktemp("faults") / "run", config="lidc", **SETTINGS, steps=6)


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(small_run, tmp_path / "run")


def damage(data: bytes, chance: random.Random) -> bytes:
    """Cut anywhere, or one bit turned anywhere."""
    at = chance.randrange(len(data))
    return (
        data[:at]
        if chance.random() < 0.5
        else data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
    )


def test_a_checkpoint_damaged_anywhere_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """200 random damages: the checkpoint before is used, and that is said."""
    networks = torch.nn.ModuleDict({"calibration": torch.nn.Conv2d(1, 8, 3), "refinement": torch.nn.Linear(30, 20)})
    phases = make_phases(networks, load_config("lidc", {"steps": 1}))
    file, before = tmp_path / checkpoint.NAME, tmp_path / checkpoint.PREVIOUS
    for step in (5, 6):
        for phase in phases:
            for parameter in phase.network.parameters():
                parameter.grad = torch.randn_like(parameter)
            phase.update(1e-2)
        checkpoint.save_checkpoint(tmp_path, networks, average_weights(networks, 0.9), phases, {"step": step})
    whole, previous = file.read_bytes(), before.read_bytes()
    newest, older = checkpoint._read(tmp_path), checkpoint.read_weights(before)
    newest[0].update({k: v.clone() for k, v in newest[0].items()})  # the tensors are windows on the files
    older[0].update({k: v.clone() for k, v in older[0].items()})
    chance = random.Random(0)
    for _ in range(200):
        file.write_bytes(damage(whole, chance))
        before.write_bytes(previous)
        tensors, numbers = checkpoint._read(tmp_path, mend=True)
        said = capsys.readouterr().err
        if "going on from state.previous.safetensors, step 5" in said:
            assert (numbers["step"], file.read_bytes() == previous) == (5, True)
            assert same(tensors, older[0])
        else:  # a bit that means nothing, such as a blank turned into a tab
            assert same(tensors, newest[0])
            assert numbers == newest[1]


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(run: Path, small_run: Path, tiny_store: Path) -> None:
    """And the good one stays, even if the run is killed in its next save."""
    folder = run / "checkpoint"
    data = bytearray((folder / checkpoint.NAME).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / checkpoint.NAME).write_bytes(data)
    checkpoint._read(folder, mend=True)  # what a run does that is killed right after
    assert checkpoint.read_numbers(folder)["step"] == 5
    train(data=tiny_store, out=run, resume=True)
    assert same(weights(small_run), weights(run))


def test_a_checkpoint_that_lost_its_sum_is_not_taken(run: Path) -> None:
    """One bit in the name of the sum, and nothing would be compared."""
    file = run / "checkpoint" / checkpoint.NAME
    data = file.read_bytes()
    assert data.count(b'"sha256"') == 1
    file.write_bytes(data.replace(b'"sha256"', b'"sha257"'))
    assert checkpoint.read_numbers(run / "checkpoint")["step"] == 5


def test_no_whole_checkpoint_is_one_line(run: Path, tiny_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (checkpoint.NAME, checkpoint.PREVIOUS):
        (run / "checkpoint" / name).write_bytes(b"\x08" + bytes(20))
    assert main(["train", "--data", str(tiny_store), "--out", str(run), "--resume"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("stochseg: error: ")
    assert "state.safetensors: damaged" in said
    assert "state.previous.safetensors: damaged" in said
    assert "no whole checkpoint is left" in said


def test_a_damaged_model_is_never_loaded(run: Path) -> None:
    file = run / "model" / "model.safetensors"
    whole, wanted = file.read_bytes(), dict(CAR.load(run).networks.state_dict())
    chance, noticed = random.Random(1), []
    for _ in range(100):
        file.write_bytes(damage(whole, chance))
        try:
            assert same(dict(CAR.load(run).networks.state_dict()), wanted)
        except InputError as error:
            noticed.append(str(error))
    assert len(noticed) > 90
    assert all("copy or train the model again" in said for said in noticed)


def test_a_second_training_in_one_directory_is_refused(run: Path, tiny_store: Path) -> None:
    before = weights(run)
    with (
        locked(run),
        pytest.raises(InputError, match=rf"another training is at work there \(process {os.getpid()} on "),
    ):
        train(data=tiny_store, out=run, resume=True, steps=8)
    assert same(before, weights(run))
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=f"process {holder.pid} on "):
        train(data=tiny_store, out=run, resume=True, steps=8)
    holder.kill()  # leaves no lock behind
    holder.wait()
    train(data=tiny_store, out=run, resume=True, steps=7)
    assert len(step_lines(run)) == 7


def test_sigterm_in_a_long_validation_saves_and_ends_at_once(
    small_run: Path, tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Validation.judge

    def long(self: Validation, *args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        return judge(self, *args)

    monkeypatch.setattr(Validation, "judge", long)
    start = time.monotonic()
    with pytest.raises(Stopped, match="at step 5"):
        train(data=tiny_store, out=tmp_path / "run", config="lidc", **SMALL, steps=6)
    assert time.monotonic() - start < 10
    assert not (tmp_path / "run/model/model.safetensors").exists()
    monkeypatch.setattr(Validation, "judge", judge)
    train(data=tiny_store, out=tmp_path / "run", resume=True)
    assert same(weights(small_run), weights(tmp_path / "run"))
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "val_ged" in line] == [5, 6]


@pytest.mark.parametrize(
    "fault",
    ["changed", "cut", pytest.param("replaced", marks=pytest.mark.slow), pytest.param("gone", marks=pytest.mark.slow)],
)
def test_a_store_that_changes_ends_the_training(
    fault: str, small_run: Path, tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = shutil.copytree(tiny_store, tmp_path / "store")
    file = store / "train.images.npy"
    kept = file.read_bytes()
    read = Batches.at

    def at(self: Batches, step: int, *args: Any, **more: Any) -> Batch:
        batch = read(self, step, *args, **more)
        if step == 3:
            if fault == "changed":
                with file.open("r+b") as stream:
                    stream.seek(500)
                    stream.write(b"other")
            elif fault == "cut":
                os.truncate(file, 1000)
            else:
                file.unlink()
                if fault == "replaced":
                    file.write_bytes(kept)
        return batch

    monkeypatch.setattr(Batches, "at", at)
    with pytest.raises(RunError, match=r"train\.images\.npy: changed while it was in use.*--resume"):
        train(data=store, out=tmp_path / "run", config="lidc", **SETTINGS, steps=6)
    monkeypatch.setattr(Batches, "at", read)
    assert checkpoint.read_numbers(tmp_path / "run/checkpoint")["step"] == 3
    file.write_bytes(kept)
    if fault == "changed":
        train(data=store, out=tmp_path / "run", resume=True)
        assert same(weights(small_run), weights(tmp_path / "run"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not write")
def test_a_directory_that_may_not_be_written_is_one_line(small_run: Path, tiny_store: Path) -> None:
    with tempfile.TemporaryDirectory() as root:
        base = Path(root)
        base.chmod(0o755)
        run, store = shutil.copytree(small_run, base / "run"), shutil.copytree(tiny_store, base / "store")
        for path in (*base.rglob("*"), base):
            path.chmod(0o755 if path.is_dir() else 0o644)
        commands = (
            ["train", "--data", str(store), "--out", str(run), "--resume", "--steps", "9"],
            ["train", "--data", str(store), "--out", str(base / "new"), "--steps", "9", "--input.crop", "none"],
            ["evaluate", str(run), "--data", str(store), "--split", "val", "--samples", "2"],
        )
        before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
        ended = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, json.dumps(commands)], capture_output=True, text=True, check=False
        )
        assert ended.stdout.splitlines()[-1] == "[2, 2, 2]", ended.stderr
        assert "Traceback" not in ended.stderr
        errors = [line for line in ended.stderr.splitlines() if line.startswith("stochseg: error: ")]
        assert len(errors) == 3
        assert all(str(base) in error for error in errors)
        assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before
        assert not (base / "new").exists()


def test_a_source_that_never_answers_is_refused_at_once(run: Path, tmp_path: Path) -> None:
    pipes = {name: tmp_path / name for name in ("x.png", "x.npy", "x.nii", "x.pickle", "x.zip", "labels/x.npy")}
    for pipe in pipes.values():
        pipe.parent.mkdir(exist_ok=True)
        os.mkfifo(pipe)
    (tmp_path / "samples").mkdir()
    np.save(tmp_path / "samples/x.npy", np.zeros((2, 4, 4), np.uint8))
    out = str(tmp_path / "out")
    commands = [
        *(["sample", str(run), str(pipes[name]), "--out", out] for name in ("x.png", "x.npy")),
        ["import-official", str(pipes["x.pickle"]), "--dataset", "lidc", "--out", out],
        *(["prepare", "lidc", "--source", str(pipes[name]), "--out", out] for name in ("x.zip", "x.pickle")),
        ["score", "--samples", str(tmp_path / "samples"), "--labels", str(tmp_path / "labels"), "--classes", "2"],
        ["train", "--data", str(tmp_path), "--config", str(pipes["x.png"])],
    ]
    start = time.monotonic()
    assert [main(command) for command in commands] == [2] * len(commands)
    assert time.monotonic() - start < 10


def test_a_gradient_that_is_not_a_number_never_reaches_the_weights(tiny_store: Path) -> None:
    """The loss may be finite and its gradient not."""
    config = load_config("lidc", SMALL)
    model = CAR(2, 1, (32, 32), config.calibration, config.refinement)
    phases = [Phase(name, net, getattr(config.phases, name)) for name, net in model.networks.items()]
    next(model.networks["refinement"].parameters()).register_hook(lambda gradient: gradient * math.nan)
    start = {k: v.clone() for k, v in model.networks.state_dict().items()}
    batch = Batch(torch.zeros(6, 1, 32, 32), torch.zeros(6, 2, 32, 32, dtype=torch.uint8))
    z = torch.randn(6, config.objective.samples, model.latent)
    alone = Exchange(World(), lambda: False, lambda: 0.0)
    with pytest.raises(RunError, match=r"gradient of refinement is nan in step 7.*--resume"):
        take_step(model, phases, batch, z, config, None, torch.float32, 0.0, {p.name: 1.0 for p in phases}, 7, alone)
    assert same(start, dict(model.networks.state_dict()))


@pytest.mark.parametrize("preset", ["lidc", "lidc-paper"])
def test_a_batch_without_a_labelled_pixel_moves_nothing_much(preset: str) -> None:
    """Every loss is finite, and no network but the discriminator gets a gradient."""
    settings = SMALL if preset == "lidc" else PAPER
    config = load_config(preset, settings)
    torch.manual_seed(0)
    discriminator = DiscriminatorConfig(net="pooled", width=4) if preset == "lidc-paper" else None
    refinement = (
        RefinementConfig(widths=(8, 8)) if preset == "lidc" else RefinementConfig(net="paper", width=4, latent=3)
    )
    model = CAR(3, 1, (32, 32), CalibrationConfig(widths=(8, 8)), refinement, discriminator)
    batch = Batch(torch.randn(2, 1, 32, 32), torch.full((2, 2, 32, 32), 2, dtype=torch.uint8))
    z = torch.randn(2, 3, model.latent)
    losses = accumulate_gradients(model.networks, batch, z, config.objective, 3, 2, torch.float32, True, 1.0)
    assert all(math.isfinite(float(loss)) for loss in losses.values()), losses
    for name in ("calibration", "refinement"):
        for parameter in model.networks[name].parameters():
            assert parameter.grad is None or not parameter.grad.any(), name
    if discriminator:
        assert all(
            torch.isfinite(p.grad).all() for p in model.networks["discriminator"].parameters() if p.grad is not None
        )


@pytest.mark.parametrize("adversary", ["paper", "relativistic"])
@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_a_discriminator_that_wins_outright(adversary: str, logit: float) -> None:
    """Losses and gradients stay finite; the calibration loss goes on, and the relativistic adversary too."""
    config = load_config("lidc-paper", PAPER | {"objective.adversary": adversary})
    model = CAR(
        2,
        1,
        (32, 32),
        CalibrationConfig(widths=(8, 8)),
        RefinementConfig(net="paper", width=4, latent=3),
        DiscriminatorConfig(width=4),
    )
    head = model.networks["discriminator"].head
    with torch.no_grad():
        head.weight.mul_(1e4)
        head.bias.fill_(logit)
    batch = Batch(torch.randn(2, 1, 32, 32), torch.randint(0, 2, (2, 2, 32, 32), dtype=torch.uint8))
    z = torch.randn(2, 3, model.latent)
    losses = accumulate_gradients(model.networks, batch, z, config.objective, 2, None, torch.float32, True, 1.0)
    assert all(math.isfinite(float(loss)) for loss in losses.values()), losses
    gradients = [p.grad for p in model.networks.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients)
    assert any(p.grad is not None and p.grad.any() for p in model.networks["refinement"].parameters())


def spoil_labels(store: Path, rows: list[int]) -> None:
    labels = np.load(store / "val.labels.npy", mmap_mode="r+")
    for number, row in enumerate(rows):
        if number % 3 == 0:
            labels[row, 0, 3, 4] = 7
        elif number % 3 == 1:
            labels[row] = 255
        else:
            labels[row, 1, :2] = 255
    labels.flush()


def check_evaluation(folder: Path, images: int, rows: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    store = write_blobs(folder / "store", {"val": images}, size=16)
    CAR(2, 1, (16, 16), CalibrationConfig(widths=(4, 4)), RefinementConfig(widths=(4, 4))).save(folder / "model")
    command = ["evaluate", str(folder / "model"), "--data", str(store), "--split", "val", "--samples", "2"]
    command += ["--precision", "float32"]
    assert main(command) == 0
    clean = np.load(folder / "model/evaluation/val.npz")["ged"]
    spoil_labels(store, rows)
    capsys.readouterr()
    assert main(command) == 2
    assert f"image 'val-{rows[0]}' has label 7" in capsys.readouterr().err
    assert main([*command, "--on-error", "skip"]) == 3
    said = capsys.readouterr().err
    assert all(f"image 'val-{row}' has " in said for row in rows)
    result = json.loads((folder / "model/evaluation/val.json").read_text())
    assert (result["images"], result["skipped"]) == (images - len(rows), len(rows))
    assert set(result["skipped_images"]) == {f"val-{row}" for row in rows}
    np.testing.assert_array_equal(np.load(folder / "model/evaluation/val.npz")["ged"], np.delete(clean, rows))


def check_score(folder: Path, images: int, rows: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for name in ("S", "L"):
        (folder / name).mkdir(parents=True)
        for i in range(images):
            np.save(folder / name / f"{i:05d}.npy", rng.integers(0, 2, (2, 8, 8), dtype=np.uint8))
    command = ["score", "--samples", str(folder / "S"), "--labels", str(folder / "L"), "--classes", "2", "--out"]
    assert main([*command, str(folder / "clean.json")]) == 0
    clean = np.load(folder / "clean.npz")["ged"]
    for number, row in enumerate(rows):
        file = folder / "SL"[number % 2] / f"{row:05d}.npy"
        if number % 3 == 0:
            file.write_bytes(file.read_bytes()[:150])
        elif number % 3 == 1:
            np.save(file, np.full((2, 8, 8), 9, np.uint8))
        else:
            np.save(file, np.zeros((2, 5, 5), np.uint8))
    capsys.readouterr()
    assert main([*command, str(folder / "bad.json")]) == 2
    assert main([*command, str(folder / "bad.json"), "--on-error", "skip"]) == 3
    said = capsys.readouterr().err
    result = json.loads((folder / "bad.json").read_text())
    assert result["images"] == images - len(rows)
    assert set(result["faulty_images"]) == {f"{row:05d}" for row in rows}
    assert all(f"left out: {text}" in said for text in result["faulty_images"].values())
    np.testing.assert_array_equal(np.load(folder / "bad.npz")["ged"], np.delete(clean, rows))


def check_sample(folder: Path, images: int, rows: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    CAR(2, 1, (16, 16), CalibrationConfig(widths=(4, 4)), RefinementConfig(widths=(4, 4))).save(folder / "model")
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for i in range(images):
        Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(folder / f"images/{i:05d}.png")
    for row in rows:
        (folder / f"images/{row:05d}.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    command = ["sample", str(folder / "model"), str(folder / "images"), "--samples", "2", "--precision", "float32"]
    command += ["--out", str(folder / "out")]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert f"{rows[0]:05d}.png" in said
    assert f"{rows[0]} image" in said
    assert "go on with --resume" in said
    assert len(list((folder / "out").iterdir())) == rows[0]
    assert main([*command, "--resume", "--on-error", "skip"]) == 3
    said = capsys.readouterr().err
    assert said.count("left out: ") == len(rows)
    assert f"({rows[0]} were there)" in said
    assert len(list((folder / "out").iterdir())) == images - len(rows)


CHECKS: dict[str, Callable[[Path, int, list[int], pytest.CaptureFixture[str]], None]] = {
    "evaluate": check_evaluation,
    "score": check_score,
    "sample": check_sample,
}


@pytest.mark.parametrize("command", CHECKS)
def test_bad_inputs_among_many(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    CHECKS[command](tmp_path, {"evaluate": 40, "score": 40, "sample": 6}[command], [2, 4, 5], capsys)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "images"), [("evaluate", 10_000), ("score", 10_000), ("sample", 10_000)])
def test_a_hundred_bad_inputs_among_ten_thousand(
    command: str, images: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = sorted(random.Random(0).sample(range(images), images // 100))
    CHECKS[command](tmp_path, images, rows, capsys)


def test_sampling_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    CAR(2, 1, (16, 16), CalibrationConfig(widths=(4, 4)), RefinementConfig(widths=(4, 4))).save(tmp_path / "model")
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(tmp_path / f"images/{i}.png")
    command = [sys.executable, "-m", "stochseg", "sample", str(tmp_path / "model"), str(tmp_path / "images")]
    command += ["--samples", "2", "--precision", "float32", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(tmp_path.glob("out/[0-9]*"))) < 2:
        time.sleep(0.005)
    process.kill()
    process.wait()
    there = {p: p.stat().st_mtime_ns for p in tmp_path.glob("out/[0-9]*/summary.json")}
    assert 2 <= len(there) < 8
    settings: dict[str, Any] = {"samples": 2, "precision": "float32"}
    done = sample_files(tmp_path / "model", [tmp_path / "images"], tmp_path / "out", **settings, resume=True)
    assert len(done.kept) == len(there)
    assert len(done.written) == 8 - len(there)
    assert {p: p.stat().st_mtime_ns for p in there} == there
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [str(i) for i in range(8)]
    sample_files(tmp_path / "model", [tmp_path / "images"], tmp_path / "whole", **settings)
    for i in range(8):
        ours, theirs = (np.load(tmp_path / f / f"{i}/samples.npz")["maps"] for f in ("out", "whole"))
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(InputError, match="was sampled with seed 0, not 1"):
        sample_files(tmp_path / "model", [tmp_path / "images"], tmp_path / "out", **settings, seed=1, resume=True)
    with pytest.raises(InputError, match="--overwrite and --resume"):
        sample_files(tmp_path / "model", [tmp_path / "images"], tmp_path / "out", overwrite=True, resume=True)


@pytest.mark.slow
def test_fifty_kills(tiny_store: Path, tmp_path: Path) -> None:
    """Wherever the run then is: in a step, in validation, while saving, right after; each is hit."""
    hit = kill_and_compare(tiny_store, tmp_path, kills=50, steps=600)
    print(dict(hit))
    assert {"a step", "validation", "writing a checkpoint", "right after a save"} <= hit.keys()
