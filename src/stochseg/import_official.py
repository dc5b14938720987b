"""Checkpoints of the official code (EliasKassapis/CARSSS) as runs: what the command `import-official` does."""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stochseg.card import new_card
from stochseg.config import CalibrationConfig, DiscriminatorConfig, RefinementConfig
from stochseg.data.cityscapes_classes import PAPER_FLIPS, STREET_CLASSES, classes_with_flips
from stochseg.data.class_flips import parse_flips
from stochseg.data.pickled_tensors import read_state_dicts
from stochseg.data.store import LESION_CLASSES, ClassInfo
from stochseg.errors import InputError
from stochseg.models.build import build_calibration, build_discriminator, build_refinement
from stochseg.models.car import CAR
from stochseg.official import Dataset, Net, misfits, official_state
from stochseg.writable import check_writable

NAMES: dict[Net, tuple[str, ...]] = {
    "calibration": ("prior", "calibration_net"),
    "refinement": ("generator",),
    "discriminator": ("discriminator",),
}
"""Where a network may lie in a checkpoint. Published files say prior; the released code saves calibration_net."""
SHOWN = 12
"""Misfits that an error lists before it counts the rest."""


States = Mapping[Net, Mapping[str, Tensor]]
"""The official state dict of each network."""


class Official(NamedTuple):
    """The official networks of a dataset in our terms; all take three image channels."""

    classes: int
    blackbox: bool
    """Whether the calibration network sees the one-hot map of a black box beside the image."""
    latent: int
    sizes: tuple[tuple[int, int], ...]
    """Image sizes (h, w) that the discriminator may be tied to, first that of the published scores."""
    calibration: CalibrationConfig


OFFICIAL: dict[Dataset, Official] = {
    "lidc": Official(2, False, 8, ((128, 128),), CalibrationConfig(net="segnet", dropout=0.1)),
    "cityscapes": Official(
        25, True, 32, ((256, 512), (256, 256), (128, 128)), CalibrationConfig(net="convnet", dropout=0.2)
    ),
}
CHANNELS = 3
DISCRIMINATOR = DiscriminatorConfig(net="pixel", width=64)


def import_official(file: str | Path, dataset: Dataset, out: str | Path, discriminator: bool = True) -> Path:
    """Write a run of a checkpoint of the official code, published or saved by a run of one's own; returns the run.

    Nothing of the file is executed. On Cityscapes the model asks for the black box's answer beside each image. Raises
    InputError that lists each key, shape and type that does not fit.

    Args:
        file: the checkpoint, such as LIDC_CAR_Model.pickle.
        dataset: what it was trained on: lidc or cityscapes.
        out: run directory to write.
        discriminator: take the discriminator too; false leaves it out, where a run had another one or none.
    """
    file, out = Path(file), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: is not empty; choose another directory")
    check_writable(out, f"--out {out}")
    states = read_states(file, discriminator)
    networks = official_networks(file, dataset, states)
    one = OFFICIAL[dataset]
    model = CAR(
        LESION_CLASSES if dataset == "lidc" else _street_classes(),
        CHANNELS,
        _size(dataset, states),
        one.calibration,
        _refinement(dataset, states),
        DISCRIMINATOR if discriminator else None,
        blackbox="saved" if one.blackbox else None,
    )
    model.networks.load_state_dict(networks.state_dict())
    partial = out / "model.partial"
    partial.mkdir(parents=True)
    try:
        model.save(partial, new_card(model, about=_about(file, dataset)))
        os.replace(partial, out / "model")
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _street_classes() -> list[ClassInfo]:
    """The official code's 25: those that are scored, one for each of the paper's flips, unlabelled."""
    return classes_with_flips(parse_flips(PAPER_FLIPS, [info.name for info in STREET_CLASSES]))[0]


def official_networks(file: Path, dataset: Dataset, states: States) -> nn.ModuleDict:
    """Our networks with the weights of an official checkpoint, by the names that `CAR` gives them.

    On Cityscapes the calibration network takes [image, one-hot black box], 28 channels. Raises InputError that begins
    with the file and lists what does not fit.
    """
    if wrong := _misfits(dataset, states):
        listed = [f"{NAMES[net][0]}: {text}" for net, text in wrong]
        more = f"; and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
        raise InputError(
            f"{file}: does not fit the official networks for {dataset}: {'; '.join(listed[:SHOWN])}{more}; "
            f"{_cure(dataset, states, wrong)}"
        )
    networks = build_networks(dataset, states)
    for net, state in states.items():
        ours = official_state(net, dataset, state, networks[net].state_dict())
        networks[net].load_state_dict({name: tensor.clone() for name, tensor in ours.items()}, assign=True)
    return networks.eval()


def read_states(file: Path, discriminator: bool = True) -> dict[Net, dict[str, Tensor]]:
    """The state dict of each network in a checkpoint; InputError where one is missing or there is anything else."""
    found = read_state_dicts(file)
    wrong: list[str] = []
    states: dict[Net, dict[str, Tensor]] = {}
    for net, names in NAMES.items():
        if net == "discriminator" and not discriminator:
            continue
        there = [name for name in names if name in found]
        state = found[there[0]] if there else None
        if len(there) == 1 and state is not None:
            states[net] = state
            continue
        reason = f"both {' and '.join(there)}" if len(there) > 1 else f"no {' or '.join(names)}"
        reason = f"{there[0]} is no dict of tensors" if len(there) == 1 else reason
        wrong.append(reason + (" (--discriminator false leaves it out)" if net == "discriminator" else ""))
    known = {name for names in NAMES.values() for name in names}
    wrong += [f"unknown '{name}'" for name in found if name not in known]
    if wrong:
        raise InputError(f"{file}: is no checkpoint of the official code: {'; '.join(wrong)}")
    return states


def build_networks(dataset: Dataset, states: States) -> nn.ModuleDict:
    """Networks without memory, whose latent and image size, which a user may choose, are those of the states."""
    one = OFFICIAL[dataset]
    shown = CHANNELS + one.classes if one.blackbox else CHANNELS
    with torch.device("meta"):
        networks = {
            "calibration": build_calibration(one.calibration, shown, one.classes),
            "refinement": build_refinement(_refinement(dataset, states), CHANNELS, one.classes),
        }
        if "discriminator" in states:
            networks["discriminator"] = build_discriminator(
                DISCRIMINATOR, CHANNELS, one.classes, _size(dataset, states)
            )
    return nn.ModuleDict(networks)


def _refinement(dataset: Dataset, states: States) -> RefinementConfig:
    """The refinement network with the length of z that its first layer for it has."""
    layer = states["refinement"].get("zres1.residual.weight")
    latent = OFFICIAL[dataset].latent if layer is None or layer.ndim != 2 else max(1, layer.shape[1])
    return RefinementConfig(net="paper", width=32, latent=latent, dropout=0.1)


def _size(dataset: Dataset, states: States) -> tuple[int, int]:
    """The image size (h, w) that the discriminator's last layer shows."""
    layer = states.get("discriminator", {}).get("out.1.weight")
    for h, w in OFFICIAL[dataset].sizes:
        if layer is not None and tuple(layer.shape) == (1, DISCRIMINATOR.width * (h // 8 - 2) * (w // 8 - 2)):
            return h, w
    return OFFICIAL[dataset].sizes[0]


def _misfits(dataset: Dataset, states: States) -> list[tuple[Net, str]]:
    networks = build_networks(dataset, states)
    return [(n, text) for n, state in states.items() for text in misfits(n, dataset, state, networks[n].state_dict())]


def _cure(dataset: Dataset, states: States, wrong: list[tuple[Net, str]]) -> str:
    """What to try next."""
    for other in OFFICIAL:
        if other != dataset and not _misfits(other, states):
            return f"it fits --dataset {other}"
    if {net for net, _ in wrong} == {"discriminator"}:
        return "--discriminator false leaves the discriminator out, which sampling does not need"
    return "only the official networks at their own widths can be imported"


def _about(file: Path, dataset: Dataset) -> str:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return (
        f"A model of the official code for {dataset}, imported by `stochseg import-official` from {file.name}, sha256 "
        f"{digest}. Kassapis, Dikov, Gupta, Nugteren, 'Calibrated Adversarial Refinement for Stochastic Semantic "
        "Segmentation', ICCV 2021, github.com/EliasKassapis/CARSSS."
    )
