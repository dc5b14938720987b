"""Evaluation: the numbers are those of the metrics, and trivial answers score what they must."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from stochseg import metrics
from stochseg.data.ambiguous import prepare_ambiguous
from stochseg.data.batches import in_order
from stochseg.data.store import open_store
from stochseg.errors import InputError
from stochseg.evaluation import evaluate
from stochseg.models.car import CAR
from stochseg.report.page import write_report
from stochseg.report.table import scores_table
from stochseg.sampling.latents import latents
from stochseg.scoring.reference_answers import draws_from_modes, independent_pixels, modes_of
from stochseg.scoring.split_scores import spread

from .conftest import write_blobs
from .test_car import made


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model: what it scores does not matter here, only that it is reported rightly."""
    folder = tmp_path_factory.mktemp("run")
    made("film", classes=2, channels=1).save(folder / "model")
    return folder


def test_the_json_holds_what_the_metrics_say(run: Path, tiny_store: Path) -> None:
    result = evaluate(run, tiny_store, "val", samples=4, precision="float32")
    split = open_store(tiny_store).split("val")
    model = CAR.load(run)
    batch = next(iter(in_order(split, 100, None)))
    maps = model.sample(batch.images, z=latents(0, range(9), 4, model.latent))
    for name, function in (("ged", metrics.generalized_energy_distance), ("hm_iou", metrics.hungarian_iou)):
        assert result[name] == pytest.approx(float(function(maps, batch.labels).mean()), abs=1e-9)
        low, high = result[f"{name}_interval"]
        assert low <= result[name] <= high
    ece = metrics.expected_calibration_error(model.probabilities(batch.images), batch.labels)
    assert result["ece_q"] == pytest.approx(float(ece), abs=1e-6)
    assert result == json.loads((run / "evaluation/val.json").read_text())
    assert {
        "ged",
        "hm_iou",
        "diversity",
        "distance_to_labels",
        "images",
        "samples",
        "convention",
        "seconds",
    } <= result.keys()
    assert all(
        isinstance(result["baselines"][b][s], float)
        for b in ("all_empty", "argmax", "independent_pixels", "raters")
        for s in ("ged", "hm_iou")
    )
    with np.load(run / "evaluation/val.npz") as arrays:
        assert arrays["ged"].mean() == pytest.approx(result["ged"])
        assert list(arrays["ids"]) == split.ids
    assert f"{result['ged']:.3f}" in scores_table(result)


def test_baselines_are_what_they_say(run: Path, tiny_store: Path) -> None:
    result = evaluate(run, tiny_store, "val", samples=4, precision="float32")
    batch = next(iter(in_order(open_store(tiny_store).split("val"), 100, None)))
    q = CAR.load(run).probabilities(batch.images)
    for name, maps in (
        ("all_empty", torch.zeros(9, 1, 32, 32, dtype=torch.uint8)),
        ("argmax", q.argmax(1, keepdim=True)),
    ):
        wanted = metrics.generalized_energy_distance(maps, batch.labels).mean()
        assert result["baselines"][name]["ged"] == pytest.approx(float(wanted))
        assert result["baselines"][name]["diversity"] == 0
    assert result["baselines"]["raters"]["ged"] < result["baselines"]["all_empty"]["ged"]


def test_a_part_of_a_split_and_batches_do_not_change_an_image(run: Path, tiny_store: Path) -> None:
    whole = evaluate(run, tiny_store, "val", samples=4, precision="float32")
    with np.load(run / "evaluation/val.npz") as arrays:
        values = dict(zip(arrays["ids"], arrays["ged"]))
    part = evaluate(run, tiny_store, "val", samples=4, precision="float32", limit=3)
    assert (whole["images"], part["images"]) == (9, 3)
    with np.load(run / "evaluation/val.npz") as arrays:
        assert [values[i] for i in arrays["ids"]] == pytest.approx(list(arrays["ged"]), abs=1e-6)


def test_independent_pixels_have_the_marginals_and_nothing_else() -> None:
    q = torch.tensor([0.2, 0.5, 0.3])[None, :, None, None].expand(2, 3, 40, 40)
    maps = independent_pixels(q, 50, seed=0, numbers=[0, 1])
    shares = torch.bincount(maps.flatten().long(), minlength=3) / maps.numel()
    assert torch.allclose(shares, torch.tensor([0.2, 0.5, 0.3]), atol=5e-3)
    neighbours = (maps[..., 1:] == maps[..., :-1]).float().mean()
    assert float(neighbours) == pytest.approx(0.2**2 + 0.5**2 + 0.3**2, abs=0.01)


def test_the_truth_of_a_generated_store_beats_what_ignores_it(tmp_path: Path) -> None:
    store = prepare_ambiguous(tmp_path / "store", images=1, val=40, test=0, size=32)
    model = CAR(open_store(store).classes, 1, (32, 32))
    model.save(tmp_path / "run/model")
    result = evaluate(tmp_path / "run", store, "val", samples=16, precision="float32")
    b = result["baselines"]
    assert b["truth"]["ged"] < 0.5 * b["all_empty"]["ged"]
    assert b["truth"]["ged"] < 0.8 * b["argmax"]["ged"]
    assert b["truth"]["mode_total_variation"] < 0.5 * result["mode_total_variation"]
    assert b["truth"]["off_mode_share"] == 0
    assert "total variation" in scores_table(result)
    split = open_store(store).split("val")
    modes, probabilities = modes_of(split, [0], crop=None)
    drawn = draws_from_modes(modes, probabilities, 4000, seed=0, numbers=[0])[0]
    frequency = [
        float((drawn == torch.from_numpy(m.copy())).flatten(1).all(1).float().mean()) for m in split.extras["modes"][0]
    ]
    wanted = split.extras["mode_probabilities"][0]
    assert np.abs(np.array(frequency) - wanted)[wanted > 0].max() < 0.04


def test_three_raters_and_one_patient(run: Path, tmp_path: Path) -> None:
    store = write_blobs(tmp_path / "three", {"val": 3}, raters=3)
    with pytest.raises(InputError, match="ccdm"):
        evaluate(run, store, "val", samples=16)
    result = evaluate(run, store, "val", samples=6)
    assert result["ged_interval"] is None
    assert "GED" in scores_table(result)


def test_a_convention_without_matched_iou_leaves_it_open(run: Path, tiny_store: Path) -> None:
    result = evaluate(run, tiny_store, "val", samples=6, convention="phiseg", limit=4)
    assert result["hm_iou"] is None
    assert result["baselines"]["raters"]["hm_iou"] is None
    assert result["ged"] == pytest.approx(
        evaluate(run, tiny_store, "val", samples=6, convention="ccdm", limit=4)["ged"]
    )
    evaluate(run, tiny_store, "val", samples=6, convention="phiseg", limit=4)
    assert write_report(run).is_file()


def test_flips_of_a_store_are_scored_against_all_modes(run: Path, tmp_path: Path) -> None:
    store = write_blobs(tmp_path / "flips", {"val": 4}, raters=1, flips=[(1, 0, 0.25)])
    result = evaluate(run, store, "val", samples=4)
    assert result["convention"] == "car-cityscapes"
    labels = torch.from_numpy(np.array(open_store(store).split("val").labels))
    empty = torch.zeros_like(labels).expand(-1, 4, -1, -1)
    wanted = metrics.generalized_energy_distance(empty, labels, 2, "car-cityscapes", flips=[(1, 0, 0.25)])
    assert result["baselines"]["all_empty"]["ged"] == pytest.approx(float(wanted.mean()))


def test_what_an_evaluation_replaces_is_said(run: Path, tiny_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(run, tiny_store, "val", samples=2)
    capsys.readouterr()
    result = evaluate(run, tiny_store, "val", samples=2)
    assert "replaces" not in capsys.readouterr().err
    assert "9 images of 3 groups" in scores_table(result)
    result = evaluate(run, tiny_store, "val", samples=2, limit=4)
    assert "an evaluation of 4 images with convention car replaces that of 9 with car" in capsys.readouterr().err
    assert scores_table(result).startswith("4 of 9 images of 3 groups")
    evaluate(run, tiny_store, "val", samples=2, convention="phiseg")
    assert "convention phiseg replaces that of 4 with car" in capsys.readouterr().err
    (run / "evaluation/val.json").write_text("{")
    evaluate(run, tiny_store, "val", samples=2)
    assert "replaces" not in capsys.readouterr().err


def test_matched_scores_are_called_what_they_are_and_bounds_are_told_as_bounds(run: Path, tiny_store: Path) -> None:
    result = evaluate(run, tiny_store, "val", samples=2, limit=3)
    own = result["baselines"]["raters"]["hm_iou"]
    table = scores_table(result)
    assert "matched IoU" in table
    assert f"at least {own:.3f}" in table
    table = scores_table(evaluate(run, tiny_store, "val", samples=2, limit=3, convention="d-persona"))
    assert "matched Dice" in table
    assert "matched IoU" not in table
    assert "at least" not in table


@pytest.mark.parametrize("convention", ["kohl", "car-cityscapes", "mose-cityscapes"])
def test_conventions_of_flips_take_a_store_with_flips(convention: str, run: Path, tiny_store: Path) -> None:
    with pytest.raises(
        InputError, match=f"--convention {convention}: .*flips come from the store, and {tiny_store} has none"
    ):
        evaluate(run, tiny_store, "val", convention=convention)


def test_a_run_that_cannot_be_written_to_is_found_before_the_work(run: Path, tiny_store: Path, tmp_path: Path) -> None:
    made("film", classes=2, channels=1).save(tmp_path / "run/model")
    (tmp_path / "run/evaluation").write_text("in the way")
    with pytest.raises(InputError, match="evaluation: nothing can be written"):
        evaluate(tmp_path / "run", tiny_store, "val")


def test_what_does_not_fit_is_refused(run: Path, tiny_store: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no split 'test'.*train, val"):
        evaluate(run, tiny_store)
    colour = write_blobs(tmp_path / "colour", {"val": 3}, channels=3)
    with pytest.raises(InputError, match="images have 3 channels, the model takes 1"):
        evaluate(run, colour, "val")
    with pytest.raises(InputError, match="convention 'best'"):
        evaluate(run, tiny_store, "val", convention="best")


def test_spread_is_even() -> None:
    assert spread(10, 4) == [0, 3, 6, 9]
    assert spread(3, 10) == [0, 1, 2]


def test_scores_of_stratified_samples_go_apart(run: Path, tiny_store: Path) -> None:
    plain = evaluate(run, tiny_store, "val", samples=4)
    spread_out = evaluate(run, tiny_store, "val", samples=4, draws="stratified")
    assert json.loads((run / "evaluation" / "val.json").read_text())["ged"] == plain["ged"]
    assert json.loads((run / "evaluation" / "val_stratified.json").read_text())["draws"] == "stratified"
    assert spread_out["ged"] != plain["ged"]
    assert "stratified, not independent draws" in scores_table(spread_out)
    assert "stratified" not in scores_table(plain)


def test_scores_in_orientations_go_apart(run: Path, tiny_store: Path) -> None:
    plain = evaluate(run, tiny_store, "val", samples=4)
    card = (run / "model" / "README.md").read_text()
    found = evaluate(run, tiny_store, "val", samples=4, orientations=8)
    assert found["ged"] != plain["ged"]
    assert json.loads((run / "evaluation" / "val.json").read_text())["ged"] == plain["ged"]
    assert json.loads((run / "evaluation" / "val_8_orientations.json").read_text())["orientations"] == 8
    assert "4 samples an image in 8 orientations" in scores_table(found)
    assert "orientations" not in scores_table(plain)
    assert (run / "model" / "README.md").read_text() == card


def test_how_often_nothing_is_marked(run: Path, tiny_store: Path) -> None:
    result = evaluate(run, tiny_store, "val", samples=4)
    with np.load(run / "evaluation" / "val.npz") as arrays:
        assert result["empty"] == pytest.approx(arrays["empty"].mean())
    labels = open_store(tiny_store).split("val").labels
    present = (labels != 255).any((2, 3))
    nothing = ~((labels > 0) & (labels != 255)).any((2, 3)) & present
    assert result["raters_empty"] == pytest.approx((nothing.sum(1) / present.sum(1)).mean())
    assert 0 <= result["ece_empty"] <= 1
