"""Every preset trains: a few steps of the real thing, cut down in size where it is large."""

import time
from pathlib import Path

import pytest

from stochseg.cli import main
from stochseg.data.ambiguous import prepare_ambiguous
from stochseg.models.segmenter import load
from stochseg.presets import preset_names, study_of
from stochseg.training.log import read_metrics
from stochseg.training.run import train

from .conftest import write_blobs

TRAININGS = [name for name in preset_names() if study_of(name) is None]
"""The others are studies, with tests of their own."""
SMALLER = {
    "blackbox": {"baseline.widths": [8, 16]},
    "demo": {},
    "lidc": {"input.crop": 48},
    "lidc-large": {"input.crop": 48, "training.batch": 4},
    "lidc-paper": {"input.crop": 64, "calibration.width": 8, "discriminator.width": 8, "training.batch": 4},
    "cityscapes": {"input.crop": [32, 48], "training.batch": 4},
    "cityscapes-paper": {"input.crop": [48, 64], "calibration.width": 8, "discriminator.width": 8, "training.batch": 2},
}
STREETS = ("cityscapes", "cityscapes-paper")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blobs(tmp_path_factory.mktemp("store") / "blobs", {"train": 40, "val": 6}, size=64)


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in colour, one label an image, whose one class flips."""
    path = tmp_path_factory.mktemp("store") / "streets"
    return write_blobs(path, {"train": 8, "val": 4}, size=64, raters=1, channels=3, flips=[(1, 0, 0.3)])


def test_none_is_forgotten() -> None:
    assert set(SMALLER) == set(TRAININGS)


@pytest.mark.parametrize("preset", TRAININGS)
def test_it_trains(preset: str, store: Path, streets: Path, tmp_path: Path) -> None:
    run = train(
        data=streets if preset in STREETS else store,
        out=tmp_path / "run",
        config=preset,
        steps=2,
        **SMALLER[preset],
        **{"training.log_every": 1},
    )
    losses = [line for line in read_metrics(run) if "cross_entropy" in line]
    assert len(losses) == 2
    paper = preset.endswith("-paper")
    wanted = {"adversarial", "calibration", "discriminator", "r1"} if paper else {"energy", "marginal"}
    assert preset == "blackbox" or wanted <= losses[0].keys()
    model = load(run)
    assert model.method == ("deterministic" if preset == "blackbox" else "car")
    assert ("discriminator" in model.networks) == paper


def test_the_demo_runs_through_and_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real command for a few seconds of training, on fewer images than it makes by default."""

    def fewer(out: Path, seed: int, overwrite: bool) -> Path:
        return prepare_ambiguous(out, images=64, val=16, test=16, seed=seed, overwrite=overwrite)

    monkeypatch.setattr("stochseg.data.ambiguous.prepare_ambiguous", fewer)
    for _ in range(2):
        assert main(["demo", "--out", str(tmp_path / "demo"), "--minutes", "0.05"]) == 0
    out = capsys.readouterr().out
    assert "the true distribution" in out
    assert str(tmp_path / "demo" / "report.html") in out
    assert (tmp_path / "demo" / "report.html").is_file()
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thesis.txt").write_text("keep me")
    assert main(["demo", "--out", str(tmp_path / "else")]) == 2
    assert (tmp_path / "else" / "thesis.txt").is_file()


@pytest.mark.slow
def test_the_demo_beats_trivial_answers_by_a_tenth(tmp_path: Path) -> None:
    import json

    start = time.monotonic()
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
    assert time.monotonic() - start < 330
    result = json.loads((tmp_path / "demo/evaluation/test.json").read_text())
    for trivial in ("independent_pixels", "argmax", "all_empty"):
        assert result["ged"] < 0.9 * result["baselines"][trivial]["ged"]


def test_a_demo_touches_nothing_that_is_not_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work" / "store").mkdir(parents=True)
    (tmp_path / "work" / "thesis.txt").write_text("keep me")
    monkeypatch.chdir(tmp_path / "work")
    assert main(["demo", "--out", "."]) == 2
    assert main(["demo", "--out", "demo", "--minutes", "-1"]) == 2
    assert (tmp_path / "work" / "thesis.txt").read_text() == "keep me"
    assert sorted(p.name for p in (tmp_path / "work").iterdir()) == ["store", "thesis.txt"]
