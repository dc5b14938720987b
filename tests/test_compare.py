"""Runs side by side: the numbers are those of `evaluate`, and differences those of its values."""

import json
from pathlib import Path

import numpy as np
import pytest

from stochseg import CAR
from stochseg.cli import main
from stochseg.compare import compare
from stochseg.errors import InputError
from stochseg.evaluation import evaluate

from .conftest import write_blobs
from .test_baselines import made as made_baseline
from .test_car import made


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    made("film", classes=2, channels=1).save(folder / "ours/model")
    theirs = made_baseline("deterministic", classes=2)
    theirs.size = (32, 32)
    theirs.save(folder / "theirs/model")
    return [folder / "ours", folder / "theirs"]


def test_the_rows_are_the_evaluations_and_differences_are_paired(runs: list[Path], tmp_path: Path) -> None:
    store = write_blobs(tmp_path / "store", {"val": 6})
    result = compare(runs, store, "val", samples=4, out=tmp_path / "out")
    for run, row in zip(runs, result["runs"], strict=True):
        alone = json.loads((run / "evaluation/val.json").read_text())
        assert (row["ged"], row["hm_iou"]) == (alone["ged"], alone["hm_iou"])
        assert row["milliseconds_per_sample"] > 0
        assert row["parameters"] > 0
    ours, theirs = (dict(np.load(run / "evaluation/val.npz")) for run in runs)
    difference = result["runs"][1]["differences"]["ged"]
    assert difference["difference"] == pytest.approx((theirs["ged"] - ours["ged"]).mean())
    assert difference["interval"][0] <= difference["difference"] <= difference["interval"][1]
    assert {row["method"] for row in result["runs"]} == {"car", "deterministic"}
    assert json.loads((tmp_path / "out/comparison.json").read_text()) == result
    for name in ("comparison.md", "comparison.html", "comparison.png", "comparison.pdf"):
        assert (tmp_path / "out" / name).stat().st_size > 500
    assert f"{result['runs'][0]['ged']:.3f}" in (tmp_path / "out/comparison.md").read_text()


def test_what_was_evaluated_is_not_evaluated_again(runs: list[Path], tmp_path: Path) -> None:
    store = write_blobs(tmp_path / "store", {"val": 4})
    first = evaluate(runs[0], store, "val", samples=2)
    evaluate(runs[1], store, "val", samples=2)
    assert compare(runs, store, "val", samples=2)["runs"][0]["ged"] == first["ged"]
    marked = runs[0] / "evaluation/val.json"
    assert json.loads(marked.read_text())["seconds"] == first["seconds"]
    compare(runs, store, "val", samples=4)
    assert json.loads(marked.read_text())["samples"] == 4


def test_an_evaluation_of_another_model_or_store_is_made_again(tmp_path: Path) -> None:
    for name in ("a", "b"):
        made("film", classes=2, channels=1).save(tmp_path / name / "model")
    runs = [tmp_path / "a", tmp_path / "b"]
    store = write_blobs(tmp_path / "store", {"val": 4})
    result = compare(runs, store, "val", samples=4)
    assert result["runs"][1]["differences"]["ged"]["difference"] == 0
    tempered = CAR.load(runs[1])
    tempered.temperature = (5.0, 0.2)
    assert tempered.calibrated is not None
    tempered.calibrated.write(runs[1] / "model")
    rows = compare(runs, store, "val", samples=4)["runs"]
    assert rows[1]["ged"] == evaluate(runs[1], store, "val", samples=4)["ged"] != rows[0]["ged"]
    other = write_blobs(tmp_path / "other/store", {"val": 5})
    assert compare(runs, other, "val", samples=4)["runs"][0]["ged"] != rows[0]["ged"]


def test_scores_of_other_crops_are_not_compared(runs: list[Path], tmp_path: Path) -> None:
    small = CAR.load(runs[0])
    small.size = (16, 16)
    small.save(tmp_path / "small/model")
    store = write_blobs(tmp_path / "store", {"val": 4})
    with pytest.raises(InputError, match=r"small: judged on 16x16 pixels of an image, .*ours on 32x32, as"):
        compare([runs[0], tmp_path / "small"], store, "val", samples=2)


def test_bad_calls_are_refused(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="give two or more"):
        compare(runs[:1], tmp_path)
    with pytest.raises(InputError, match="given twice"):
        compare([runs[0], runs[0]], tmp_path)
    assert main(["compare", str(runs[0]), "--data", str(tmp_path)]) == 2
    assert "two or more" in capsys.readouterr().err
