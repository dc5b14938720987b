"""Calibration of a trained run: what is fitted, on which patients, what is kept, and when it is forgotten."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stochseg.calibrate import calibrate
from stochseg.config import CalibrationConfig, RefinementConfig, ValidationConfig
from stochseg.data.batches import in_order
from stochseg.data.splits import split_by_group
from stochseg.data.store import ClassInfo, Split, open_store
from stochseg.data.store_writer import StoreWriter
from stochseg.errors import InputError
from stochseg.metrics.coverage import coverage_order, coverage_sets
from stochseg.models.calibrated import NAME, Calibrated, Coverage
from stochseg.models.car import CAR
from stochseg.models.temperature import fit_temperature, temper
from stochseg.report.calibration import calibration_text
from stochseg.sampling.latents import latents
from stochseg.training.run import keep_model, train
from stochseg.training.validation import replaces

from .conftest import write_blobs
from .test_baselines import made as made_baseline
from .test_training import SMALL

TINY = {"calibration": CalibrationConfig(widths=(4, 8)), "refinement": RefinementConfig(widths=(4, 8))}
SETTINGS = SMALL | {"training.ema": None, "validation.every": 100, "calibration.patch": 1, "refinement.patch": 1}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images to train on, 90 of 30 patients to calibrate on, three raters."""
    return write_blobs(tmp_path_factory.mktemp("store") / "blobs", {"train": 24, "val": 90}, raters=3)


@pytest.fixture(scope="module")
def trained(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return train(data=store, out=tmp_path_factory.mktemp("run") / "run", config="lidc", **SETTINGS, steps=60)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run, for a test to calibrate."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def halves(split: Split, seed: int = 0) -> tuple[list[int], list[int]]:
    half = split_by_group(split.groups, {"fit": 0.5, "held out": 0.5}, seed)
    return [i for i, h in enumerate(half) if h == "fit"], [i for i, h in enumerate(half) if h != "fit"]


def test_temperatures_that_made_the_votes_are_found_again() -> None:
    log_q = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)).mul(3).log_softmax(1)
    truth = (0.6, 1.7, 2.5)
    votes = temper(log_q.double(), truth)
    assert fit_temperature(log_q, votes) == pytest.approx(truth, abs=1e-4)


def test_two_classes_have_two_temperatures_of_their_own() -> None:
    """With log q, unlike with logits, they can be told apart: one for where a class is rare, one for where it is sure."""
    log_q = torch.randn(4000, 2, generator=torch.Generator().manual_seed(1)).mul(3).log_softmax(1).double()
    assert fit_temperature(log_q, temper(log_q, (2.0, 0.7))) == pytest.approx((2.0, 0.7), abs=1e-4)


def test_no_other_temperatures_are_likelier() -> None:
    g = torch.Generator().manual_seed(0)
    log_q = torch.randn(500, 3, generator=g).mul(2).log_softmax(1).double()
    votes = torch.nn.functional.one_hot(torch.multinomial(log_q.exp().sqrt(), 4, True, generator=g), 3).sum(1).double()
    best = fit_temperature(log_q, votes)

    def loss(t: np.ndarray) -> float:
        return -float((votes * temper(log_q, t.tolist()).log()).sum())

    rng = np.random.default_rng(0)
    assert all(loss(np.array(best)) < loss(np.array(best) * np.exp(rng.normal(0, 0.1, 3))) for _ in range(50))


def test_a_class_without_votes_keeps_1_and_none_at_all_is_an_error() -> None:
    log_q = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    votes = torch.ones(100, 3)
    votes[:, 2] = 0
    fitted = fit_temperature(log_q, votes)
    assert fitted[2] == 1
    assert 1 not in fitted[:2]
    with pytest.raises(InputError, match="no pixel to fit"):
        fit_temperature(log_q, torch.zeros(100, 3))


def test_equal_temperatures_are_those_of_the_official_code() -> None:
    """softmax(logits / T); the shift that logits have at a pixel then plays no part."""
    logits = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = (logits / 1.7).softmax(1)
    assert torch.allclose(temper(logits.log_softmax(1), (1.7,) * 4), expected, atol=1e-12)
    assert torch.allclose(temper(logits, (1.7,) * 4), expected, atol=1e-12)


def test_a_temperature_of_1_changes_no_bit_and_another_enters_the_samples() -> None:
    model = CAR(3, 1, (16, 16), **TINY)  # type: ignore[arg-type]
    g = torch.Generator().manual_seed(0)
    for p in model.refinement.parameters():  # type: ignore[attr-defined]
        p.data = torch.randn(p.shape, generator=g) * 0.3
    images, z = torch.rand(2, 1, 16, 16, generator=g) * 2 - 1, torch.randn(2, 4, model.latent, generator=g)
    q, maps = model.probabilities(images), model.sample(images, z=z)
    model.temperature = (1, 1.0, 1)
    assert model.temperature is None
    assert torch.equal(model.probabilities(images), q)
    assert torch.equal(model.sample(images, z=z), maps)
    model.temperature = (0.2, 0.3, 0.4)
    sharper = model.probabilities(images)
    assert torch.allclose(sharper, temper(q.log(), (0.2, 0.3, 0.4)), atol=1e-5)
    assert torch.equal(model.sample(images, z=z), model.refine(images, sharper, z).argmax(2).to(torch.uint8))
    assert not torch.equal(model.sample(images, z=z), maps)
    for wrong in ((1.0, 1.0), (1.0, 0.0, 1.0), (1.0, float("nan"), 1.0)):
        with pytest.raises(InputError, match="give 3 numbers above 0"):
            model.temperature = wrong


def test_what_was_calibrated_is_saved_loaded_and_copied(tmp_path: Path) -> None:
    model = CAR(2, 1, (16, 16), **TINY)  # type: ignore[arg-type]
    model.calibrated = Calibrated((0.7, 1.3), Coverage((None, 0.012345678901234567), 8, 0.9, 0.95), {"store": "lidc"})
    model.save(tmp_path / "one")
    once = CAR.load(tmp_path / "one")
    assert once.calibrated == model.calibrated
    once.save(tmp_path / "two")
    assert CAR.load(tmp_path / "two").calibrated == model.calibrated
    files = ("config.json", NAME, "model.safetensors")
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)
    once.temperature = (0.5, 0.5)  # by hand: the levels were fitted with another
    assert once.coverage is None
    CAR(2, 1, (16, 16), **TINY).save(tmp_path / "two")  # type: ignore[arg-type]
    assert CAR.load(tmp_path / "two").calibrated is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "update stochseg"),
        ({"temperature": [1.0, -1.0]}, "above 0"),
        ({"temperature": "warm"}, "calibrate"),
        ({"coverage": {"levels": [None], "samples": 8, "probability": 0.9, "share": 1}}, "levels of 1 classes"),
        ({"coverage": {"levels": [None, 0.1]}}, "damaged"),
    ],
)
def test_a_damaged_calibration_is_one_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = CAR(2, 1, (16, 16), **TINY)  # type: ignore[arg-type]
    model.calibrated = Calibrated((0.7, 1.3), None)
    model.save(tmp_path)
    file = tmp_path / NAME
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InputError, match=message) as caught:
        CAR.load(tmp_path)
    assert str(file) in str(caught.value)
    assert "stochseg calibrate" in str(caught.value)


def test_calibrating_a_run_keeps_what_it_measured(run: Path, store: Path) -> None:
    """The reported coverage and sizes, computed again from the loaded model with plain loops."""
    record = calibrate(run, store, samples=6, coverage=0.8)
    model = CAR.load(run)
    assert model.calibrated is not None
    assert model.calibrated.record == json.loads(json.dumps(record))
    assert model.coverage is not None
    assert model.coverage.samples == 6
    split = open_store(store).split("val")
    fit, held_out = halves(split)
    assert record["fit"] == {"images": len(fit), "groups": 15}
    covered: dict[str, list[bool]] = {}
    areas = []
    for i in held_out:
        batch = next(iter(in_order(split, 1, None, [i])))
        q = model.probabilities(batch.images)
        maps = model.sample(batch.images, z=latents(0, [i], 6, model.latent))
        inside = model.coverage_sets(maps, q)[0]
        assert inside[0].all()
        areas.append(int(inside[1].sum()))
        for label in batch.labels[0]:
            if (label == 1).any():
                covered.setdefault(split.groups[i], []).append(bool(inside[1][label == 1].all()))
    facts = record["coverage"]["lesion"]
    assert facts["coverage"] == pytest.approx(np.mean([np.mean(c) for c in covered.values()]), abs=0.02)
    assert facts["area"] == pytest.approx(np.mean(areas), rel=0.02)
    assert facts["coverage"] > 0.7
    assert facts["coverage_interval"][0] <= facts["coverage"] <= facts["coverage_interval"][1]
    assert 0 < facts["union_coverage"] <= 1
    assert "outlines covered" in calibration_text(record)


def test_nothing_of_the_patients_held_out_enters_the_level(run: Path, store: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(store, tmp_path / "other"))
    labels = np.load(other / "val.labels.npy", mmap_mode="r+")
    fit, held_out = halves(open_store(store).split("val"))
    labels[held_out] = np.random.default_rng(0).integers(0, 2, labels[held_out].shape)
    labels.flush()
    arguments: dict[str, Any] = {"samples": 4, "temperature": False, "coverage": 0.8}
    mine, theirs = (calibrate(run, data, **arguments)["coverage"]["lesion"] for data in (store, other))
    assert mine["level"] == theirs["level"]
    assert mine["coverage"] != theirs["coverage"]
    labels[fit] = 1
    labels.flush()
    assert calibrate(run, other, **arguments)["coverage"]["lesion"]["level"] != mine["level"]


def test_temperatures_that_do_not_help_new_patients_are_not_kept(run: Path, store: Path, tmp_path: Path) -> None:
    """Raters of the patients to fit on agree with q wherever it leans, those of the others toss coins."""
    other = Path(shutil.copytree(store, tmp_path / "other"))
    model, split = CAR.load(run), open_store(store).split("val")
    fit, held_out = halves(split)
    labels = np.load(other / "val.labels.npy", mmap_mode="r+")
    for i in fit:
        labels[i] = model.probabilities(next(iter(in_order(split, 1, None, [i]))).images).argmax(1)[0].numpy()
    labels[held_out] = np.random.default_rng(0).integers(0, 2, labels[held_out].shape)
    labels.flush()
    record = calibrate(run, other, samples=4, coverage=0.5)
    found = record["temperature"]
    assert max(found["fitted"]) < 1
    assert found["nll"][1] > found["nll"][0]
    assert not found["kept"]
    assert "not kept" in calibration_text(record)
    assert CAR.load(run).temperature is None


def test_calibrating_again_starts_from_the_trained_model(run: Path, store: Path) -> None:
    first = calibrate(run, store, samples=4)
    second = calibrate(run, store, samples=4)
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    calibrate(run, store, samples=4, temperature=False)
    assert CAR.load(run).temperature is None


def test_training_on_forgets_the_calibration(run: Path, store: Path, tmp_path: Path) -> None:
    calibrate(run, store, samples=4)
    model = CAR.load(run)
    assert model.calibrated is not None
    train(data=store, out=run, resume=True, steps=62)
    kept = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if "val_selection" in line]
    better = replaces(kept[-1]["val_selection"], min(line["val_selection"] for line in kept[:-1]), ValidationConfig())
    assert (run / "model" / NAME).is_file() != better  # a model that is not replaced keeps what was measured of it
    keep_model(model, run, 63)
    assert CAR.load(run).calibrated is None
    model.temperature = (2.0, 2.0)
    own = ("calibration.widths", "refinement.widths")
    train(model, store, tmp_path / "new", "lidc", steps=1, **{k: v for k, v in SETTINGS.items() if k not in own})
    assert model.calibrated is None
    assert CAR.load(tmp_path / "new").calibrated is None


def test_several_classes_with_an_ignored_one(tmp_path: Path) -> None:
    """A level for each class that outlines allow; none for the background and the ignored class."""
    rng = np.random.default_rng(0)
    names = [ClassInfo(name, (0, 9 * i, 0)) for i, name in enumerate(["ground", "tree", "house", "unknown", "river"])]
    with StoreWriter(tmp_path / "store", classes=names, raters=2, ignore=3) as writer:
        ids = [str(i) for i in range(24)]
        split = writer.add_split("val", ids, ids, (16, 16, 3), "made")
        split.images[:] = rng.integers(0, 256, split.images.shape)
        split.labels[:] = rng.integers(0, 4, split.labels.shape)
        split.labels[::5, 1] = 255
    model = CAR(names, 3, (16, 16), **TINY)  # type: ignore[arg-type]
    model.save(tmp_path / "model")
    record = calibrate(tmp_path / "model", tmp_path / "store", samples=3, coverage=0.8, share=0.9)
    assert record["coverage"].keys() == {"tree", "house"}
    assert record["temperature"]["fitted"][3] == 1
    assert record["temperature"]["fitted"][4] == 1  # a class that nobody saw
    loaded = CAR.load(tmp_path / "model")
    assert loaded.coverage is not None
    assert [level is not None for level in loaded.coverage.levels] == [False, True, True, False, False]
    facts = record["coverage"]["tree"]
    assert facts["held_out_outlines"] == facts["held_out_groups"] * 2 - missing(tmp_path / "store")
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    q, maps = loaded.probabilities(images), loaded.sample(images, 5)
    sets = coverage_sets(coverage_order(maps[:, :3], q), loaded.coverage.levels)
    assert torch.equal(loaded.coverage_sets(maps, q), sets)
    with pytest.raises(InputError, match="hold for 3 samples; draw 3"):
        loaded.coverage_sets(maps[:, :2], q)


def missing(store: Path) -> int:
    split = open_store(store).split("val")
    return int((split.labels[halves(split)[1]] == 255).all((2, 3)).sum())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coverage": 1.0}, "--coverage 1.0: must be between"),
        ({"share": 0.0}, "--share 0.0: must be above 0"),
        ({"samples": 0}, "--samples 0"),
        ({"split": "test"}, "no split 'test'; this store holds train, val"),
        (
            {"coverage": 0.99, "temperature": False, "samples": 2},
            r"--coverage 0.99: takes 99 groups, .*: lesion is outlined in 15 groups .*; ask for at most 0.937$",
        ),
        ({"limit": 2, "split": "train", "samples": 2, "temperature": False}, "no class got a level"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    arguments: dict[str, Any], message: str, trained: Path, store: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        calibrate(trained, store, **arguments)
    assert "\n" not in str(caught.value)
    assert not (trained / "model" / NAME).exists()


def test_what_was_kept_and_where_is_said(run: Path, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calibrate(run, store, samples=2, temperature=False, limit=60)
    first = capsys.readouterr().err
    assert str(run / "model" / NAME) in first
    assert "earlier" not in first
    assert "--split val: the model was chosen on it" in first
    calibrate(run, store, samples=2, temperature=False, limit=60)
    assert "in place of an earlier calibration" in capsys.readouterr().err
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("select: ged", "select: last"))
    calibrate(run, store, samples=2, temperature=False, limit=60)
    assert "--split" not in capsys.readouterr().err
    calibrate(run, store, "train", samples=2, temperature=False, coverage=0.5)
    assert "--split train: the model was trained on it" in capsys.readouterr().err


def test_the_size_that_levels_were_fitted_at_is_kept(run: Path, store: Path) -> None:
    record = calibrate(run, store, samples=2, temperature=False, limit=60)
    coverage = CAR.load(run).coverage
    assert coverage is not None
    assert coverage.size == (32, 32)
    assert coverage.holds_for((32, 32))
    assert not coverage.holds_for((32, 33))
    assert "on images of 32x32 pixels" in calibration_text(record)
    facts = json.loads((run / "model" / NAME).read_text())
    del facts["coverage"]["size"]  # as written before sizes were kept
    (run / "model" / NAME).write_text(json.dumps(facts))
    older = CAR.load(run).coverage
    assert older is not None
    assert not older.holds_for((32, 32))


def test_a_model_that_cannot_be_written_to_is_found_before_the_work(
    run: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stochseg.calibrate.model_folder", lambda run: run / "config.yaml")
    with pytest.raises(InputError, match=r"config\.yaml: nothing can be written"):
        calibrate(run, store, coverage=0.99999)


def test_one_patient_or_flips_are_refused(trained: Path, tmp_path: Path) -> None:
    few = write_blobs(tmp_path / "few", {"val": 3})
    with pytest.raises(InputError, match="holds one group"):
        calibrate(trained, few)
    index = json.loads((few / "index.json").read_text()) | {"flips": [[0, 1, 0.5]]}
    (few / "index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="flip at random"):
        calibrate(trained, few)


def test_other_methods_are_refused(store: Path, tmp_path: Path) -> None:
    made_baseline("deterministic", classes=2).save(tmp_path / "model")
    with pytest.raises(
        InputError, match="is of the method deterministic; what is calibrated are models of the method car"
    ):
        calibrate(tmp_path / "model", store)
