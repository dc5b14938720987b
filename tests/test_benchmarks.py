"""The benchmarks run, and what they time is right: they compare every score with that of a loop."""

import importlib
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stochseg.blackbox import import_predictions
from stochseg.data.store import open_store
from stochseg.metrics import generalized_energy_distance, pairwise_iou
from stochseg.training.run import train

from .conftest import write_blobs
from .test_tiles import small

ROOT = Path(__file__).parents[1]


def test_the_benchmark_of_the_metrics_runs(tmp_path: Path) -> None:
    options = ["--batch", "2", "--size", "16", "--samples", "4", "--rounds", "1", "--threads", "1"]
    command = [sys.executable, ROOT / "benchmarks/metrics.py", *options, "--out", tmp_path / "out.json"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = json.loads((tmp_path / "out.json").read_text())["ms_per_image"]
    assert [row["maps"] for row in rows] == ["lesions", "noise", "street"]
    assert all(row["numpy"] > 0 and row["ged"] > 0 for row in rows)
    assert "street" in run.stdout


def results(script: str, out: Path, *options: str) -> Any:
    command = [sys.executable, ROOT / "benchmarks" / script, *options]
    subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(out.read_text())


@pytest.mark.slow
def test_the_benchmark_against_a_plain_version_runs(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    options = ["--batch", "2", "--size", "32", "--samples", "4", "--rounds", "1", "--threads", "1", "--out", str(out)]
    found = results("against_official.py", out, *options)
    assert found["compared_with"] == "plain"
    assert {"step float32", "4 samples", "4 samples, our networks", "scores"} <= {
        row["work"] for row in found["results"]
    }
    assert all(row["ratio"] > 0 for row in found["results"])


@pytest.mark.slow
def test_the_benchmarks_of_the_data_run(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    options = ["--presets", "demo", "--images", "40", "--rounds", "1", "--threads", "1", "--out", str(out)]
    assert all(row["head_room"] > 0 for row in results("data_pipeline.py", out, *options)["results"])
    large = results("large_store.py", out, "--images", "100", "20000", "--batches", "5", "--out", str(out))["results"]
    assert large[1]["gigabytes"] > 0.4
    assert large[1]["peak_megabytes"] < 60


@pytest.mark.slow
def test_a_step_is_not_below_its_floor(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    found = results("floor.py", out, "--rounds", "3", "--threads", "1", "--device", "cpu", "--out", str(out))["results"]
    assert found["seconds"] > found["operations"] / found["rate"]
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert next(iter(found["shares"])) == "convolutions and matrix products"


def test_steps_and_samples_of_a_preset_are_timed(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    options = ["--first", "--rounds", "1", "--threads", "1", "--device", "cpu", "--out", str(out)]
    found = results("steps_and_samples.py", out, "--only", "steps", *options)
    (step,) = found["results"]
    assert step["gflop"] == pytest.approx(16 * 1.1, rel=0.1)  # as torch's own counter has it: docs/performance.md
    assert step["share_of_peak"] == pytest.approx(step["gflop"] / step["ms"] * 1e12 / found["peak"], rel=1e-6)
    assert step["images_per_second"] == pytest.approx(16e3 / step["ms"])


@pytest.mark.slow
def test_the_growth_curves_are_drawn(tmp_path: Path) -> None:
    options = ["--curves", "samples", "size", "classes", "images", "--most", "16", "--rounds", "1", "--threads", "1"]
    found = results("growth.py", tmp_path / "growth.json", *options, "--out", str(tmp_path))["seconds"]
    assert found.keys() == {"samples", "size", "classes", "images"}
    assert {file.stem for file in tmp_path.glob("*.png")} == found.keys()


@pytest.mark.slow
def test_the_benchmark_of_tiles_runs(tmp_path: Path) -> None:
    small().save(tmp_path / "run/model")
    store = write_blobs(tmp_path / "store", {"val": 6}, size=64)
    out = tmp_path / "out.json"
    rows = results("tiles.py", out, str(tmp_path / "run"), "--data", str(store), "--samples", "2", "--out", str(out))
    found = {row["way"]: row for row in rows["results"]}
    assert list(found) == [
        "the raters",
        "the middle by itself",
        "tiles of the training size",
        "tiles of 48",
        "the whole",
    ]
    labels = open_store(store).split("val").labels[:, :, 28:36, 28:36]  # a quarter of a tile's side, 32
    assert found["the raters"]["middle"] == pytest.approx(labels.mean())
    assert all(0 <= row["ged"] <= 2 for way, row in found.items() if way != "the raters")


@pytest.mark.slow
def test_the_benchmark_of_flips_runs(tmp_path: Path) -> None:
    """Of a map that is the label, whole flips are right but for the few draws; a worse one is worse, whole or not."""
    store = write_blobs(tmp_path / "store", {"val": 6}, raters=1, flips=[(1, 0, 0.4)])
    labels = np.array(open_store(store).split("val").labels[:, 0])
    shifted = np.roll(labels, 4, 2)
    folder = tmp_path / "maps"
    folder.mkdir()
    for name, each in zip(open_store(store).split("val").ids, shifted, strict=True):
        Image.fromarray(each).save(folder / f"{name}.png")
    import_predictions(store, folder)
    out = tmp_path / "out.json"
    rows = results("flip_ceiling.py", out, "--data", str(store), "--samples", "16", "--out", str(out))["results"]
    assert rows[-1]["miou"] == 1
    assert rows[-1]["together"] < 0.1 < rows[-1]["apart"]
    assert rows[0]["together"] > rows[-1]["together"]


def test_the_expected_ged_of_a_list_is_the_mean_over_all_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pair of draws of a list of three maps, scored by the metric and weighted by how likely the pair is; and in
    each version the empty map is as likely, and the outlines are whose, as its name says."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    ged_parts = importlib.import_module("ged_parts")
    maps = torch.rand(2, 6, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.3
    maps[:, [0, 3]] = False  # the empty map of the list, and a rater's
    maps[1, 3:] = False  # no rater marks anything
    likely = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.2, 0.7]], dtype=torch.float64)
    distances = 1 - pairwise_iou(maps.long(), maps.long())
    versions = ged_parts.versions(maps, likely, raters=3)
    theirs = versions["both: draws of these raters"]
    ways = {name: ged_parts.expected_ged(distances, weights, theirs, 2) for name, weights in versions.items()}
    for name, weights in versions.items():
        each = torch.zeros(2, dtype=torch.float64)
        for i, j in itertools.product(range(6), repeat=2):
            ged = generalized_energy_distance(maps[:, [i, j]].long(), maps[:, 3:].long(), convention="car")
            each += weights[:, i] * weights[:, j] * ged
        assert torch.allclose(ways[name], each)
        assert torch.allclose(weights.sum(1), torch.ones(2, dtype=torch.float64))
    found = [[*row.tolist()] for weights in versions.values() for row in weights[:, [0, 1, 2, 4]]]
    wanted = [[0.2, 0.5, 0.3, 0], [0.1, 0.2, 0.7, 0]]  # the model
    wanted += [[2 / 3, 5 / 24, 1 / 8, 0], [2 / 3, 2 / 27, 7 / 27, 0]]  # the raters' mean P(empty): (1/3 + 1) / 2
    wanted += [[1 / 3, 5 / 12, 1 / 4, 0], [1, 0, 0, 0]]  # theirs, image by image
    wanted += [[0.2, 0, 0, 0.4], [0.1, 0.2, 0.7, 0]]  # their outlines; where they have none the model's
    wanted += [[0, 0, 0, 1 / 3], [0, 0, 0, 1 / 3]]
    assert np.allclose(found, wanted)


@pytest.mark.slow
def test_the_parts_of_a_models_ged_are_told(tmp_path: Path) -> None:
    store = write_blobs(tmp_path / "store", {"train": 16, "val": 8})
    train(None, store, tmp_path / "run", "lidc", steps=2, minutes=None, **{"input.crop": 32})
    out = tmp_path / "out.json"
    rows = results("ged_parts.py", out, str(tmp_path / "run"), "--data", str(store), "--out", str(out))["results"]
    assert [row["ged16"][1] <= row["ged16"][0] <= row["ged16"][2] for row in rows] == [True] * 5
    assert min(rows, key=lambda row: row["ged16"][0])["version"] == "both: draws of these raters"


@pytest.mark.slow
def test_the_benchmark_of_denormals_runs(tmp_path: Path) -> None:
    store = write_blobs(tmp_path / "store", {"train": 16, "val": 4})
    train(None, store, tmp_path / "run", "lidc", steps=2, minutes=None, **{"input.crop": 32})
    out = tmp_path / "out.json"
    options = [str(tmp_path / "run"), "--data", str(store), "--rounds", "1", "--out", str(out)]
    assert len(results("denormals.py", out, *options)["seconds"]) == 4


@pytest.mark.slow
def test_the_benchmark_of_waiting_threads_runs(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    rates = results("threads.py", out, "--rounds", "1", "--seconds", "0.5", "--out", str(out))["steps_a_second"]
    assert len(rates) == 4
    assert min(rates.values()) > 0


STAND_IN = """
import torch

class ESPNetv2Segmentation(torch.nn.Module):
    def __init__(self, args, classes, dataset):
        super().__init__()
        assert (args.s, classes, dataset) == (2.0, 20, "city")
        self.first = torch.nn.Conv2d(3, 20, 1)

    def forward(self, x):
        return self.first(x)
"""


@pytest.mark.slow
def test_a_published_segmenter_is_tuned_and_says_what_it_sees(tmp_path: Path) -> None:
    """With one convolution in the place of the published network, which learns to tell bright from dark."""
    store = write_blobs(tmp_path / "store", {"train": 8, "val": 2}, size=432, channels=3, raters=1)
    module = tmp_path / "clone/model/segmentation/espnetv2.py"
    weights = module.parent / "model_zoo/espnetv2/espnetv2_s_2.0_city_1024x512.pth"
    weights.parent.mkdir(parents=True)
    module.write_text(STAND_IN)
    unsure = torch.where(torch.arange(20) < 2, 0.0, -30.0)  # of two classes
    torch.save({"first.weight": torch.zeros(20, 3, 1, 1), "first.bias": unsure}, weights)
    command = [sys.executable, ROOT / "benchmarks/pretrained_segmenter.py", "--edgenets", tmp_path / "clone"]
    command += ["--data", store, "--out", tmp_path / "maps", "--threads", "1"]
    right = {}
    for steps in (0, 60):
        shutil.rmtree(tmp_path / "maps", ignore_errors=True)
        options = ["--steps", str(steps), "--batch", "2", "--rate", "0.1"]
        told = subprocess.run([*command, *options], capture_output=True, text=True, check=True).stdout
        right[steps] = float(re.findall(r"val: 2 images, (.*) of the pixels right", told)[0])
    assert right[60] > max(right[0], 0.9)
    names = [f"{name}.npy" for split in open_store(store).splits.values() for name in split.ids]
    assert sorted(file.name for file in (tmp_path / "maps").iterdir()) == sorted(names)
    saved = np.load(tmp_path / "maps" / names[0]).astype(np.float32)
    assert saved.shape == (19, 432, 432)
    assert saved.sum(0) == pytest.approx(1, abs=0.01)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "exists; name a new folder" in again.stderr
