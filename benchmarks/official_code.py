"""The official code of CAR, imported from a clone of EliasKassapis/CARSSS as it is, for `against_official.py`.

Nothing of it is in this project. What it imports and this environment lacks is replaced while it runs by stand-ins that
do no work: it logs to wandb, draws with cv2, loads with torchvision, and none of that is timed. Two stand-ins do work:
torchvision's VGG19-BN, whose layers are built here with random weights, and scikit-learn's jaccard_score.
"""

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any
from warnings import catch_warnings

import numpy as np
import torch
from torch import Tensor, nn

VGG19 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512, 512, 512, 0)
"""Channels of its convolutions; 0 is a pool (Simonyan and Zisserman 2015)."""


@dataclass
class Official:
    """Its networks and functions, made with its own defaults for LIDC."""

    calibration: nn.Module
    refinement: nn.Module
    discriminator: nn.Module
    step: Callable[[Tensor, Tensor], None]
    sample: Callable[[Tensor, int], Tensor]
    scores: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    notes: list[str]


def load_official(path: Path) -> Official:
    """Import the code and build its training for LIDC.

    step: one training step of images [b 3 h w] and one-hot labels [b 2 h w], the discriminator's update with R1 in it;
    sample: soft maps [n b k h w]; scores: GED and matched IoU, [b] each, of one-hot samples [n b k h w] and labels
    [b r h w].
    """
    if not (path / "training/train.py").is_file():
        raise SystemExit(f"--official {path}: no clone of EliasKassapis/CARSSS (training/train.py is not there)")
    notes: list[str] = []
    with _imported_from(path, notes), redirect_stdout(StringIO()), catch_warnings(action="ignore"):
        main, constants = import_module("main"), import_module("utils.constants")
        train, model_utils = import_module("training.train"), import_module("utils.model_utils")
        evaluation, testing = import_module("utils.evaluation_utils"), import_module("testing.test")
        general = import_module("utils.general_utils")
        args = main.parse()
        shared = {"device": constants.DEVICE, "imsize": args.imsize, "use_dropout": args.dropout}
        k = constants.LABELS_CHANNELS
        build = model_utils.find_model
        calibration = build(
            "generators", args.calibration_net, n_channels_in=3, n_channels_out=k, n_hidden=64,
            temperature=args.temperature, **shared,
        ).to(constants.DEVICE)  # fmt: skip
        refinement = build(
            "generators", args.generator, n_channels_in=3 + k, n_channels_out=k, z_dim=args.z_dim,
            n_hidden=args.n_hidden_gen, **shared,
        ).to(constants.DEVICE)  # fmt: skip
        discriminator = build(
            "discriminators", args.discriminator, n_channels_in=3 + k, n_hidden=args.n_hidden_dis, **shared
        ).to(constants.DEVICE)
        weights = general.get_loss_weights(args)
        losses = [build("losses", name, **weights) for name in ("TotalGeneratorLoss", "TotalDiscriminatorLoss")]
    training = _training(train, args, calibration, refinement, discriminator, losses)

    def step(images: Tensor, labels: Tensor) -> None:
        training.batch_iteration({"image": images, "label": labels}, b_index=0, total_b_index=0)

    def sample(images: Tensor, n: int) -> Tensor:
        args.n_generator_samples_test = n
        with torch.no_grad():
            found: Tensor = testing.test_forward_pass(images, None, None, refinement, calibration, discriminator, args)[
                3
            ]
        return found

    def scores(samples: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        args.n_generator_samples_test = len(samples)
        ged, _, _, _, matched = evaluation.compute_ged(samples, labels, None, args, return_hungarian=True)
        return ged, matched

    return Official(calibration, refinement, discriminator, step, sample, scores, notes)


def _training(train: ModuleType, args: Namespace, f: nn.Module, g: nn.Module, d: nn.Module, losses: list[Any]) -> Any:
    """Its training process without data loaders, plots and folders, which its constructor wants."""

    def adam(network: nn.Module, rate: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(network.parameters(), lr=rate, betas=args.opt_betas, weight_decay=args.opt_weight_decay)

    process = train.TrainingProcess.__new__(train.TrainingProcess)
    process.args = args
    process.calibration_net, process.generator, process.discriminator = f, g, d
    process.optimizer_dis = adam(d, args.learning_rate_dis)
    process.trainer_calnet = train.Trainer([f], [adam(f, args.learning_rate_cal)])
    process.trainer_gen = train.Trainer([g], [adam(g, args.learning_rate_gen)])
    process.trainer_dis = train.Trainer([d], [process.optimizer_dis])
    process.loss_calnet = train.CalNetLoss(args.CalNetLoss_weight)
    process.loss_gen, process.loss_dis = losses
    process.dataloader_train = [None]  # its length is asked for
    return process


@contextmanager
def _imported_from(path: Path, notes: list[str]) -> Iterator[None]:
    """Imports find the clone, and stand-ins where a package is missing. It looks for its classes where it runs."""
    here, argv = Path.cwd(), sys.argv
    missing = [name for name in ("wandb", "cv2", "imp", "sklearn") if find_spec(name) is None]
    finder = _StandIns(["torchvision", *missing])
    if "sklearn" in missing:
        notes.append("scikit-learn is not installed: a jaccard_score of numpy, much faster, takes its place")
    if not hasattr(nn.init, "kaiming_normal"):
        nn.init.kaiming_normal = nn.init.kaiming_normal_  # type: ignore[attr-defined]
    sys.path.insert(0, str(path.resolve()))
    sys.meta_path.insert(0, finder)
    os.chdir(path)
    sys.argv = ["main.py"]
    try:
        yield
    finally:
        os.chdir(here)
        sys.argv = argv
        sys.meta_path.remove(finder)
        sys.path.remove(str(path.resolve()))
        for name in [name for name in sys.modules if name.split(".")[0] in finder.packages]:
            del sys.modules[name]  # the code has what it took; others must not find them


class _Nothing:
    """Stands for whatever is taken from a missing package and not used in what is timed."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass


class _StandIns(MetaPathFinder, Loader):
    """Empty modules for all of these packages; whatever is asked of them is `_Nothing`, but for what is timed."""

    def __init__(self, packages: list[str]) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in self.packages else None

    def exec_module(self, module: ModuleType) -> None:
        module.__getattr__ = lambda _: _Nothing  # type: ignore[method-assign]
        if module.__name__ == "torchvision.models":
            module.vgg19_bn = _vgg19_bn  # type: ignore[attr-defined]
        if module.__name__ == "sklearn.metrics":
            module.jaccard_score = _jaccard  # type: ignore[attr-defined]


def _vgg19_bn(**_: Any) -> nn.Module:
    layers: list[nn.Module] = []
    inside = 3
    for width in VGG19:
        if not width:
            layers.append(nn.MaxPool2d(2, 2))
            continue
        layers += [nn.Conv2d(inside, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        inside = width
    whole = nn.Module()
    whole.features = nn.Sequential(*layers)
    return whole


def _jaccard(a: Any, b: Any) -> float:
    return float(np.logical_and(a == 1, b == 1).sum() / np.logical_or(a == 1, b == 1).sum())
