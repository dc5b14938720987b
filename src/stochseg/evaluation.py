"""A model against a split: scores with intervals, beside what trivial answers score on the same images."""

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stochseg.card import refresh_card
from stochseg.config import Crop
from stochseg.data.batches import centre_crop_for, check_blackbox, crop_size, in_order
from stochseg.data.reading import parse_json
from stochseg.data.store import Split, Store, label_fault, open_store
from stochseg.determinism import deterministic_if_asked
from stochseg.errors import InputError, OnError
from stochseg.metrics.conventions import get_convention
from stochseg.metrics.intervals import bootstrap_totals_interval
from stochseg.models.model_files import model_folder
from stochseg.models.precision import precision_name
from stochseg.models.segmenter import Segmenter
from stochseg.models.weights_file import sum_in
from stochseg.processes import current, joined
from stochseg.progress import say
from stochseg.sampling.latents import Draws, latents
from stochseg.sampling.orientations import Orientations
from stochseg.scoring.scores import averages, calibration_errors
from stochseg.scoring.shared import score_shared
from stochseg.scoring.split_scores import Scores, images_at_once, score_split, spread
from stochseg.scoring.streets import flip_summary, iou_summary
from stochseg.writable import check_writable

EXAMPLES = 8


@deterministic_if_asked
@joined()
def evaluate(
    run: str | Path,
    data: str | Path,
    split: str = "test",
    samples: int = 16,
    convention: str | None = None,
    seed: int = 0,
    precision: str = "auto",
    device: str = "auto",
    draws: Draws = "independent",
    orientations: Orientations = 1,
    limit: int | None = None,
    verify: bool = False,
    calibration: nn.Module | None = None,
    blackbox: Callable[..., Any] | None = None,
    on_error: OnError = "stop",
    deterministic: bool = False,
) -> dict[str, Any]:
    """Score a run on a split and write RUN/evaluation/SPLIT.json and SPLIT.npz; returns what the former holds.

    Several processes (docs/distributed.md) share the images; the numbers are those of one, to the last bit.

    Args:
        run: run directory or exported model.
        data: the store.
        split: which split of the store.
        samples: samples of an image.
        convention: how scores are counted: car, car-cityscapes, kohl, phiseg, ssn, ccdm, mose, mose-cityscapes,
            flow-ssn, d-persona or values; default: the store's own.
        seed: of the samples.
        precision: auto, float32 or bfloat16.
        device: auto, cpu, cuda, ...
        draws: independent, or stratified: samples spread evenly over the noise, whose scores are no scores of draws and
            go apart, to RUN/evaluation/SPLIT_stratified.json.
        orientations: draw each sample in one of 1, 2 (mirrored too) or 8 (turned too) orientations of its image, for models
            whose training mirrored and turned; such scores go apart too, to RUN/evaluation/SPLIT_8_orientations.json.
        limit: score this many images, spread over the split, instead of all.
        verify: read the whole store first and compare its sha256.
        calibration: the calibration module, where the model was built with one of its own.
        blackbox: the segmenter that the model was built on; default: its predictions in the store.
        on_error: at an image whose labels cannot be used: stop, or skip, which lists each with its reason and ends with
            exit code 3.
        deterministic: on a GPU, none but deterministic algorithms; a CPU needs none of it.
    """
    run, data = Path(run), Path(data)
    world = current()
    with world.as_one():
        for flag, value, least in (("samples", samples, 1), ("limit", limit, 1), ("seed", seed, 0)):
            if value is not None and value < least:
                raise InputError(f"--{flag} {value}: must be at least {least}")
        store = open_store(data, verify, some_labels=False)
        chosen = store.split(split)
        weights = sum_in(model_folder(run) / "model.safetensors")
        model = Segmenter.load(run, precision, world.device(device), calibration, blackbox)
        model.orientations = orientations
        check_fit(model, store)
        check_blackbox(chosen, model.needs_blackbox)
        flips = store.flips or None
        rule = get_convention(convention or store.convention, flips is not None)
        if rule.counted == "flips" and flips is None:
            raise InputError(
                f"--convention {rule.name}: counts the classes that flip; flips come from the store, and {data} has none; "
                "take another, such as ccdm"
            )
        crop = centre_crop_for(model.size, chosen)
        folder = run / "evaluation"
        check_writable(folder, str(folder))
        folder.mkdir(parents=True, exist_ok=True)
        rows = list(range(len(chosen))) if limit is None else spread(len(chosen), limit)
        rows, skipped = _usable(store, chosen, rows, on_error)
    name = split if draws == "independent" else f"{split}_{draws}"
    name += f"_{orientations}_orientations" if orientations > 1 else ""
    _say_replaced(folder / f"{name}.json", len(rows), rule.name)
    start = time.monotonic()
    scores = score_shared(
        world,
        rows,
        images_at_once(chosen, crop),
        lambda some: score_split(
            model,
            chosen,
            samples,
            rule,
            crop=crop,
            ignore=store.ignore,
            flips=flips,
            seed=seed,
            draws=draws,
            rows=some,
            progress=True,
        ),
    )
    seconds = time.monotonic() - start
    with world.as_one():
        store.check_unchanged()
    arrays: dict[str, NDArray[Any]] = {"ids": np.array(chosen.ids)[rows], "groups": np.array(chosen.groups)[rows]}
    result = summary(scores, arrays["groups"])
    if "overlaps" in scores.counts:
        result |= iou_summary(scores.counts, store.classes, arrays["groups"])
    if flips is not None:
        right = "the black box" if "blackbox" in chosen.extras else "q"
        result |= flip_summary(scores.counts, flips, store.classes, arrays["groups"], samples, right)
    result |= {
        "split": split,
        "samples": samples,
        "draws": draws,
        "orientations": orientations,
        "convention": rule.name,
        "flips": None if flips is None else [[*flip] for flip in flips],
        "split_images": len(chosen),
        "skipped": len(skipped),
        "skipped_images": skipped,
        "seconds": seconds,
        "seed": seed,
        "precision": precision_name(precision, model.device),
        "temperature": model.temperature,
        "blackbox": None if not model.takes_blackbox else "store" if model.needs_blackbox else "live",
        "limit": limit,
        "group_name": store.group_name,
        "store": store.path.name,
        "store_fingerprint": store.fingerprint,
        "size": [*crop_size(crop, (chosen.images.shape[1], chosen.images.shape[2]))],
        "weights": weights,
        "raters_per_image": store.raters,
    }
    arrays |= scores.values | scores.counts
    arrays |= {f"{name}_{key}": value for name, values in scores.baselines.items() for key, value in values.items()}
    if not world.first:
        return result
    _write_arrays(folder / f"{name}_examples.npz", examples(model, chosen, scores, samples, crop, seed, rows, draws))
    _write_arrays(folder / f"{name}.npz", arrays)
    partial = folder / f"{name}.json.partial"
    partial.write_text(json.dumps(result, indent=1))
    os.replace(partial, folder / f"{name}.json")
    refresh_card(run, model_folder(run))
    return result


def _say_replaced(file: Path, images: int, convention: str) -> None:
    """Say what is about to be replaced where it is of more images, or counts another way."""
    try:
        before = parse_json(file.read_text())
        replaced = before["images"], before["convention"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # nothing there, or nothing that anyone could still use
    if replaced[0] > images or replaced[1] != convention:
        say(
            f"{file}: an evaluation of {images:,} images with convention {convention} replaces that of {replaced[0]:,} "
            f"with {replaced[1]}"
        )


def _write_arrays(file: Path, arrays: dict[str, NDArray[Any]]) -> None:
    partial = file.with_suffix(".partial")
    with partial.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    os.replace(partial, file)


def summary(scores: Scores, groups: NDArray[Any]) -> dict[str, Any]:
    """Means, 95 % intervals over groups, calibration errors, and the baselines' means, as plain numbers."""
    result = {"hm_iou": None} | averages(scores.values, groups)  # a source may have no matched IoU
    several = len(np.unique(groups)) > 1
    for name, target in scores.reliability:
        if target == "top":
            result[f"ece_{name}"] = float(scores.reliability[name, target].error())
            result[f"ece_{name}_interval"] = (
                list(bootstrap_totals_interval(scores.bins[name], groups, calibration_errors)) if several else None
            )
    shown = "foreground" if ("q", "foreground") in scores.reliability else "top"
    result["reliability_of"] = shown
    for name in ("q", "mean"):
        counts = scores.reliability[name, shown]
        confidence, frequency = counts.curve()
        used = counts.counts > 0
        result[f"reliability_{name}"] = {
            "confidence": confidence[used].tolist(),
            "frequency": frequency[used].tolist(),
            "pixels": counts.counts[used].tolist(),
        }
    result["baselines"] = {
        name: {key: _mean(values[key]) for key in values if key != "raters_diversity"}
        for name, values in scores.baselines.items()
    }
    return result


def examples(
    model: Segmenter,
    split: Split,
    scores: Scores,
    samples: int,
    crop: Crop,
    seed: int,
    rows: Sequence[int],
    draws: Draws = "independent",
) -> dict[str, NDArray[Any]]:
    """A few images with their samples for the report: from the best GED to the worst, at even steps."""
    ged = np.nan_to_num(scores.values["ged"], nan=np.inf)
    order = np.argsort(ged, kind="stable")
    places = order[np.unique(np.linspace(0, len(order) - 1, EXAMPLES + 2).astype(int)[1:-1])]
    numbers = [int(rows[p]) for p in places]
    batch = next(iter(in_order(split, len(numbers), crop, numbers, model.needs_blackbox)))
    z = latents(seed, numbers, samples, model.latent, draws)
    maps = model.sample(batch.images, z=z, blackbox=batch.blackbox)
    return {
        "ids": np.array([split.ids[i] for i in numbers]),
        "ged": ged[places],
        "images": ((batch.images + 1) * 127.5).round().to(torch.uint8).numpy(),
        "labels": batch.labels.numpy(),
        "samples": maps.cpu().numpy(),
        "q": model.probabilities(batch.images, batch.blackbox).cpu().numpy().astype(np.float16),
    }


def _usable(store: Store, split: Split, rows: Sequence[int], on_error: OnError) -> tuple[list[int], dict[str, str]]:
    """The rows whose labels can be scored, and what is wrong with the other images, by id; InputError at the first of
    those, or where no row is left."""
    usable: list[int] = []
    skipped: dict[str, str] = {}
    for row in rows:
        fault = label_fault(split.labels[row], len(store.classes))
        if fault is None:
            usable.append(row)
            continue
        skipped[split.ids[row]] = fault
        where = f"{store.path}: split '{split.name}', image '{split.ids[row]}' {fault}"
        if on_error == "stop":
            raise InputError(f"{where} (--on-error skip leaves it out)")
        say(f"left out: {where}")
    if not usable:
        raise InputError(f"{store.path}: split '{split.name}' holds no image that can be scored; prepare it again")
    return usable, skipped


def check_fit(model: Segmenter, store: Store) -> None:
    """InputError where model and store do not belong together."""
    if len(model.classes) != len(store.classes):
        raise InputError(
            f"{store.path}: has {len(store.classes)} classes, the model {len(model.classes)}; use its own store"
        )
    channels = next(iter(store.splits.values())).images.shape[3]
    if channels != model.channels and (channels, model.channels) != (1, 3):
        raise InputError(f"{store.path}: images have {channels} channels, the model takes {model.channels}")


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(np.nanmean(values)) if not np.isnan(values).all() else None
