"""The other methods: their equations against slow readings, and each through the same verbs as ours."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import stochseg
from stochseg.baselines import diffusion
from stochseg.baselines.baseline import Baseline
from stochseg.cli import main
from stochseg.config import BaselineConfig, Config
from stochseg.errors import InputError
from stochseg.evaluation import evaluate
from stochseg.models.methods import METHODS, method_class
from stochseg.objectives.targets import Targets
from stochseg.training.run import train

OTHERS = [name for name in METHODS if name != "car"]
SMALL = BaselineConfig(widths=(4, 8, 8), latent=3, rank=2, diffusion_steps=6, sampling_steps=3)


def made(method: str, classes: int = 3, config: BaselineConfig = SMALL, seed: int = 0) -> Baseline:
    kind = method_class(method)
    assert issubclass(kind, Baseline)
    return kind(classes, 1, (16, 16), config, seed)


def targets_of(classes: int = 3, ignore: int | None = None) -> tuple[Tensor, Targets]:
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (2, 4, 16, 16), generator=g, dtype=torch.uint8)
    labels[1, 2] = 255
    return torch.randn(2, 1, 16, 16, generator=g), Targets.of(labels, classes, ignore, all_raters=True)


@pytest.mark.parametrize("method", OTHERS)
@pytest.mark.parametrize("patch", [1, 2])
def test_a_sample_is_a_function_of_its_z(method: str, patch: int, tmp_path: Path) -> None:
    model = made(method, config=replace(SMALL, patch=patch))
    images = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    z = torch.randn(3, 4, model.latent, generator=torch.Generator().manual_seed(2))
    maps = model.sample(images, z=z)
    assert maps.shape == (3, 4, 16, 16)
    assert maps.dtype == torch.uint8
    alone = model.sample(images[1:2], z=z[1:2, 2:])
    assert float((alone == maps[1:2, 2:]).float().mean()) > 0.999
    q = model.probabilities(images)
    assert q.shape == (3, 3, 16, 16)
    assert torch.allclose(q.sum(1), torch.ones(3, 16, 16), atol=1e-5)
    model.save(tmp_path / "model")
    again = stochseg.load(tmp_path / "model")
    assert type(again) is type(model)
    assert torch.equal(again.sample(images, z=z), maps)
    with pytest.raises(InputError, match=f"is of the method {method}"):
        stochseg.CAR.load(tmp_path / "model")


@pytest.mark.parametrize("method", OTHERS)
@pytest.mark.parametrize("ignore", [None, 2])
def test_losses_fall_on_one_batch(method: str, ignore: int | None) -> None:
    model = made(method)
    x, targets = targets_of(ignore=ignore)
    z = torch.randn(2, 8, model.latent, generator=torch.Generator().manual_seed(3))
    optimizer = torch.optim.Adam(model.networks.parameters(), lr=1e-2)
    values = []
    for step in range(30):
        torch.manual_seed(step % 3)
        optimizer.zero_grad()
        loss = next(iter(model.losses(x, targets, z).values()))
        assert torch.isfinite(loss)
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert np.mean(values[-3:]) < np.mean(values[:3])


@pytest.mark.parametrize("method", OTHERS)
def test_each_goes_through_the_same_verbs(method: str, tiny_store: Path, tmp_path: Path) -> None:
    run = train(
        data=tiny_store, out=tmp_path / "run", config="lidc", method=method, steps=3,
        **{
            "input.crop": None, "training.batch": 4, "objective.samples": 2, "validation.images": 2,
            "validation.samples": 2, "baseline.widths": (4, 8), "baseline.diffusion_steps": 4,
            "baseline.sampling_steps": 2,
        },
    )  # fmt: skip
    assert json.loads((run / "model/config.json").read_text())["method"] == method
    result = evaluate(run, tiny_store, "val", samples=4, limit=2)
    assert 0 <= result["ged"] <= 2


@pytest.mark.parametrize("method", ["ccdm", "mc-dropout", "ssn"])
def test_a_resumed_run_ends_as_an_unbroken_one(method: str, tiny_store: Path, tmp_path: Path) -> None:
    """These draw noise of their own in training: it is a function of the step."""
    options = {"input.crop": None, "training.batch": 4, "validation.images": 2, "baseline.widths": (4, 8)}
    options |= {"objective.samples": 2, "validation.samples": 2, "training.cosine": False, "validation.select": "last"}
    options |= {"baseline.sampling_steps": 2}
    whole = train(data=tiny_store, out=tmp_path / "whole", config="lidc", method=method, steps=4, **options)
    part = train(data=tiny_store, out=tmp_path / "part", config="lidc", method=method, steps=2, **options)
    train(data=tiny_store, out=part, resume=True, steps=4)
    ours, theirs = (load_file(run / "model/model.safetensors") for run in (whole, part))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_independent_pixels_come_as_often_as_q_says() -> None:
    model = made("deterministic")
    image = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    maps = model.sample(image, n=2000, generator=torch.Generator().manual_seed(1))
    q = model.probabilities(image)
    for c in range(3):
        assert ((maps == c).float().mean(1) - q[:, c]).abs().max() < 5 * (0.25 / 2000) ** 0.5


def test_dropout_makes_samples_differ_and_is_off_elsewhere() -> None:
    model = made("mc-dropout")
    image = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    state = torch.random.get_rng_state()
    soft = model.soft_samples(image, torch.randn(1, 3, model.latent, generator=torch.Generator().manual_seed(1)))
    assert (soft[:, 0] - soft[:, 1]).abs().max() > 1e-3
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not model.networks.training


def test_the_likelihood_of_ssn_is_its_equation() -> None:
    model = made("ssn")
    x, targets = targets_of()
    z = torch.randn(2, 5, model.latent, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(7)
    found = model.losses(x, targets, z)["likelihood"].item()
    torch.manual_seed(7)
    noise = torch.randn(2, 5, 3, 16, 16)
    log_p = model._logits(x, z, noise).log_softmax(2)  # type: ignore[attr-defined]
    total = 0.0
    for b in range(2):
        for r in range(4):
            if targets.weights[b, r] == 0:
                continue
            ids = targets.labels[b, r].argmax(0)
            each = [sum(log_p[b, i].gather(0, ids[None]).flatten().tolist()) for i in range(5)]
            highest = max(each)
            log_mean = highest + math.log(sum(math.exp(e - highest) for e in each) / 5)
            total -= float(targets.weights[b, r]) * log_mean
    assert found == pytest.approx(total / 2 / 256, rel=1e-4)


def test_the_divergence_of_the_probabilistic_unet_is_that_of_two_gaussians() -> None:
    model = made("probabilistic-unet")
    x, targets = targets_of()
    z = torch.zeros(2, 1, model.latent)
    parts = model.parts  # type: ignore[attr-defined]
    prior, posterior = parts.prior(x), parts.posterior(torch.cat([x, targets.one], 1))
    (m0, s0), (m1, s1) = (posterior.mean, posterior.stddev), (prior.mean, prior.stddev)
    wanted = (s1.log() - s0.log() + (s0**2 + (m0 - m1) ** 2) / (2 * s1**2) - 0.5).sum(1).mean()
    losses = model.losses(x, targets, z)
    assert losses["divergence"].item() == pytest.approx(wanted.item(), rel=1e-5)
    assert losses["bound"].item() == pytest.approx(
        (losses["reconstruction"] + losses["divergence"] / 256).item(), rel=1e-5
    )


def test_diffusion_steps_are_bayes_rule() -> None:
    """Against the transition matrices of a chain of three classes, written out."""
    kept = diffusion.kept_shares(6)
    assert kept[0] == 1
    assert kept[-1] < 0.01
    assert (kept.diff() < 0).all()
    k, t, s = 3, 5, 2

    def matrix(share: float) -> Tensor:
        return share * torch.eye(k) + (1 - share) / k

    between, first = matrix(float(kept[t] / kept[s])), matrix(float(kept[s]))
    p0 = torch.tensor([0.2, 0.5, 0.3])
    for xt in range(k):
        shown = torch.eye(k)[xt].view(1, k, 1, 1)
        expected = torch.zeros(k)
        for x0 in range(k):
            joint = first[x0] * between[:, xt]  # of x_s, and x_t as it is, given x_0
            exact = diffusion._posterior(shown, torch.eye(k)[x0].view(1, k, 1, 1), kept[t : t + 1], kept[s : s + 1])
            assert torch.allclose(exact.flatten(), joint / joint.sum(), atol=1e-6)
            expected += p0[x0] * joint / joint.sum()
        found = diffusion._expected_posterior(shown, p0.view(1, k, 1, 1), kept[t : t + 1], kept[s : s + 1])
        assert torch.allclose(found.flatten(), expected, atol=1e-6)


def test_the_first_diffusion_step_is_cross_entropy() -> None:
    """A_0 is 1, so q(x_0 | x_1, x_0) is x_0 itself."""
    kept = diffusion.kept_shares(6)
    clean = torch.eye(3).view(3, 3, 1, 1)
    noisy = clean.roll(1, 0)
    assert torch.allclose(diffusion._posterior(noisy, clean, kept[1:2], kept[:1]), clean)
    p0 = torch.tensor([0.2, 0.5, 0.3]).view(1, 3, 1, 1)
    assert torch.allclose(diffusion._expected_posterior(noisy, p0, kept[1:2], kept[:1]), p0.expand(3, -1, -1, -1))


def test_draws_follow_their_probabilities() -> None:
    p = torch.tensor([0.2, 0.5, 0.3]).view(1, 3, 1, 1).expand(1, 3, 100, 100)
    drawn = diffusion._drawn(p, torch.rand(1, 100, 100, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(drawn.sum(1), torch.ones(1, 100, 100))
    assert (drawn.mean((0, 2, 3)) - torch.tensor([0.2, 0.5, 0.3])).abs().max() < 0.02


def test_the_config_names_the_methods_there_are() -> None:
    assert set(get_args(get_type_hints(Config)["method"])) == set(METHODS)


def test_a_model_of_ones_own_is_trained_by_its_method(tiny_store: Path, tmp_path: Path) -> None:
    model = method_class("ssn")(2, 1, (32, 32), SMALL)  # type: ignore[call-arg]
    options = {"input.crop": None, "training.batch": 4, "objective.samples": 2}
    options |= {"validation.images": 2, "validation.samples": 2}
    run = train(model, tiny_store, tmp_path / "run", "lidc", steps=2, **options)
    assert type(stochseg.load(run)) is type(model)


def test_the_sample_command_draws_from_any_method(tmp_path: Path) -> None:
    made("ssn", classes=2).save(tmp_path / "model")
    np.save(tmp_path / "image.npy", np.zeros((16, 16), np.uint8))
    assert main(["sample", str(tmp_path / "model"), str(tmp_path / "image.npy"), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/image/samples.npz").is_file()


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(InputError, match="choose one of car"):
        method_class("vae")
    with pytest.raises(InputError, match=r"baseline\.sampling_steps 9"):
        BaselineConfig(diffusion_steps=5, sampling_steps=9)
