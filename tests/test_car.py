"""The user's object and our own networks under it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import stochseg
from stochseg.config import CalibrationConfig, DiscriminatorConfig, RefinementConfig
from stochseg.errors import InputError
from stochseg.models.precision import resolve_device
from stochseg.presets import load_config
from stochseg.sampling import sample
from stochseg.sampling.latents import latents

SMALL = {"calibration": CalibrationConfig(widths=(8, 16, 24)), "refinement": RefinementConfig(widths=(8, 16, 24))}
PAPER = {
    "calibration": CalibrationConfig(net="convnet", width=8),
    "refinement": RefinementConfig(net="paper", width=8, latent=4),
    "discriminator": DiscriminatorConfig(width=8),
}
HYPOTHESES = {"calibration": SMALL["calibration"], "refinement": RefinementConfig(net="hypotheses", widths=(8, 16))}
KINDS = {"film": SMALL, "paper": PAPER, "hypotheses": HYPOTHESES}


def made(kind: str, classes: int = 3, channels: int = 2) -> stochseg.CAR:
    """An untrained model whose samples differ: the last layer of film starts at zero, so it is drawn anew here."""
    model = stochseg.CAR(classes, channels, (32, 32), **KINDS[kind])  # type: ignore[arg-type]
    g = torch.Generator().manual_seed(1)
    for name, p in model.networks.named_parameters():
        if name.startswith(("refinement.head", "refinement.query")) or name.endswith("noise.weight"):
            p.data = torch.randn(p.shape, generator=g) * 0.5
    return model


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 2, 37, 50, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_types_and_ranges_at_an_odd_size(kind: str, images: torch.Tensor) -> None:
    model = made(kind)
    q = model.probabilities(images)
    maps = model.sample(images, n=5, generator=torch.Generator().manual_seed(0))
    soft = model.refine(images, q, torch.randn(3, 4, model.latent))
    assert (q.shape, q.dtype) == ((3, 3, 37, 50), torch.float32)
    assert (maps.shape, maps.dtype) == ((3, 5, 37, 50), torch.uint8)
    assert (soft.shape, soft.dtype) == ((3, 4, 3, 37, 50), torch.float32)
    assert torch.allclose(soft.sum(2), torch.ones(3, 4, 37, 50), atol=1e-5)
    assert int(maps.max()) <= 2
    assert not torch.equal(maps[:, 0], maps[:, 1])


@pytest.mark.parametrize("kind", KINDS)
def test_one_latent_is_one_map_whatever_is_beside_it(
    kind: str, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(kind)
    q, z = model.probabilities(images), torch.randn(3, 6, model.latent, generator=torch.Generator().manual_seed(2))
    together = model.refine(images, q, z)
    alone = torch.stack([model.refine(images[1:2], q[1:2], z[1:2, i : i + 1])[0, 0] for i in range(6)])
    assert torch.allclose(together[1], alone, atol=1e-5)
    monkeypatch.setattr(sample, "PIXELS_AT_ONCE", 2 * 37 * 50)  # chunks of two images, one sample
    assert torch.allclose(model.refine(images, q, z), together, atol=1e-5)


def test_seeded_sampling_repeats(images: torch.Tensor) -> None:
    model = made("film")
    first, second, other = (model.sample(images, 4, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_latents_depend_on_seed_image_and_sample_alone() -> None:
    z = latents(3, [5, 9], n=7, length=11)
    assert torch.equal(latents(3, [9], 7, 11)[0], z[1])
    assert torch.equal(latents(3, [5, 9], 4, 11), z[:, :4])
    assert not torch.equal(latents(4, [5], 7, 11)[0], z[0])
    many = latents(0, range(200), 16, 8)
    assert abs(float(many.mean())) < 0.02
    assert abs(float(many.std()) - 1) < 0.02


def test_all_hypotheses_and_their_probabilities_are_what_samples_are_drawn_from(images: torch.Tensor) -> None:
    model = made("hypotheses")
    maps, chances = model.hypotheses(images)
    assert (maps.shape, maps.dtype, chances.shape) == ((3, 9, 37, 50), torch.uint8, (3, 9))
    assert not maps[:, 0].any()
    assert torch.allclose(chances.sum(1), torch.ones(3))
    drawn = model.sample(images, n=2000, generator=torch.Generator().manual_seed(0))
    same = (drawn[:, :, None] == maps[:, None]).flatten(3).all(3)  # [b n m+1]
    assert same.any(2).all()
    alike = (maps[:, :, None] == maps[:, None]).flatten(3).all(3).float()
    assert torch.allclose(same.float().mean(1), (alike @ chances[..., None])[..., 0], atol=4 * 0.5 / 2000**0.5)
    with pytest.raises(InputError, match="train with --refinement.net hypotheses"):
        made("film").hypotheses(images)


def test_before_training_every_sample_is_q(images: torch.Tensor) -> None:
    """Film corrects log q, and its last layer starts at zero."""
    model = stochseg.CAR(3, 2, (32, 32), **SMALL)  # type: ignore[arg-type]
    q = model.probabilities(images)
    soft = model.refine(images, q, torch.randn(3, 2, model.latent))
    assert torch.allclose(soft, q[:, None].expand_as(soft), atol=1e-3)


@pytest.mark.parametrize("kind", ["film", "hypotheses"])
def test_gradients_reach_every_weight(kind: str, images: torch.Tensor) -> None:
    model = made(kind)
    z = torch.randn(3, 2, model.latent)
    features = model.refinement.encode(images, model.probabilities(images))
    shapes, choice = model.refinement.hypotheses(features, z)
    said = 0.0 if choice is None or choice.weights is None else choice.weights.square().sum() + choice.empty.sum()
    (shapes.square().mean() + said).backward()
    for name, p in model.refinement.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_loaded(kind: str, images: torch.Tensor, tmp_path: Path) -> None:
    model = made(kind)
    model.save(tmp_path / "model")
    loaded = stochseg.CAR.load(tmp_path)
    z = torch.randn(3, 2, model.latent)
    assert torch.equal(loaded.sample(images, z=z), model.sample(images, z=z))
    assert [c.name for c in loaded.classes] == ["class 0", "class 1", "class 2"]
    if kind == "paper":
        maps = model.sample(images, z=z)
        assert torch.equal(loaded.score(images, maps), model.score(images, maps))
        assert loaded.score(images, maps).shape == (3, 2)


class Mine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv2d(2, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.net(x))


def test_a_calibration_module_of_ones_own(images: torch.Tensor, tmp_path: Path) -> None:
    mine = Mine()
    model = stochseg.CAR(3, 2, (32, 32), calibration=mine, refinement=RefinementConfig(widths=(8, 16)))
    assert torch.allclose(model.probabilities(images), mine(images).softmax(1), atol=1e-5)
    model.save(tmp_path / "model")
    with pytest.raises(InputError, match="calibration="):
        stochseg.CAR.load(tmp_path)
    loaded = stochseg.CAR.load(tmp_path, calibration=Mine())
    assert torch.equal(loaded.probabilities(images), model.probabilities(images))


def test_the_networks_of_a_config_are_taken_where_none_is_given(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "calibration: {widths: [4, 8]}\nrefinement: {net: hypotheses, widths: [8, 16]}\n"
        "discriminator: {net: pooled, width: 8}\nobjective: {adversarial: 1}\n"
    )
    config = load_config(str(file), {"steps": 1})
    model = stochseg.CAR(2, config=file)
    assert model.configs() == {name: getattr(config, name) for name in ("calibration", "refinement", "discriminator")}
    assert model.hypotheses(torch.zeros(1, 1, 16, 16))[1].shape == (1, 9)
    own = torch.nn.Conv2d(1, 2, 1)
    other = stochseg.CAR(2, calibration=own, refinement=RefinementConfig(widths=(8, 16)), config="demo")
    assert other.calibration is own
    assert other.discriminator is None
    assert other.configs() == {"refinement": RefinementConfig(widths=(8, 16))}
    with pytest.raises(InputError, match="--config nothing: no such preset"):
        stochseg.CAR(2, config="nothing")


def test_wrong_inputs_are_named(images: torch.Tensor, tmp_path: Path) -> None:
    model = made("film")
    with pytest.raises(InputError, match=r"images of shape \[3, 1, 8, 8\]: must be \[b 2 h w\]"):
        model.sample(torch.zeros(3, 1, 8, 8))
    with pytest.raises(InputError, match=r"images of shape \[0, 2, 8, 8\]: .* at least one"):
        model.sample(torch.zeros(0, 2, 8, 8))
    with pytest.raises(InputError, match=r"z of shape \[3, 2, 5\]: must be \[3 n 80\]"):
        model.refine(images, model.probabilities(images), torch.zeros(3, 2, 5))
    with pytest.raises(InputError, match=r"z of shape \[3, 2, 5\]"):
        model.sample(images, z=torch.zeros(3, 2, 5))
    with pytest.raises(InputError, match="n 0: draw at least 1"):
        model.sample(images, n=0)
    with pytest.raises(InputError, match="no discriminator"):
        model.score(images, model.sample(images, 2))
    with pytest.raises(InputError, match="without a black box"):
        model.sample(images, blackbox=torch.zeros(3, 37, 50))
    with pytest.raises(InputError, match="no such run"):
        stochseg.CAR.load(tmp_path / "nothing")
    with pytest.raises(InputError, match="holds no model yet"):
        stochseg.CAR.load(tmp_path)
    model.save(tmp_path / "model")
    file = tmp_path / "model/model.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(InputError, match=r"model.safetensors: damaged"):
        stochseg.CAR.load(tmp_path)
    facts = json.loads((tmp_path / "model/config.json").read_text())
    for spoiled in (
        [],
        facts | {"refinement": {"net": "film", "colour": 3}},
        {"format": "stochseg-model", "version": 1},
    ):
        (tmp_path / "model/config.json").write_text(json.dumps(spoiled))
        with pytest.raises(InputError, match=r"config.json: damaged or of another version"):
            stochseg.CAR.load(tmp_path)
    for name, message in (
        ("cuda:77", "not available here"),
        ("meta", "must be auto, cpu"),
        ("quantum", "not available"),
    ):
        with pytest.raises(InputError, match=f"--device {name}: {message}"):
            resolve_device(name)


def test_bfloat16_stays_near_float32(images: torch.Tensor) -> None:
    model = made("film")
    q = model.probabilities(images)
    model.precision = "bfloat16"
    assert 0 < float((model.probabilities(images) - q).abs().max()) < 0.03


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_the_gpu_agrees_with_the_cpu(kind: str, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # torch's default there rounds to 10 bits
    model = made(kind)
    z = torch.randn(3, 4, model.latent)
    on_cpu = model.refine(images, model.probabilities(images), z)
    model.to("cuda")
    on_gpu = model.refine(images, model.probabilities(images), z).cpu()
    assert np.allclose(on_cpu.numpy(), on_gpu.numpy(), atol=1e-3)


def test_grey_images_are_repeated_where_the_model_takes_three_channels() -> None:
    model = made("film", channels=3)
    grey = torch.rand(2, 1, 32, 32) * 2 - 1
    assert torch.equal(model.probabilities(grey), model.probabilities(grey.repeat(1, 3, 1, 1)))
