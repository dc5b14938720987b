"""A run: from a config and a store to a directory that holds everything."""

import dataclasses
import json
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from stochseg import card
from stochseg.baselines.baseline import Baseline
from stochseg.card import Origin
from stochseg.config import BUDGETS, Config, to_plain
from stochseg.data.batches import check_blackbox, check_crop, crop_size
from stochseg.data.pixel_files import as_windows
from stochseg.data.store import Store, open_store
from stochseg.denormals import without_denormals
from stochseg.determinism import only_deterministic
from stochseg.errors import InputError, NotFinite, SaidElsewhere
from stochseg.metrics.conventions import get_convention
from stochseg.models.calibrated import forget_calibrated
from stochseg.models.car import CAR
from stochseg.models.methods import method_class
from stochseg.models.model_files import load_weights
from stochseg.models.saved import facts_of
from stochseg.models.segmenter import Segmenter
from stochseg.presets import load_config
from stochseg.processes import World, joined
from stochseg.progress import say
from stochseg.training.checkpoint import has_checkpoint, read_numbers, write_tensors
from stochseg.training.distributed import check_same, check_shares
from stochseg.training.log import check_loggers
from stochseg.training.run_config import begun, config_to_resume
from stochseg.wording import counted

FREE_ON_RESUME = (
    *BUDGETS,
    "device",
    "training.save_every",
    "training.tensorboard",
    "training.wandb",
    "training.clip",
    "training.timeout",
    "training.workers",
)
"""What a resumed run may set anew, beside learning rates; anything else would make it another run."""


@without_denormals()
def train(
    model: Segmenter | None = None,
    data: str | Path = "",
    out: str | Path | None = None,
    config: str | None = None,
    resume: bool = False,
    verify: bool = False,
    profile: bool = False,
    **overrides: Any,
) -> Path:
    """Train on a store and return the run directory.

    model: what to train; None builds the networks that the config describes. It holds the best weights afterwards.
    data: the store. out: the run directory, by default runs/DATE_TIME_PRESET. config: preset name or YAML file, by
    default lidc. resume: go on in `out` where it stopped. verify: read the whole store first and compare its sha256.
    profile: write RUN/profile.json, which says where the time of a step goes.
    overrides: config keys by dotted name, such as minutes=20 or **{"training.batch": 8}.
    Under a launcher of several processes (docs/distributed.md) all call it alike, and share each batch.
    Raises InputError for what cannot be used, RunError where a loss is not finite, Stopped after a signal.
    """
    preset = Path(config or "lidc").stem
    run = Path(out) if out else Path("runs") / f"{time.strftime('%Y-%m-%d_%H%M%S')}_{preset}"
    if resume:
        settings = config_to_resume(run, config, overrides, load_config, _is_free)
    else:
        settings = load_config(config or "lidc", overrides)
    with joined(settings.training.timeout) as world:
        return _train(model, data, world.of_first(run), settings, resume, verify, profile, world)


def _train(
    model: Segmenter | None,
    data: str | Path,
    run: Path,
    settings: Config,
    resume: bool,
    verify: bool,
    profile: bool,
    world: World,
) -> Path:
    from stochseg.training.loop import run_training

    with world.as_one():
        store, trained, settings = _prepared(model, data, settings, verify, world)
        resume_state = resume and has_checkpoint(run / "checkpoint")
        numbers = read_numbers(run / "checkpoint") if resume_state else {}
        if resume_state:
            _check_resumed(run, numbers, store, world)
    check_same(
        world, {"config": to_plain(settings), "store": store.fingerprint, "checkpoint": numbers.get("step", "none")}
    )
    with ExitStack() as held:
        with world.as_one():
            if world.first:
                held.enter_context(begun(run, to_plain(settings), resume))
        say(f"{'resuming' if resume else 'training'} in {run}: {len(store.split('train'))} images, {describe(trained)}")
        try:
            with only_deterministic(settings.deterministic):
                run_training(trained, store, run, settings, resume_state, world, profile)
        except NotFinite:  # losses are those of all processes, so all are here, and one says it
            if world.first:
                raise
            raise SaidElsewhere(bad_input=False) from None
        world.wait()
    if model is not None:
        load_weights(model.networks, run / "model" / "model.safetensors")
    return run


def _prepared(
    model: Segmenter | None, data: str | Path, settings: Config, verify: bool, world: World
) -> tuple[Store, Segmenter, Config]:
    """The store, what is to be trained on it, and the config that says so; InputError where they do not fit."""
    from stochseg.evaluation import check_fit

    check_shares(world, settings.training.batch, settings.training.accumulate)
    store = open_store(data, verify)
    get_convention(store.convention)
    split = store.split("train")
    judged_on = store.split(settings.validation.split)
    for checked in (split, judged_on):
        check_crop(checked, settings.input.crop)
    size = crop_size(
        None if settings.input.whole else settings.input.crop, (split.images.shape[1], split.images.shape[2])
    )
    trained: Segmenter
    if model is None:
        trained = build_model(settings, store, split.images.shape[3], size)
    else:
        trained = model
        check_fit(model, store)
        own = [name for name, built in model.configs().items() if built != getattr(settings, name)]
        if own:
            say(f"{' and '.join(own)}: as the model was built, not as the config describes")
        settings = _with_blackbox_of(model, dataclasses.replace(settings, **model.configs()))
        if isinstance(model, CAR):
            _check_discriminator(model, settings, size)
        model.size = size
    trained.windows = as_windows(store.notes.get("windows"))
    for checked in (split, judged_on):
        check_blackbox(checked, settings.input.blackbox)
    if isinstance(trained, CAR) and settings.input.blackbox:
        trained.soft_blackbox = split.extras["blackbox"].ndim == 4
    trained.to(world.device(settings.device))
    check_loggers(settings)
    trained.calibrated = None  # what was measured of a model before does not hold for the weights to come
    trained.orientations = 1  # as it will be loaded
    return store, trained, settings


def _check_resumed(run: Path, numbers: dict[str, Any], store: Store, world: World) -> None:
    """InputError where a run would go on with another store, or on other processes."""
    if numbers["store"] != store.fingerprint:
        raise InputError(f"--data {store.path}: not the store that {run} was trained on; give that one, or start anew")
    before = numbers.get("processes", 1)
    if before != world.size:
        raise InputError(
            f"--resume: {run} was trained by {counted(before, 'process')}, and this is {counted(world.size, 'process')}; "
            "sums would round differently: start as many as before, or a new run"
        )


def build_model(config: Config, store: Store, channels: int, size: tuple[int, int]) -> Segmenter:
    """The networks that a config describes, for the classes of a store and images of these channels and this size."""
    channels = 3 if config.input.grey_as_rgb and channels == 1 else channels
    kind = method_class(config.method)
    if issubclass(kind, Baseline):
        return kind(store.classes, channels, size, config.baseline, config.seed, config.precision)
    return CAR(
        store.classes,
        channels,
        size,
        config.calibration,
        config.refinement,
        config.discriminator if config.objective.adversarial else None,
        seed=config.seed,
        precision=config.precision,
        blackbox="saved" if config.input.blackbox else None,
    )


def _with_blackbox_of(model: Segmenter, config: Config) -> Config:
    """The config that feeds the store's black box to a model that needs it; InputError where it would to one without."""
    if config.input.blackbox and not model.takes_blackbox:
        raise InputError(
            "--input.blackbox true: the model was built without a black box; build it with CAR(blackbox='saved'), or set "
            "input.blackbox to false"
        )
    return dataclasses.replace(config, input=dataclasses.replace(config.input, blackbox=model.needs_blackbox))


def _check_discriminator(model: CAR, config: Config, size: tuple[int, int]) -> None:
    """InputError where a model of the user's own lacks the discriminator that this config trains against, or its size."""
    if config.objective.adversarial and model.discriminator is None:
        raise InputError(
            "this config trains against a discriminator and the model has none; give CAR(discriminator=...), or set "
            "objective.adversarial to 0"
        )
    if model.discriminator is not None and getattr(model.discriminator, "size", size) != size:
        raise InputError(
            f"the model's discriminator takes {model.size} pixels, training has {size}; set CAR(size={size})"
        )


def describe(model: Segmenter) -> str:
    counts = {name: sum(p.numel() for p in net.parameters()) for name, net in model.networks.items()}
    return ", ".join(f"{name} {count / 1e6:.2f} M parameters" for name, count in counts.items())


def keep_model(model: Segmenter, run: Path, step: int, origin: Origin | None = None) -> None:
    """Put the model into RUN/model, each file whole: config.json never changes in a run, the weights are replaced.

    What `stochseg calibrate` measured of the weights before goes with them: it does not hold for these.
    """
    folder = run / "model"
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "model.safetensors.partial"
    write_tensors(partial, dict(model.networks.state_dict()), {"step": str(step)})
    for name, text in (
        ("config.json", json.dumps(facts_of(model), indent=1)),
        (card.NAME, card.new_card(model, origin)),
    ):
        (folder / f"{name}.partial").write_text(text)
        os.replace(folder / f"{name}.partial", folder / name)
    forget_calibrated(folder)
    os.replace(partial, folder / "model.safetensors")


def _is_free(name: str) -> bool:
    return name in FREE_ON_RESUME or (name.startswith("phases.") and name.endswith(".lr"))
