"""Our networks against what the official code returned for the same weights and inputs."""

import functools
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stochseg.errors import InputError
from stochseg.models.convnet import ConvNet
from stochseg.models.discriminator import PixelDiscriminator, probability
from stochseg.models.refinement import Refinement
from stochseg.models.segnet import SegNet
from stochseg.official import Dataset, Net, official_state

PARITY = Path(__file__).parents[1].parent / "shared" / "reference" / "parity"
OFFICIAL_NAMES: dict[Net, str] = {
    "calibration": "calibration_net",
    "refinement": "generator",
    "discriminator": "discriminator",
}
TOLERANCE = 1e-4

pytestmark = pytest.mark.skipif(not PARITY.is_dir(), reason=f"no parity files in {PARITY}")


class Case(NamedTuple):
    dataset: Dataset
    classes: int
    latent: int
    expected: Mapping[str, Any]


@pytest.fixture(scope="module", params=[("lidc", 2, 8), ("cityscapes", 25, 32)], ids=["lidc", "cityscapes"])
def case(request: pytest.FixtureRequest) -> Case:
    dataset, classes, latent = request.param
    return Case(dataset, classes, latent, np.load(PARITY / f"nets_{dataset}.npz"))


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_calibration_network(case: Case) -> None:
    logits = _logits(case)
    assert difference(logits[..., ::4, ::4], case.expected["logits"]) < TOLERANCE


def test_refinement_network(case: Case) -> None:
    samples = _samples(case)
    assert difference(samples[..., ::4, ::4], case.expected["samples"]) < TOLERANCE


def test_discriminator(case: Case) -> None:
    x = _tensor(case, "x")
    net = _loaded(PixelDiscriminator(3, case.classes, (128, 128)), "discriminator", case.dataset)
    score = probability(net(x, _samples(case)[0]))
    assert difference(score, case.expected["score"]) < TOLERANCE


def test_a_foreign_state_is_refused() -> None:
    state = official_weights("lidc", "refinement")
    with pytest.raises(InputError, match=r"no 'model\.1\.weight'.*unknown 'enc1"):
        official_state("discriminator", "lidc", state, PixelDiscriminator(3, 2, (128, 128)).state_dict())
    with pytest.raises(InputError, match="unknown 'extra'"):
        official_state("refinement", "lidc", {**state, "extra": torch.zeros(1)}, Refinement(3, 2, 8).state_dict())


@functools.cache
def spec() -> dict[str, Any]:
    spec: dict[str, Any] = json.loads((PARITY / "state_dict_spec.json").read_text())
    return spec


@functools.cache
def official_weights(dataset: Dataset, net: Net) -> Mapping[str, Tensor]:
    """The weights by the rule of the parity files, under the official keys."""
    tag = f"{dataset}/{OFFICIAL_NAMES[net]}"
    owner = dict(spec()["shared"][tag])
    state: dict[str, Tensor] = {}
    for key, (shape, dtype) in spec()["state_dicts"][tag].items():
        if key in owner:
            state[key] = state[owner[key]]
        elif dtype == "int64":
            state[key] = torch.zeros(shape, dtype=torch.int64)
        else:
            state[key] = torch.from_numpy(_draw(f"1/{tag}/{key}", shape).astype(np.float32))
    return state


def _draw(name: str, shape: list[int]) -> np.ndarray[Any, Any]:
    a = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    leaf = name.rsplit(".", 1)[1]
    if leaf == "running_var":
        return 0.5 + np.abs(a)
    if leaf == "running_mean":
        return 0.1 * a
    if len(shape) > 1:
        return 1.2 * a / np.sqrt(np.prod(shape[1:]))
    return 1 + 0.1 * a if leaf == "weight" else 0.1 * a


def _loaded(network: nn.Module, net: Net, dataset: Dataset) -> nn.Module:
    network.load_state_dict(official_state(net, dataset, official_weights(dataset, net), network.state_dict()))
    return network.eval()


def _tensor(case: Case, name: str) -> Tensor:
    return torch.from_numpy(case.expected[name])


@functools.cache
def _calibration(dataset: Dataset, classes: int) -> nn.Module:
    net = SegNet(3, classes) if dataset == "lidc" else ConvNet(3 + classes, classes)
    return _loaded(net, "calibration", dataset)


def _logits(case: Case) -> Tensor:
    x = _tensor(case, "x")
    if case.dataset == "cityscapes":
        blackbox = torch.nn.functional.one_hot(_tensor(case, "bb").long(), case.classes).movedim(-1, 1)
        x = torch.cat([x, blackbox.float()], 1)
    logits: Tensor = _calibration(case.dataset, case.classes)(x)
    return logits


def _samples(case: Case) -> Tensor:
    """[n b k h w], as the parity files have them."""
    net = _loaded(Refinement(3, case.classes, case.latent), "refinement", case.dataset)
    q = _logits(case).softmax(1)
    logits: Tensor = net(_tensor(case, "x"), q, _tensor(case, "z").transpose(0, 1))
    return logits.softmax(2).transpose(0, 1)


def difference(ours: Tensor, theirs: np.ndarray[Any, Any]) -> float:
    """Largest difference, relative to the largest value."""
    expected = torch.from_numpy(theirs)
    assert ours.shape == expected.shape
    return float((ours - expected).abs().max() / expected.abs().max())
