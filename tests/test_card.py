"""The model card: what a model was trained on, its scores when they are known, and nothing that is not of these weights."""

import json
from pathlib import Path

import pytest
import yaml

from stochseg.calibrate import calibrate
from stochseg.card import BEGIN, END, NO_SCORES, new_card, with_scores
from stochseg.data.store import open_store
from stochseg.evaluation import evaluate
from stochseg.models.segmenter import load
from stochseg.training.run import keep_model, train

from .conftest import write_blobs
from .test_training import SMALL


def card_of(run: Path) -> str:
    return (run / "model" / "README.md").read_text()


def test_a_card_follows_its_run(tmp_path: Path) -> None:
    store = write_blobs(tmp_path / "blobs", {"train": 6, "val": 12, "test": 9})
    run = train(data=store, out=tmp_path / "run", config="lidc", **SMALL, steps=2)
    trained = card_of(run)
    _, head, text = trained.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "stochseg"
    assert "Segmentations of background, lesion" in text
    assert "2 steps on 6 images of 2 groups of the store `blobs`" in text
    assert open_store(store).fingerprint[:16] in text
    assert "4 images of its split `val`" in text
    assert NO_SCORES in text
    assert "not for clinical use" in text

    (run / "model" / "README.md").write_text(trained.replace("## Limits", "Made by us.\n\n## Limits"))
    result = evaluate(run, store, "test", samples=4)
    low, high = result["ged_interval"]
    card = card_of(run)
    assert f"| blobs, test | 9 of 3 groups | 4 | car | {result['ged']:.3f} [{low:.3f}, {high:.3f}] |" in card
    assert f"| {result['baselines']['raters']['ged']:.3f} |" in card
    assert NO_SCORES not in card
    assert "Made by us." in card
    evaluate(run, store, "val", samples=4)
    assert card_of(run).count("\n| blobs, ") == 2
    evaluate(run, store, "test", samples=4, draws="stratified")
    assert card_of(run).count("\n| blobs, ") == 2  # no scores of draws

    calibrate(run, store, "val", coverage=0.4, samples=4)
    card = card_of(run)
    temperature = json.loads((run / "model" / "calibration.json").read_text())["temperature"]
    assert "Calibrated on blobs, val: " in card
    assert "coverage sets that hold a new rater's outline with probability 0.4, of 4 samples" in card
    if temperature:  # what was measured before is of another model
        assert "| blobs, " not in card

    model = load(run)
    assert model.card == card
    model.save(tmp_path / "copy")
    assert (tmp_path / "copy" / "README.md").read_text() == card

    model.networks["refinement"].stem.bias.data += 1
    keep_model(model, run, 3)  # better weights
    evaluate(run, store, "val", samples=4)
    assert [line for line in card_of(run).splitlines() if "| blobs, test" in line] == []
    assert card_of(run).count("\n| blobs, val") == 1


def test_scores_go_where_they_belong() -> None:
    assert with_scores(f"a\n{BEGIN}\nold\n{END}\nb\n", "new") == f"a\n{BEGIN}\nnew\n{END}\nb\n"
    assert with_scores("mine\n", "new") == f"mine\n\n## Scores\n\n{BEGIN}\nnew\n{END}\n"
    assert with_scores("", "new") == f"## Scores\n\n{BEGIN}\nnew\n{END}\n"
    once = with_scores("mine\n", "new")
    assert with_scores(once, "new") == once


def test_a_card_that_cannot_be_written_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = write_blobs(tmp_path / "blobs", {"train": 6, "val": 6})
    run = train(data=store, out=tmp_path / "run", config="lidc", **SMALL, steps=1)
    (run / "model" / "README.md").unlink()
    (run / "model" / "README.md.partial").mkdir()
    assert evaluate(run, store, "val", samples=2)["images"] == 6
    assert "the card was left as it is" in capsys.readouterr().err


def test_a_model_over_a_black_box_says_so(tmp_path: Path) -> None:
    from stochseg.models.car import CAR

    assert 'load("FOLDER", blackbox=segmenter)' in new_card(CAR(2, blackbox="saved"))
    assert "blackbox" not in new_card(CAR(2))
