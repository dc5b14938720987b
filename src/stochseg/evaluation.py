"""A model against a split: scores with intervals, beside what trivial answers score on the same images."""

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stochseg.card import refresh_card
from stochseg.config import Crop
from stochseg.data.batches import centre_crop_for, check_blackbox, crop_size, in_order
from stochseg.data.store import Split, Store, label_fault, open_store
from stochseg.errors import InputError, OnError
from stochseg.metrics.areas import empty_counts
from stochseg.metrics.calibration import ReliabilityCounts, class_frequencies, reliability_counts
from stochseg.metrics.conventions import Convention, Flip, get_convention
from stochseg.metrics.intervals import bootstrap_totals_interval
from stochseg.metrics.matching import check_counts
from stochseg.metrics.modes import missed_mass, mode_total_variation, nearest_modes
from stochseg.metrics.raters import raters_reference
from stochseg.models.precision import resolve_precision
from stochseg.models.segmenter import Segmenter, class_maps, model_folder
from stochseg.models.weights_file import sum_in
from stochseg.processes import current, joined
from stochseg.progress import say, track
from stochseg.sampling.latents import Draws, latents
from stochseg.scoring.scores import averages, calibration_errors, more_scores, score_maps
from stochseg.scoring.shared import score_shared
from stochseg.scoring.streets import blackbox_right, flip_counts, flip_summary, iou_counts, iou_summary
from stochseg.writable import check_writable

Values = dict[str, NDArray[np.float64]]
BATCH = 32
PIXELS_AT_ONCE = 2**19
"""Pixels of images that are scored at once, however large an image is."""
EXAMPLES = 8
BASELINES = ("all_empty", "argmax", "independent_pixels", "raters")


@dataclass(frozen=True)
class Scores:
    """values: per image [N], by name; baselines: the same per trivial answer; reliability: of the marginals.

    reliability has an entry for each of "q" and "mean" (of the samples) with "top" and "foreground" (`Target`), and one
    of P(empty), ("empty", "top"). Where classes flip, none of them is a background, and "top" is all there is.
    bins: by name, what each image adds to the sums of "top", [N 3 bins]: counts, confidence, accuracy. counts: what each
    image of a store with one label an image adds to the scores of `scoring.streets`, [N ...].
    """

    values: Values
    baselines: dict[str, Values]
    reliability: dict[tuple[str, str], ReliabilityCounts]
    bins: dict[str, NDArray[np.float64]]
    counts: Values


def images_at_once(split: Split, crop: Crop) -> int:
    """How many images of a split are scored at once."""
    h, w = crop_size(crop, (split.images.shape[1], split.images.shape[2]))
    return min(BATCH, max(1, PIXELS_AT_ONCE // (h * w)))


def score_split(
    model: Segmenter,
    split: Split,
    samples: int,
    convention: Convention,
    *,
    crop: Crop,
    ignore: int | None = None,
    flips: Sequence[Flip] | None = None,
    seed: int = 0,
    draws: Draws = "independent",
    rows: Sequence[int] | None = None,
    full: bool = True,
    progress: bool = False,
) -> Scores:
    """Sample every image of a split (or of the rows given) and score the samples against its raters.

    full: also the scores that no convention changes, and what trivial answers score.
    """
    check_counts(samples, split.labels.shape[1], convention.matching)
    k = len(model.classes)
    chosen = list(range(len(split))) if rows is None else list(rows)
    found: defaultdict[str, list[Tensor]] = defaultdict(list)
    trivial: dict[str, defaultdict[str, list[Tensor]]] = {name: defaultdict(list) for name in BASELINES}
    reliability: dict[tuple[str, str], ReliabilityCounts] = {}
    bins: defaultdict[str, list[Tensor]] = defaultdict(list)
    counts_found: defaultdict[str, list[Tensor]] = defaultdict(list)
    size = images_at_once(split, crop)
    judged = bool(
        full and flips and "blackbox" in split.extras
    )  # a store's black box says where flips are to be counted
    batches: Iterable[Any] = in_order(split, size, crop, chosen, model.needs_blackbox or judged)
    if progress:
        batches = track(batches, -(-len(chosen) // size), f"evaluating on {split.name}", "batches")
    done = 0
    for batch in batches:
        numbers = chosen[done : done + len(batch.images)]
        done += len(numbers)
        seen = batch.blackbox if model.needs_blackbox else None
        q = model.probabilities(batch.images, seen).cpu()
        z = latents(seed, numbers, samples, model.latent, draws)
        maps = model.sample(batch.images, z=z, blackbox=seen).cpu()

        def score(answers: Tensor, labels: Tensor = batch.labels) -> dict[str, Tensor]:
            return score_maps(answers, labels, k, convention, ignore, flips)

        _add(found, score(maps))
        _add(found, more_scores(maps, batch.labels, k, ignore, flips) if full else {})
        mean = class_frequencies(maps, k)
        for name, marginals in (("q", q), ("mean", mean)):
            each = reliability_counts(marginals, batch.labels, ignore=ignore, per_image=True, flips=flips)
            bins[name].append(torch.stack([each.counts, each.confidence, each.accuracy], 1))
            sums = {"top": each.sum()}
            if not flips:  # where classes flip, the first one is no background
                sums["foreground"] = reliability_counts(marginals, batch.labels, target="foreground", ignore=ignore)
            for target, counts in sums.items():
                before = reliability.get((name, target))
                reliability[name, target] = counts if before is None else before + counts
        if full and batch.labels.shape[1] == 1:
            _add(counts_found, iou_counts(q, batch.labels, ignore, flips or ()))
        if full and flips:
            right = blackbox_right(batch.blackbox, batch.labels) if judged else None
            _add(counts_found, flip_counts(q, mean, maps, batch.labels, flips, ignore, right))
        if full and not flips:
            each = empty_counts(maps, batch.labels, k, ignore=ignore, per_image=True)
            bins["empty"].append(torch.stack([each.counts, each.confidence, each.accuracy], 1))
            before = reliability.get(("empty", "top"))
            reliability["empty", "top"] = each.sum() if before is None else before + each.sum()
        if full:
            same = (len(maps), samples, *maps.shape[2:])
            empty, likeliest = torch.zeros_like(maps[:, :1]), class_maps(q)[:, None]
            _add(trivial["all_empty"], score(empty.expand(same)))
            _add(trivial["argmax"], score(likeliest.expand(same)))
            _add(trivial["independent_pixels"], score(independent_pixels(q, samples, seed, numbers)))
            ged, hm_iou = raters_reference(batch.labels, samples, k, convention, ignore, flips)
            _add(trivial["raters"], {"ged": ged, "hm_iou": hm_iou})
            if "modes" in split.extras:
                modes, probabilities = modes_of(split, numbers, crop)
                truth = draws_from_modes(modes, probabilities, samples, seed, numbers)
                _add(found, mode_scores(maps, modes, probabilities, k, ignore))
                _add(
                    trivial.setdefault("truth", defaultdict(list)),
                    score(truth) | mode_scores(truth, modes, probabilities, k, ignore),
                )
    return Scores(
        _gather(found),
        {name: _gather(v) for name, v in trivial.items() if v},
        reliability,
        {name: torch.cat(rows).double().numpy() for name, rows in bins.items()},
        _gather(counts_found),
    )


def independent_pixels(q: Tensor, n: int, seed: int, numbers: Sequence[int]) -> Tensor:
    """Maps uint8 [b n h w] whose pixels are drawn from q [b k h w] on their own: calibrated, and not coherent."""
    b, _, h, w = q.shape
    draws = np.stack([np.random.default_rng([seed, i, 1]).random((n, h, w), dtype=np.float32) for i in numbers])
    steps = q.float().cumsum(1)[:, None, :-1]  # [b 1 k-1 h w]
    return (torch.from_numpy(draws)[:, :, None] >= steps).sum(2).to(torch.uint8).reshape(b, n, h, w)


def modes_of(split: Split, numbers: Sequence[int], crop: Crop) -> tuple[Tensor, Tensor]:
    """Modes uint8 [b m h w] and their probabilities [b m] of images whose exact distribution a store holds."""
    maps = torch.from_numpy(np.stack([split.extras["modes"][i] for i in numbers]))
    p = torch.from_numpy(np.stack([split.extras["mode_probabilities"][i] for i in numbers])).double()
    h, w = maps.shape[-2:]
    ch, cw = crop_size(crop, (h, w))
    top, left = (h - ch) // 2, (w - cw) // 2
    return maps[..., top : top + ch, left : left + cw], p / p.sum(1, keepdim=True)


def draws_from_modes(modes: Tensor, probabilities: Tensor, n: int, seed: int, numbers: Sequence[int]) -> Tensor:
    """Maps uint8 [b n h w] drawn from the exact distribution: the best reachable answer."""
    picks = [
        np.random.default_rng([seed, i, 2]).choice(len(p), n, p=p / p.sum())
        for i, p in zip(numbers, probabilities.numpy(), strict=True)
    ]
    return torch.stack([of_image[torch.from_numpy(pick)] for of_image, pick in zip(modes, picks, strict=True)])


def mode_scores(maps: Tensor, modes: Tensor, probabilities: Tensor, k: int, ignore: int | None) -> dict[str, Tensor]:
    """How the samples [b n h w] spread over the modes of their images, each [b]."""
    nearest = nearest_modes(maps, modes, k, ignore)
    return {
        "mode_total_variation": mode_total_variation(nearest.frequencies(), probabilities),
        "missed_mass": missed_mass(nearest.frequencies(), probabilities),
        "off_mode_share": nearest.off_share(),
    }


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
    limit: int | None = None,
    verify: bool = False,
    calibration: nn.Module | None = None,
    blackbox: Callable[..., Any] | None = None,
    on_error: OnError = "stop",
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
        limit: score this many images, spread over the split, instead of all.
        verify: read the whole store first and compare its sha256.
        calibration: the calibration module, where the model was built with one of its own.
        blackbox: the segmenter that the model was built on; default: its predictions in the store.
        on_error: at an image whose labels cannot be used: stop, or skip, which lists each with its reason and ends with
            exit code 3.
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
        "convention": rule.name,
        "flips": None if flips is None else [[*flip] for flip in flips],
        "split_images": len(chosen),
        "skipped": len(skipped),
        "skipped_images": skipped,
        "seconds": seconds,
        "seed": seed,
        "precision": str(resolve_precision(precision, model.device)).removeprefix("torch."),
        "temperature": model.temperature,
        "blackbox": None if not model.takes_blackbox else "store" if model.needs_blackbox else "live",
        "limit": limit,
        "group_name": store.group_name,
        "store": store.path.name,
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
        before = json.loads(file.read_text())
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


def spread(count: int, limit: int) -> list[int]:
    """`limit` rows evenly over `count`."""
    return [int(i) for i in np.unique(np.linspace(0, count - 1, min(limit, count)).round())]


def _add(lists: defaultdict[str, list[Tensor]], values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        lists[name].append(value.double())


def _gather(lists: dict[str, list[Tensor]]) -> Values:
    return {name: torch.cat(values).numpy() for name, values in lists.items()}


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(np.nanmean(values)) if not np.isnan(values).all() else None
