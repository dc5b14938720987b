"""training.record: a step as one CUDA graph has the losses and weights of a step as it is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stochseg.config import ObjectiveConfig
from stochseg.data.batches import Batch
from stochseg.models.car import CAR
from stochseg.presets import load_config
from stochseg.training.gradients import accumulate_gradients
from stochseg.training.recorded import BEFORE, Recorder
from stochseg.training.run import train

from .test_training import PAPER, SMALL, step_lines, weights

STEPS = 4 * BEFORE


def test_the_pull_to_the_nearest_shape_is_the_same_as_a_number_of_the_config_and_as_a_tensor() -> None:
    config = load_config("demo", {"refinement.widths": [8, 16], "calibration.widths": [8, 16]})
    images, labels = torch.randn(2, 1, 16, 16), torch.randint(0, 2, (2, 4, 16, 16), dtype=torch.uint8)
    found = []
    for pull in (None, torch.tensor(3.0)):
        model = CAR(2, 1, (16, 16), config.calibration, config.refinement, seed=0)
        objective = ObjectiveConfig(nearest=3.0 if pull is None else 7.0)
        z = torch.zeros(2, 2, model.latent)
        accumulate_gradients(
            model.networks, Batch(images, labels), z, objective, 2, None, torch.float32, False, 1.0, (), pull
        )
        found.append([p.grad for p in model.networks["refinement"].parameters()])
    pairs = [(a, b) for a, b in zip(*found, strict=True) if a is not None]
    assert len(pairs) > 10
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        ("lidc", SMALL),
        ("demo", SMALL | {"objective.nearest": 7.0}),
        ("lidc", SMALL | {"refinement.net": "film", "refinement.choice": True}),
        ("lidc-paper", PAPER),
        ("lidc", SMALL | {"method": "ssn", "baseline.widths": [8, 16]}),
        ("lidc", SMALL | {"method": "probabilistic-unet", "baseline.widths": [8, 16]}),
        ("lidc", SMALL | {"method": "ccdm", "baseline.widths": [8, 16]}),
    ],
)
def test_a_recorded_run_has_the_losses_of_a_plain_one(
    preset: str, settings: dict[str, Any], tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings | {"device": "cuda", "precision": "float32", "steps": STEPS, "training.log_every": 1}
    plain, recorded = (
        train(data=tiny_store, out=tmp_path / str(record), config=preset, **settings, **{"training.record": record})
        for record in (False, True)
    )
    assert "cannot be recorded" not in capsys.readouterr().err
    for a, b in zip(step_lines(plain), step_lines(recorded), strict=True):
        for name in a.keys() - {"minutes", "images_per_second"}:
            assert b[name] == pytest.approx(a[name], rel=0.02, abs=1e-3), (name, a["step"])
    for name, weight in weights(plain).items():
        torch.testing.assert_close(weights(recorded)[name].float(), weight.float(), atol=0.02, rtol=0.1)


@pytest.mark.gpu
def test_a_step_that_reads_a_value_is_not_recorded_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    net = nn.Linear(3, 2).cuda()
    recorder = Recorder(net)

    def work(x: Tensor) -> dict[str, Tensor]:
        loss = net(x).square().mean()
        loss = loss * (2 if loss.item() > 0 else 3)
        loss.backward()
        return {"loss": loss.detach()}

    for _ in range(2 * BEFORE):
        x = torch.randn(4, 3, device="cuda")
        losses = recorder.run(None, work, (x,))
        torch.testing.assert_close(losses["loss"], 2 * net(x).detach().square().mean())
        assert net.weight.grad is not None
        net.zero_grad(set_to_none=True)
    said = capsys.readouterr().err
    assert said.count("cannot be recorded") == 1


@pytest.mark.gpu
def test_kinds_of_steps_are_recorded_apart_and_gradients_are_of_the_inputs_given() -> None:
    net = nn.Linear(3, 1).cuda()
    recorder = Recorder(net)
    for step in range(8 * BEFORE):
        power = 1 + step % 2
        x = torch.randn(4 + step % 3, 3, device="cuda")

        def work(x: Tensor, power: int = power) -> dict[str, Tensor]:
            loss = (net(x).square() ** power).mean()
            loss.backward()
            return {"loss": loss.detach()}

        losses = recorder.run(power, work, (x,))
        gradient = torch.autograd.grad((net(x).square() ** power).mean(), net.weight)[0]
        torch.testing.assert_close(net.weight.grad, gradient)
        torch.testing.assert_close(losses["loss"], (net(x).square() ** power).mean().detach())
        net.zero_grad(set_to_none=True)
