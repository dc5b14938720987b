"""A run: from a config and a store to a directory that holds everything."""

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import yaml

from stochseg.config import Config, flatten, load_config, read_preset, to_plain
from stochseg.data.batches import check_crop
from stochseg.data.store import Split, Store, open_store
from stochseg.errors import InputError
from stochseg.models.car import CAR
from stochseg.models.precision import resolve_device
from stochseg.progress import say
from stochseg.training.checkpoint import write_tensors

FREE_ON_RESUME = (
    "minutes",
    "steps",
    "epochs",
    "device",
    "training.save_every",
    "training.tensorboard",
    "training.wandb",
)
"""What a resumed run may set anew; anything else would make it another run."""


def train(
    model: CAR | None = None,
    data: str | Path = "",
    out: str | Path | None = None,
    config: str = "lidc",
    resume: bool = False,
    **overrides: Any,
) -> Path:
    """Train on a store and return the run directory.

    model: what to train; None builds the networks that the config describes. data: the store. out: the run directory,
    by default runs/DATE_TIME_PRESET. config: preset name or YAML file. resume: go on in `out` where it stopped.
    overrides: config keys by dotted name, such as minutes=20 or **{"training.batch": 8}.
    Raises InputError for what cannot be used and RunError where a loss is not finite.
    """
    from stochseg.evaluation import check_fit
    from stochseg.training.loop import run_training

    preset = Path(config).stem
    run = Path(out) if out else Path("runs") / f"{time.strftime('%Y-%m-%d_%H%M%S')}_{preset}"
    settings = _config_to_resume(run, overrides) if resume else load_config(config, overrides)
    store = open_store(data)
    split = store.split("train")
    for checked in (split, store.split(settings.validation.split)):
        check_crop(checked, settings.input.crop)
    if model is None:
        model = build_model(settings, store, split)
    else:
        check_fit(model, store)
        settings = dataclasses.replace(settings, **model.configs())
    model.to(resolve_device(settings.device))
    if not resume:
        _start(run, settings)
    say(f"{'resuming' if resume else 'training'} in {run}: {len(split)} images, {describe(model)}")
    run_training(model, store, run, settings, resume and (run / "checkpoint").is_dir())
    return run


def build_model(config: Config, store: Store, split: Split) -> CAR:
    """The networks that a config describes, for the images and classes of a store."""
    h, w, channels = split.images.shape[1:]
    size = (config.input.crop, config.input.crop) if config.input.crop else (h, w)
    return CAR(
        store.classes,
        channels,
        size,
        config.calibration,
        config.refinement,
        config.discriminator if config.objective.adversarial else None,
        seed=config.seed,
        precision=config.precision,
    )


def describe(model: CAR) -> str:
    counts = {name: sum(p.numel() for p in net.parameters()) for name, net in model.networks.items()}
    return ", ".join(f"{name} {count / 1e6:.2f} M parameters" for name, count in counts.items())


def crop_of(model: CAR, split: Split) -> int | None:
    """The centre crop that makes this split's images the size the model was trained on; None where they have it."""
    h, w = split.images.shape[1:3]
    if (h, w) == model.size or min(h, w) < min(model.size):
        return None
    return model.size[0] if model.size[0] == model.size[1] else None


def keep_model(model: CAR, run: Path, step: int, images: int, values: dict[str, float]) -> None:
    """Put the model into RUN/model, each file whole: config.json never changes in a run, the weights are replaced."""
    folder = run / "model"
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "model.safetensors.partial"
    write_tensors(partial, dict(model.networks.state_dict()), {"step": str(step)})
    for name, text in (
        ("config.json", json.dumps(model.facts(), indent=1)),
        ("README.md", _card(model, step, images, values)),
    ):
        (folder / f"{name}.partial").write_text(text)
        os.replace(folder / f"{name}.partial", folder / name)
    os.replace(partial, folder / "model.safetensors")


def _card(model: CAR, step: int, images: int, values: dict[str, float]) -> str:
    names = ", ".join(c.name for c in model.classes)
    return (
        f"# A stochseg model\n\nSamples segmentations ({names}) of images with {model.channels} channel(s), trained at "
        f"{model.size[0]}x{model.size[1]} pixels for {step} steps.\n\nOn {images} images of the validation split it was "
        f"chosen on: GED {values['ged']:.3f}, matched IoU {values['hm_iou']:.3f}. Scores on images that took no part "
        "in the choice: `stochseg evaluate`.\n\n"
        "    model = stochseg.CAR.load(FOLDER)\n    maps = model.sample(images, n=16)  # images float [b c h w] in [-1, 1]\n\n"
        "For research. Not a medical device, not for clinical use.\n"
    )


def _start(run: Path, config: Config) -> None:
    if run.exists() and any(run.iterdir()):
        raise InputError(f"--out {run}: is not empty; go on there with --resume, or choose another directory")
    try:
        run.mkdir(parents=True, exist_ok=True)
        (run / "config.yaml").write_text(yaml.safe_dump(to_plain(config), sort_keys=False))
    except OSError as error:
        raise InputError(f"--out {run}: cannot be written ({error.strerror}); choose another directory") from error


def _config_to_resume(run: Path, overrides: dict[str, Any]) -> Config:
    """The config of a run, with what may be set anew; InputError for what may not."""
    file = run / "config.yaml"
    if not file.is_file():
        raise InputError(f"--resume: {run} holds no run to go on with; start without --resume")
    before = flatten(read_preset(str(file)))
    for name, value in overrides.items():
        if name not in FREE_ON_RESUME and flatten(to_plain(load_config(str(file), {name: value}))) != flatten(
            to_plain(load_config(str(file)))
        ):
            raise InputError(f"--resume: {name} was {before.get(name)} in {run}; leave it, or start a new run")
    return load_config(str(file), overrides)
