"""The examples with other people's libraries, as a user starts them: run where the library is installed."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stochseg import metrics
from stochseg.config import CalibrationConfig, RefinementConfig
from stochseg.data.ambiguous import prepare_ambiguous
from stochseg.data.store import open_store
from stochseg.evaluation import evaluate
from stochseg.models.car import CAR

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.slow


def started(library: str, script: str, *arguments: object) -> str:
    """What an example prints; skips where its library cannot be imported, which only another process can find out."""
    probe = subprocess.run([sys.executable, "-c", f"import {library}"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"{library} cannot be imported here ({probe.stderr.strip().splitlines()[-1]})")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_ambiguous(tmp_path_factory.mktemp("examples") / "store", 64, val=16, test=16)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    car = CAR(2, 1, (64, 64), CalibrationConfig(widths=(4, 8)), RefinementConfig(widths=(4, 8)))
    g = torch.Generator().manual_seed(0)
    for p in car.networks.parameters():
        p.data += 0.3 * torch.randn(p.shape, generator=g)
    folder = tmp_path_factory.mktemp("made") / "model"
    car.save(folder)
    return folder


@pytest.mark.parametrize(
    ("library", "script"),
    [("segmentation_models_pytorch", "smp_network.py"), ("monai", "monai_network.py")],
)
def test_a_foreign_network_is_trained_and_judged(library: str, script: str, store: Path, tmp_path: Path) -> None:
    printed = started(library, script, "--data", store, "--out", tmp_path / "run", "--steps", 3)
    assert re.fullmatch(r"GED \d\.\d{3}, of the likeliest map \d\.\d{3}\n", printed)
    assert '"calibration": null' in (tmp_path / "run" / "model" / "config.json").read_text()


def test_the_sliding_window_of_monai(model: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 150), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scan.png")
    started("monai", "monai_sliding_window.py", model, tmp_path / "scan.png", "--out", tmp_path / "q.npy")
    q = np.load(tmp_path / "q.npy")
    assert q.shape == (2, 100, 150)
    assert np.abs(q.sum(0) - 1).max() < 1e-5
    corner = torch.from_numpy(pixels[:64, :64])[None, None].float() / 127.5 - 1
    alone = CAR.load(model).probabilities(corner)[0].numpy()
    apart = np.abs(q - np.pad(alone, ((0, 0), (0, 36), (0, 86))))
    assert apart[:, :32, :32].max() < 1e-5  # no other window reaches there


def test_scores_in_lightning(model: Path, store: Path) -> None:
    printed = started("lightning", "lightning_metrics.py", model, "--data", store, "--split", "val")
    val = open_store(store).split("val")
    images = torch.from_numpy(val.images[:]).permute(0, 3, 1, 2)
    maps = CAR.load(model).sample(images / 127.5 - 1, n=16, generator=torch.Generator().manual_seed(0))
    wanted = metrics.generalized_energy_distance(maps, torch.from_numpy(val.labels[:]), classes=2, convention="car")
    found = re.search(r"ged\D*(\d\.\d+)", printed)
    assert found is not None
    assert float(found[1]) == pytest.approx(float(wanted.mean()), abs=1e-6)
    assert evaluate(model, store, "val")["ged"] == pytest.approx(float(found[1]), abs=0.1)
