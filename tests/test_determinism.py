"""The same bits for the same seed, whatever processes draw batches and threads compute samples; `--deterministic` for GPUs."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stochseg.cli import main
from stochseg.config import CalibrationConfig, RefinementConfig
from stochseg.determinism import only_deterministic
from stochseg.errors import RunError
from stochseg.evaluation import evaluate
from stochseg.models.car import CAR
from stochseg.presets import load_config
from stochseg.training import loop
from stochseg.training.run import build_model, train

from .test_training import PAPER, SMALL, flags, same, weights


def test_torch_is_told_and_told_back() -> None:
    numbers, first = torch.zeros(4), torch.tensor([0])
    with only_deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        with only_deterministic(True):
            pass
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    told = r"--deterministic true: put_ does not have a deterministic implementation.*CPU"
    with pytest.raises(RunError, match=told), only_deterministic(True):
        numbers.put_(first, torch.ones(1))
    with pytest.raises(RuntimeError, match="another"), only_deterministic(True):
        raise RuntimeError("another")
    assert not torch.are_deterministic_algorithms_enabled()
    with only_deterministic(False):
        numbers.put_(first, torch.ones(1))


def test_the_flag_reaches_all_work_and_changes_no_bit_on_a_cpu(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    step, draw = loop.take_step, CAR.draw

    def noting(call: Any) -> Any:
        def noted(*args: Any, **more: Any) -> Any:
            seen.append(torch.are_deterministic_algorithms_enabled())
            return call(*args, **more)

        return noted

    monkeypatch.setattr(loop, "take_step", noting(step))
    monkeypatch.setattr(CAR, "draw", noting(draw))
    Image.fromarray(np.arange(1024, dtype=np.uint8).reshape(32, 32)).save(tmp_path / "x.png")
    found = []
    for asked in ("true", "false"):
        run, out = tmp_path / asked / "run", tmp_path / asked / "out"
        store, image, more = str(tiny_store), str(tmp_path / "x.png"), ["--deterministic", asked]
        assert main(["train", "--data", store, "--out", str(run), *flags(SMALL), "--steps", "2", *more]) == 0
        evaluated = ["evaluate", str(run), "--data", store, "--split", "val", "--samples", "2", *more]
        assert main(evaluated) == 0
        assert main(["sample", str(run), image, "--out", str(out), "--samples", "3", *more]) == 0
        assert set(seen) == {asked == "true"}
        seen.clear()
        scores = json.loads((run / "evaluation/val.json").read_text())
        found.append((weights(run), scores["ged"], np.load(out / "x/samples.npz")["maps"]))
    assert same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    np.testing.assert_array_equal(found[0][2], found[1][2])


def test_processes_that_draw_batches_ahead_change_no_bit(tiny_store: Path, tmp_path: Path) -> None:
    alone, ahead = (
        train(data=tiny_store, out=tmp_path / str(n), config="lidc", **SMALL, steps=6, **{"training.workers": n})
        for n in (0, 2)
    )
    assert same(weights(alone), weights(ahead))


def test_samples_are_the_same_for_any_number_of_threads() -> None:
    """Training is not: sums over a batch round in another order. docs/reliability.md says so."""
    model = CAR(2, 1, (64, 64), CalibrationConfig(widths=(16, 32)), RefinementConfig(widths=(16, 32)))
    images = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    z = torch.randn(2, 3, model.latent, generator=torch.Generator().manual_seed(1))
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append((model.probabilities(images), model.refine(images, model.probabilities(images), z)))
    finally:
        torch.set_num_threads(1)
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.gpu
@pytest.mark.parametrize(("preset", "settings"), [("lidc", SMALL), ("lidc-paper", PAPER)])
def test_two_deterministic_runs_on_a_gpu_have_the_same_bits(
    preset: str, settings: dict[str, Any], tiny_store: Path, tmp_path: Path
) -> None:
    settings = settings | {"device": "cuda", "deterministic": True, "precision": "float32"}
    runs = [train(data=tiny_store, out=tmp_path / name, config=preset, **settings, steps=11) for name in ("a", "b")]
    assert same(*(weights(run) for run in runs))
    judge = partial(evaluate, data=tiny_store, split="val", samples=4, device="cuda", deterministic=True)
    scores = [judge(run)["ged"] for run in (runs[0], runs[0], runs[1])]
    assert scores[0] == scores[1] == scores[2]


@pytest.mark.gpu
@pytest.mark.parametrize(
    "method", ["car", "probabilistic-unet", "ssn", "ccdm"]
)  # masks of mc-dropout are the device's own
def test_samples_of_a_gpu_are_those_of_a_cpu_up_to_rounding(method: str, tiny_store: Path) -> None:
    from stochseg.data.store import open_store

    config = load_config("lidc", SMALL | {"method": method, "baseline.widths": [8, 16], "baseline.sampling_steps": 5})
    store = open_store(tiny_store)
    model = build_model(config, store, 1, (32, 32))
    images = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    z = torch.randn(4, 8, model.latent, generator=torch.Generator().manual_seed(1))
    on_cpu = model.sample(images, z=z)
    on_gpu = model.to("cuda").sample(images, z=z).cpu()
    assert (on_cpu == on_gpu).float().mean() > 0.99  # pixels at the edge of two classes may fall to either side
