"""Checkpoints of the official code become runs that give its outputs; what does not fit is listed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stochseg.cli import main
from stochseg.data.store import LESION_CLASSES
from stochseg.data.store_writer import StoreWriter
from stochseg.errors import InputError
from stochseg.import_official import NAMES, OFFICIAL, build_networks, official_networks, read_states
from stochseg.models.car import CAR
from stochseg.models.discriminator import probability
from stochseg.official import Dataset, Net, misfits, names_of
from stochseg.training.run import train

from . import old_torch
from .test_parity_nets import PARITY, TOLERANCE, difference, official_weights, spec

pytestmark = pytest.mark.skipif(not PARITY.is_dir(), reason=f"no parity files in {PARITY}")
Checkpoint = dict[str, dict[str, Tensor]]


def checkpoint(dataset: Dataset, calibration: str) -> Checkpoint:
    """What the official code saves, with the weights of the parity files."""
    names: dict[Net, str] = {"discriminator": "discriminator", "refinement": "generator", "calibration": calibration}
    return {name: old_torch.state_dict(official_weights(dataset, net)) for net, name in names.items()}


def write(file: Path, states: Mapping[str, Any], device: str = "cuda:0") -> Path:
    file.write_bytes(old_torch.pickled(states, device))
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a LIDC checkpoint as published: of torch 1.4, on a GPU, key prior."""
    folder = tmp_path_factory.mktemp("official")
    file = write(folder / "LIDC_CAR_Model.pickle", checkpoint("lidc", "prior"))
    assert main(["import-official", str(file), "--dataset", "lidc", "--out", str(folder / "run")]) == 0
    file.unlink()
    return folder / "run"


def test_the_run_gives_the_official_outputs(run: Path) -> None:
    model = CAR.load(run)
    expected = np.load(PARITY / "nets_lidc.npz")
    x, z = torch.from_numpy(expected["x"]), torch.from_numpy(expected["z"]).transpose(0, 1)
    q = model.probabilities(x)
    logits = torch.from_numpy(expected["logits"])
    assert difference(q[..., ::4, ::4], logits.softmax(1).numpy()) < TOLERANCE
    samples = model.refine(x, q, z)
    assert difference(samples.transpose(0, 1)[..., ::4, ::4], expected["samples"]) < TOLERANCE
    assert model.discriminator is not None
    with torch.no_grad():
        score = probability(model.discriminator(x, samples[:, 0]))
    assert difference(score, expected["score"]) < TOLERANCE


def test_the_run_is_evaluated_and_sampled(run: Path, tmp_path: Path) -> None:
    """On grey images of 130x130, whose centre is taken, as the official code does with its 180x180 ones."""
    rng = np.random.default_rng(0)
    with StoreWriter(tmp_path / "store", classes=LESION_CLASSES, raters=4) as writer:
        split = writer.add_split("test", ["a", "b"], ["p", "q"], (130, 130, 1), "made")
        split.images[:] = rng.integers(0, 256, (2, 130, 130, 1))
        split.labels[:] = rng.integers(0, 2, (2, 4, 130, 130))
    np.save(tmp_path / "image.npy", rng.integers(0, 256, (64, 64), dtype=np.uint8))
    assert (
        main(["evaluate", str(run), "--data", str(tmp_path / "store"), "--samples", "4", "--precision", "float32"]) == 0
    )
    result = json.loads((run / "evaluation/test.json").read_text())
    assert result["images"] == 2
    assert 0 <= result["ged"] <= 2
    out = tmp_path / "samples"
    assert (
        main(
            [
                "sample",
                str(run),
                str(tmp_path / "image.npy"),
                "--samples",
                "3",
                "--precision",
                "float32",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    assert np.load(out / "image/samples.npz")["maps"].shape == (3, 64, 64)
    assert {p.name for p in run.iterdir()} == {"model", "evaluation"}
    card = (run / "model/README.md").read_text()
    assert "LIDC_CAR_Model.pickle" in card
    assert "CARSSS" in card


def test_the_run_is_not_trained_over(run: Path, tiny_store: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run to go on with"):
        train(data=tiny_store, out=run, resume=True)
    file = write(tmp_path / "model.pickle", {})
    assert main(["import-official", str(file), "--dataset", "lidc", "--out", str(run)]) == 2


def test_our_names_are_the_official_ones() -> None:
    """Every key, shape, type and pair of shared keys of the published specification, for each of the six networks."""
    for dataset, one in OFFICIAL.items():
        states = {net: official_weights(dataset, net) for net in NAMES}
        networks = build_networks(dataset, states)
        assert tuple(states["refinement"]["zres1.residual.weight"].shape[1:]) == (one.latent,)
        for net, names in NAMES.items():
            tag = f"{dataset}/{names[-1]}"
            ours, theirs = networks[net].state_dict(), names_of(net, dataset)
            found = {
                key: [list(ours[name].shape), str(ours[name].dtype).removeprefix("torch.")]
                for key, name in theirs.items()
            }
            assert found == spec()["state_dicts"][tag]
            first: dict[str, str] = {}
            shared = {key: owner for key, name in theirs.items() if (owner := first.setdefault(name, key)) != key}
            assert {k: o for k, o in shared.items() if "num_batches" not in k} == dict(spec()["shared"][tag])


@pytest.mark.parametrize("calibration", ["prior", "calibration_net"])
def test_cityscapes_networks_give_the_official_outputs(tmp_path: Path, calibration: str) -> None:
    file = write(tmp_path / "CS_CAR_Model.pickle", checkpoint("cityscapes", calibration))
    networks = official_networks(file, "cityscapes", read_states(file))
    expected = np.load(PARITY / "nets_cityscapes.npz")
    x, z = torch.from_numpy(expected["x"]), torch.from_numpy(expected["z"]).transpose(0, 1)
    blackbox = torch.nn.functional.one_hot(torch.from_numpy(expected["bb"]).long(), 25).movedim(-1, 1).float()
    with torch.no_grad():
        logits = networks["calibration"](torch.cat([x, blackbox], 1))
        samples = networks["refinement"](x, logits.softmax(1), z).softmax(2)
        score = networks["discriminator"](x, samples[:, 0]).sigmoid()
    assert difference(logits[..., ::4, ::4], expected["logits"]) < TOLERANCE
    assert difference(samples.transpose(0, 1)[..., ::4, ::4], expected["samples"]) < TOLERANCE
    assert difference(score, expected["score"]) < TOLERANCE


def test_a_cityscapes_run_asks_for_the_black_box(tmp_path: Path) -> None:
    file = write(tmp_path / "CS_CAR_Model.pickle", checkpoint("cityscapes", "prior"))
    run = str(tmp_path / "run")
    assert main(["import-official", str(file), "--dataset", "cityscapes", "--out", run]) == 0
    model = CAR.load(run)
    assert model.needs_blackbox
    names = [info.name for info in model.classes]
    flipped = {names[target]: names[source] for source, target in ((1, 19), (11, 20), (13, 21), (8, 22), (0, 23))}
    assert all(target.startswith(source) for target, source in flipped.items())
    assert (len(names), names[24]) == (25, "unlabelled")
    expected = np.load(PARITY / "nets_cityscapes.npz")
    x, z = torch.from_numpy(expected["x"]), torch.from_numpy(expected["z"]).transpose(0, 1)
    q = model.probabilities(x, torch.from_numpy(expected["bb"]).long())
    logits = torch.from_numpy(expected["logits"])
    assert difference(q[..., ::4, ::4], logits.softmax(1).numpy()) < TOLERANCE
    samples = model.refine(x, q, z)
    assert difference(samples.transpose(0, 1)[..., ::4, ::4], expected["samples"]) < TOLERANCE
    with pytest.raises(InputError, match="black box"):
        model.sample(x, n=2)


def refused(tmp_path: Path, states: Mapping[str, Any], dataset: Dataset = "cityscapes", **more: Any) -> str:
    file = write(tmp_path / "model.pickle", states)
    with pytest.raises(InputError) as caught:
        official_networks(file, dataset, read_states(file, **more))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_that_does_not_fit_is_listed(tmp_path: Path) -> None:
    states = checkpoint("cityscapes", "prior")
    del states["prior"]["model.1.bias"]
    states["prior"]["model.2.bias"] = torch.zeros(3)
    states["generator"]["enc1.0.weight"] = torch.zeros(32, 27, 3, 3)
    states["generator"]["enc2.1.running_var"] = torch.ones(64, dtype=torch.float64)
    states["discriminator"]["model.4.bias"] = torch.full((64,), torch.nan)
    said = refused(tmp_path, states)
    for text in (
        "prior: no 'model.1.bias'",
        "prior: unknown 'model.2.bias'",
        "generator: 'enc1.0.weight' is [32, 27, 3, 3] and must be [32, 28, 3, 3]",
        "generator: 'enc2.1.running_var' is float64 and must be float32",
        "discriminator: 'model.4.bias' holds numbers that are not finite",
        "widths",
    ):
        assert text in said


def test_every_key_is_missed() -> None:
    for net in NAMES:
        whole = official_weights("cityscapes", net)
        ours = build_networks("cityscapes", {n: official_weights("cityscapes", n) for n in NAMES})[net].state_dict()
        assert misfits(net, "cityscapes", whole, ours) == []
        for key in whole:
            state = {k: v for k, v in whole.items() if k != key}
            assert misfits(net, "cityscapes", state, ours) == [f"no '{key}'"]


def test_keys_that_share_one_tensor_must_agree() -> None:
    state = dict(official_weights("lidc", "calibration"))
    key, owner = spec()["shared"]["lidc/calibration_net"][0]
    state[key] = state[key] + 1
    ours = build_networks("lidc", {net: official_weights("lidc", net) for net in NAMES})["calibration"].state_dict()
    assert misfits("calibration", "lidc", state, ours) == [
        f"'{key}' differs from '{owner}', which is the same tensor in the official network"
    ]


def test_a_checkpoint_of_the_other_dataset_is_told_so(tmp_path: Path) -> None:
    said = refused(tmp_path, checkpoint("cityscapes", "prior"), "lidc")
    assert "more; it fits --dataset cityscapes" in said


def test_another_discriminator_can_be_left_out(tmp_path: Path) -> None:
    states: dict[str, Any] = checkpoint("cityscapes", "calibration_net")
    states["discriminator"]["out.1.weight"] = torch.zeros(1, 7)
    assert "--discriminator false leaves the discriminator out" in refused(tmp_path, states)
    states["discriminator"] = None  # as runs without one save it
    assert "discriminator is no dict of tensors (--discriminator false leaves it out)" in refused(tmp_path, states)
    file = write(tmp_path / "model.pickle", states)
    assert set(official_networks(file, "cityscapes", read_states(file, discriminator=False))) == {
        "calibration",
        "refinement",
    }


def test_another_latent_and_another_image_size(tmp_path: Path) -> None:
    """Both are flags of the official code."""
    states = checkpoint("cityscapes", "calibration_net")
    for injection in ("zres1", "zres2", "out"):
        for layer in ("residual", "scale"):
            key = f"{injection}.{layer}.weight"
            states["generator"][key] = states["generator"][key][:, :5].clone()
    states["discriminator"]["out.1.weight"] = torch.zeros(1, 64 * 30 * 62)
    file = write(tmp_path / "model.pickle", states)
    networks = official_networks(file, "cityscapes", read_states(file))
    assert networks["refinement"].latent == 5
    assert networks["discriminator"].size == (256, 512)
    states["generator"]["out.scale.weight"] = torch.zeros(32, 8)
    assert "generator: 'out.scale.weight' is [32, 8] and must be [32, 5]" in refused(tmp_path, states)


def test_what_is_no_checkpoint_of_the_official_code(tmp_path: Path) -> None:
    states = checkpoint("cityscapes", "prior")
    assert "no prior or calibration_net" in refused(tmp_path, {k: v for k, v in states.items() if k != "prior"})
    assert "both prior and calibration_net" in refused(tmp_path, states | {"calibration_net": states["prior"]})
    assert "unknown 'optimizer'" in refused(tmp_path, states | {"optimizer": {"lr": 1}})
    assert "no generator" in refused(tmp_path, {})


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = ["import-official", str(tmp_path / "none.pickle"), "--dataset", "lidc", "--out", str(tmp_path / "run")]
    assert main(missing) == 2
    assert "none.pickle: cannot be read" in capsys.readouterr().err
    assert main(["import-official", "x", "--dataset", "chest", "--out", str(tmp_path / "run")]) == 2
    assert "lidc" in capsys.readouterr().err
    file = tmp_path / "model.pickle"
    file.write_bytes(b"cos\nsystem\n(S'touch mark'\ntR.")
    assert main(["import-official", str(file), "--dataset", "lidc", "--out", str(tmp_path / "run")]) == 2
    assert "the pickle asks for os.system" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
