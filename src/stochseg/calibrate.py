"""A trained model against raters it has not seen: temperatures of q, and sets that cover a new outline as often as asked.

The split is cut in two by group (patient). Everything is fitted on one half and measured on the other; what is kept is
what was fitted on the one half, so that the measured numbers are about exactly that.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from yaml import safe_load

from stochseg.card import refresh_card
from stochseg.config import Crop
from stochseg.data.batches import Batch, centre_crop_for, crop_size, in_order
from stochseg.data.splits import split_by_group
from stochseg.data.store import Split, open_store
from stochseg.errors import InputError
from stochseg.evaluation import check_fit
from stochseg.metrics import (
    ReliabilityCounts,
    bootstrap_interval,
    generalized_energy_distance,
    negative_log_likelihood,
    reliability_counts,
)
from stochseg.metrics.coverage import conformal_level, coverage_order, covered_shares, covering_levels
from stochseg.models.calibrated import NAME, Calibrated, Coverage
from stochseg.models.car import CAR
from stochseg.models.model_files import model_folder
from stochseg.models.precision import precision_name, resolve_device
from stochseg.models.segmenter import load
from stochseg.models.temperature import check_temperature, fit_temperature
from stochseg.progress import say, track
from stochseg.sampling.latents import latents
from stochseg.scoring.split_scores import spread
from stochseg.wording import counted
from stochseg.writable import check_writable

Values = NDArray[np.float64]
BATCH = 32
ELEMENTS = 2**22
"""Numbers, pixels times classes, that the temperatures are fitted on: 32 MiB of float64. More pixels are drawn from."""
FLOOR = 1e-12
"""Probabilities below this count as this in likelihoods."""


@dataclass(frozen=True)
class _Images:
    """The images that a step works on: rows of a split, cropped as the model was trained, with what sampling needs."""

    split: Split
    rows: list[int]
    crop: Crop
    ignore: int | None
    convention: str
    samples: int
    seed: int
    blackbox: bool

    def groups(self) -> NDArray[Any]:
        return np.array(self.split.groups)[self.rows]

    def batches(self, what: str) -> Iterator[tuple[list[int], Batch]]:
        """Rows and images of each batch."""
        count = -(-len(self.rows) // BATCH)
        batches = in_order(self.split, BATCH, self.crop, self.rows, self.blackbox)
        for i, batch in enumerate(track(batches, count, what, "batches")):
            yield self.rows[i * BATCH : (i + 1) * BATCH], batch

    def latents(self, rows: Sequence[int], length: int) -> Tensor:
        return latents(self.seed, rows, self.samples, length)


@dataclass(frozen=True)
class _Judged:
    """How good q and the samples are: per image [N] and, for the calibration error, in all."""

    nll: Values
    ged: Values
    ece: float


@dataclass(frozen=True)
class _Covered:
    """levels: [N r k], the covering level of each outline; empty: bool [N r k]; areas, unions: [N k], pixels of the
    sets at the levels asked about, and of the pixels inside at least one sample; outlines: [N r k], pixels."""

    levels: Values
    empty: NDArray[np.bool_]
    outlines: Values
    areas: Values
    unions: Values
    pixels: int


def calibrate(
    run: str | Path,
    data: str | Path,
    split: str = "val",
    coverage: float = 0.9,
    samples: int = 16,
    share: float = 1.0,
    temperature: bool = True,
    seed: int = 0,
    precision: str = "auto",
    device: str = "auto",
    limit: int | None = None,
    verify: bool = False,
    calibration: nn.Module | None = None,
    blackbox: Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """Fit temperatures and coverage levels on half of a split's patients, measure them on the others, and store them.

    They go into calibration.json beside the model's weights, where `load` finds them; returns what that file holds as
    its record. Running it again starts from the model as it was trained.

    Args:
        run: run directory or exported model.
        data: the store.
        split: which split of the store; one that took no part in training.
        coverage: probability with which a set is to cover a new rater's outline.
        samples: samples of an image that the sets are made of; the levels hold for this number alone.
        share: part of an outline's pixels that must lie inside for it to be covered.
        temperature: fit temperatures; `--temperature false` leaves q as it is.
        seed: of the halves and of the samples.
        precision: auto, float32 or bfloat16.
        device: auto, cpu, cuda, ...
        limit: work on this many images, spread over the split, instead of all.
        verify: read the whole store first and compare its sha256.
        calibration: the calibration module, where the model was built with one of its own.
        blackbox: the segmenter that the model was built on; default: its predictions in the store.
    """
    start, run = time.monotonic(), Path(run)
    for flag, value, least in (("samples", samples, 1), ("limit", limit, 2), ("seed", seed, 0)):
        if value is not None and value < least:
            raise InputError(f"--{flag} {value}: must be at least {least}")
    if not 0 < coverage < 1:
        raise InputError(f"--coverage {coverage}: must be between 0 and 1, such as 0.9")
    if not 0 < share <= 1:
        raise InputError(f"--share {share}: must be above 0 and at most 1")
    store = open_store(data, verify)
    chosen = store.split(split)
    if store.flips:
        raise InputError(f"{store.path}: has classes that flip at random, which its labels do not show; not supported")
    folder = model_folder(run)
    model = load(run, precision, resolve_device(device), calibration, blackbox)
    if not isinstance(model, CAR):
        raise InputError(
            f"{run}: is of the method {model.method}; what is calibrated are models of the method {CAR.method}"
        )
    check_fit(model, store)
    check_writable(folder, str(folder))
    _say_of_training(run, split)
    earlier, model.calibrated = model.calibrated, None
    rows = list(range(len(chosen))) if limit is None else spread(len(chosen), limit)
    crop = centre_crop_for(model.size, chosen)
    size = crop_size(crop, (chosen.images.shape[1], chosen.images.shape[2]))
    fit, held_out = (
        _Images(chosen, half, crop, store.ignore, store.convention, samples, seed, model.needs_blackbox)
        for half in _halves(chosen, rows, seed, store.group_name)
    )
    record: dict[str, Any] = {
        "store": store.path.name,
        "store_sha256": store.fingerprint,
        "split": split,
        "group_name": store.group_name,
        "probability": coverage,
        "share": share,
        "samples": samples,
        "size": list(size),
        "seed": seed,
        "limit": limit,
        "precision": precision_name(precision, model.device),
        "fit": {"images": len(fit.rows), "groups": len(np.unique(fit.groups()))},
        "held_out": {"images": len(held_out.rows), "groups": len(np.unique(held_out.groups()))},
        "temperature": None,
    }
    if temperature:
        record["temperature"] = _choose_temperature(model, fit, held_out)
    levels, record["coverage"] = _choose_levels(model, fit, held_out, coverage, share, store.group_name)
    record["seconds"] = time.monotonic() - start
    Calibrated(model.temperature, Coverage(levels, samples, coverage, share, size), record).write(folder)
    refresh_card(run, folder)
    say(
        f"kept in {folder / NAME}{', in place of an earlier calibration' if earlier else ''}; `sample`, `evaluate` and "
        "CAR.load use it from now on"
    )
    return record


def _say_of_training(run: Path, split: str) -> None:
    """Warn of a split that took part in training; note one that the model was chosen on."""
    if split == "train":
        say(
            "--split train: the model was trained on it, so that what is fitted and measured does not hold for new images"
        )
    config = run / "config.yaml"
    validation = (safe_load(config.read_text()) or {}).get("validation", {}) if config.is_file() else {}
    if validation.get("split") == split and validation.get("select") == "ged":
        say(
            f"--split {split}: the model was chosen on it, so that numbers are a little too good; a third split is better"
        )


def _halves(split: Split, rows: Sequence[int], seed: int, group_name: str) -> tuple[list[int], list[int]]:
    """The rows to fit on and those to measure on; a group is in one of them."""
    groups = [split.groups[i] for i in rows]
    if len(set(groups)) < 2:
        raise InputError(
            f"split '{split.name}' holds one {group_name}; calibrating takes some to fit on and others to test"
        )
    halves = split_by_group(groups, {"fit": 0.5, "held out": 0.5}, seed)
    fit, held_out = ([i for i, half in zip(rows, halves) if half == name] for name in ("fit", "held out"))
    return fit, held_out


def _choose_temperature(model: CAR, fit: _Images, held_out: _Images) -> dict[str, Any]:
    """Fit the temperatures, and give them to the model if they make q likelier on the patients held out."""
    fitted = fit_temperature(*_log_q_and_votes(model, fit))
    before = _judge(model, held_out, "held-out patients, q as it is")
    model.temperature = fitted
    after = _judge(model, held_out, "held-out patients, q with temperatures")
    kept = bool(np.nanmean(after.nll) < np.nanmean(before.nll)) and check_temperature(fitted, len(fitted)) is not None
    if not kept:
        model.temperature = None
    result: dict[str, Any] = {"fitted": list(fitted), "kept": kept, "ece": [before.ece, after.ece]}
    for name in ("nll", "ged"):
        pair = [getattr(judged, name) for judged in (before, after)]
        result[name] = [float(np.nanmean(values)) for values in pair]
        result[f"{name}_change"] = result[name][1] - result[name][0]
        result[f"{name}_change_interval"] = _interval(pair[1] - pair[0], held_out.groups())
    return result


def _log_q_and_votes(model: CAR, images: _Images) -> tuple[Tensor, Tensor]:
    """log q and the raters' votes, float64 [p k] each, at pixels drawn evenly from all images."""
    k = len(model.classes)
    log_q, votes = [], []
    for rows, batch in images.batches("fitting temperatures"):
        q = model.probabilities(batch.images, batch.blackbox).cpu().double()
        q = q.flatten(2).clamp_min(FLOOR).log()  # [b k p]
        labels = batch.labels.flatten(2)
        chosen = torch.stack([(labels == c).sum(1) for c in range(k)], 1).double()
        if images.ignore is not None:
            chosen[:, images.ignore] = 0
        pixels = q.shape[2]
        wanted = min(pixels, max(1, ELEMENTS // (k * len(images.rows))))
        for row, one, vote in zip(rows, q, chosen):
            at = torch.from_numpy(np.random.default_rng([images.seed, row, 3]).choice(pixels, wanted, replace=False))
            log_q.append(one[:, at].T)
            votes.append(vote[:, at].T)
    return torch.cat(log_q), torch.cat(votes)


def _judge(model: CAR, images: _Images, what: str) -> _Judged:
    """Likelihood and calibration of q, and the energy distance of samples, with the model's temperature as it is."""
    k = len(model.classes)
    nll, ged = [], []
    counts: ReliabilityCounts | None = None
    for rows, batch in images.batches(what):
        q = model.probabilities(batch.images, batch.blackbox).cpu()
        maps = model.sample(batch.images, z=images.latents(rows, model.latent), blackbox=batch.blackbox).cpu()
        nll.append(negative_log_likelihood(q, batch.labels, images.ignore, FLOOR))
        ged.append(generalized_energy_distance(maps, batch.labels, k, images.convention, images.ignore, "V"))
        these = reliability_counts(q, batch.labels, ignore=images.ignore)
        counts = these if counts is None else counts + these
    assert counts is not None
    return _Judged(torch.cat(nll).numpy(), torch.cat(ged).numpy(), float(counts.error()))


def _choose_levels(
    model: CAR, fit: _Images, held_out: _Images, coverage: float, share: float, group_name: str
) -> tuple[tuple[float | None, ...], dict[str, Any]]:
    """A level for each class but the background and the ignored, and what it does on the patients held out."""
    k = len(model.classes)
    found = _cover(model, fit, [None] * k, share, "fitting levels")
    groups = _by_outline(fit.groups(), found.levels)
    levels: list[float | None] = [None] * k
    having = [len(np.unique(groups[~np.isnan(found.levels[..., c]).ravel()])) for c in range(k)]
    short: list[int] = []
    for c in (c for c in range(1, k) if c != fit.ignore):
        try:
            levels[c] = conformal_level(found.levels[..., c].ravel(), groups, coverage)
        except InputError:  # too few groups
            short.append(c)
    needed = counted(math.ceil(coverage / (1 - coverage) - 1e-9), group_name)
    told = [f"{model.classes[c].name} is outlined in {counted(having[c], group_name)} to fit on" for c in short]
    if not any(level is not None for level in levels):
        some, most = "; ".join(told[:3]) + ("; ..." if len(told) > 3 else ""), max(having[c] for c in short)
        cure = f"ask for at most {math.floor(1000 * most / (most + 1)) / 1000:g}" if most else "take another split"
        raise InputError(f"--coverage {coverage}: takes {needed}, and no class got a level: {some}; {cure}")
    for reason in told:
        say(f"no level, which takes {needed}: {reason}")
    measured = _cover(model, held_out, levels, share, "measuring coverage")
    return tuple(levels), {
        model.classes[c].name: {
            "level": level,
            "groups": having[c],
        }
        | _coverage_facts(measured, c, level, _union(fit.samples), held_out.groups())
        for c, level in enumerate(levels)
        if level is not None
    }


def _cover(model: CAR, images: _Images, levels: Sequence[float | None], share: float, what: str) -> _Covered:
    k = len(model.classes)
    at = torch.tensor([-np.inf if level is None else level for level in levels], dtype=torch.float64)[:, None, None]
    lists: dict[str, list[Tensor]] = {name: [] for name in ("levels", "empty", "outlines", "areas", "unions")}
    pixels = 0
    for rows, batch in images.batches(what):
        q = model.probabilities(batch.images, batch.blackbox).cpu()
        maps = model.sample(batch.images, z=images.latents(rows, model.latent), blackbox=batch.blackbox).cpu()
        order = coverage_order(maps, q)
        covering = covering_levels(order, batch.labels, share, images.ignore)
        present = (batch.labels != 255).flatten(2).any(2)
        area = torch.stack([(batch.labels == c).sum((2, 3)) for c in range(k)], 2).double()
        lists["levels"].append(covering)
        lists["empty"].append(covering.isnan() & present[..., None])
        lists["outlines"].append(area.where(~covering.isnan(), torch.nan))
        lists["areas"].append((order >= at).sum((2, 3)).double())
        lists["unions"].append((order >= _union(images.samples)).sum((2, 3)).double())
        pixels = maps[0, 0].numel()
    return _Covered(**{name: torch.cat(tensors).numpy() for name, tensors in lists.items()}, pixels=pixels)


def _union(samples: int) -> float:
    """The level of the pixels inside at least one of the samples."""
    return 1 / (samples + 1)


def _coverage_facts(found: _Covered, c: int, level: float, union: float, images: NDArray[Any]) -> dict[str, Any]:
    """Coverage with its interval, and sizes, of the sets of class c and of the plain unions of samples."""
    levels, groups = found.levels[..., c].ravel(), _by_outline(images, found.levels)
    facts: dict[str, Any] = {
        "held_out_groups": len(np.unique(groups[~np.isnan(levels)])),
        "held_out_outlines": int((~np.isnan(levels)).sum()),
        "held_out_empty": int(found.empty[..., c].sum()),
        "area": float(found.areas[:, c].mean()),
        "area_share": float(found.areas[:, c].mean() / found.pixels),
        "outline_area": _mean(found.outlines[..., c].ravel()),
        "union_area": float(found.unions[:, c].mean()),
    }
    with_empty = np.where(found.empty[..., c].ravel(), np.inf, levels)
    for name, values, at in (
        ("coverage", levels, level),
        ("coverage_with_empty", with_empty, level),
        ("union_coverage", levels, union),
    ):
        shares, names = covered_shares(values, groups, at)
        facts[name] = _mean(shares)
        facts[f"{name}_interval"] = _interval(shares, names)
    return facts


def _by_outline(groups: NDArray[Any], levels: Values) -> NDArray[Any]:
    """The group of each outline [N * r]."""
    return np.repeat(groups, levels.shape[1])


def _interval(values: Values, groups: NDArray[Any]) -> list[float] | None:
    several = len(np.unique(groups[~np.isnan(values)])) > 1
    return list(bootstrap_interval(values, groups)) if several else None


def _mean(values: Values) -> float | None:
    return None if np.isnan(values).all() else float(np.nanmean(values))
