"""Several runs on the same images: scores, paired differences, and what each costs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stochseg.data.batches import centre_crop_for, in_order
from stochseg.data.reading import parse_json
from stochseg.data.store import Store, open_store
from stochseg.errors import InputError
from stochseg.evaluation import evaluate
from stochseg.metrics.intervals import paired_test
from stochseg.models.precision import precision_name, resolve_device
from stochseg.models.segmenter import Segmenter, load
from stochseg.models.weights_file import sum_in
from stochseg.writable import check_writable

COMPARED = ("ged", "hm_iou", "diversity", "distance_to_labels", "dice", "max_dice", "empty_brier")
TIMED_IMAGES, TIMED_ROUNDS = 8, 3


@dataclass(frozen=True)
class Candidate:
    """A run and what it scores."""

    run: Path
    model: Segmenter
    result: dict[str, Any]
    values: dict[str, NDArray[Any]]


def compare(
    runs: Sequence[str | Path],
    data: str | Path,
    split: str = "test",
    samples: int = 16,
    convention: str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    precision: str = "auto",
    device: str = "auto",
    limit: int | None = None,
    again: bool = False,
) -> dict[str, Any]:
    """Evaluate runs on the same images and write OUT/comparison.{json,md,html} and a figure; returns what the JSON holds.

    Differences are those to the first run, paired image by image, with 95 % intervals and p-values over groups
    (patients). Milliseconds a sample are measured side by side, in turns, on a few images of the split.

    Args:
        data: the store.
        split: which split of the store.
        samples: samples of an image.
        convention: how scores are counted; default: the store's own.
        out: folder to write; default: nothing is written.
        seed: of the samples.
        precision: auto, float32 or bfloat16.
        device: auto, cpu, cuda, ...
        limit: score this many images, spread over the split, instead of all.
        again: evaluate anew where a run holds an evaluation of the same kind that is newer than its model.
    """
    folders = [Path(run) for run in runs]
    if len(folders) < 2:
        raise InputError(f"compare: {len(folders)} run; give two or more, the one to compare with first")
    if len(set(folders)) < len(folders):
        raise InputError("compare: a run is given twice; give each once")
    if out is not None:
        check_writable(Path(out), f"--out {out}")
    store = open_store(data)
    options: dict[str, Any] = {"split": split, "samples": samples, "seed": seed, "limit": limit}
    found = []
    for run in folders:
        model = load(run, precision, resolve_device(device))
        result = (
            None if again else _evaluated(run, model, store, options | {"convention": convention or store.convention})
        )
        result = result or evaluate(run, data, convention=convention, precision=precision, device=device, **options)
        with np.load(run / "evaluation" / f"{split}.npz", allow_pickle=False) as arrays:
            values = dict(arrays)
        found.append(Candidate(run, model, result, values))
    times = _milliseconds(found, Path(data), split, samples)
    result = {
        "split": split,
        "samples": samples,
        "convention": found[0].result["convention"],
        "images": found[0].result["images"],
        "split_images": found[0].result["split_images"],
        "groups": found[0].result["groups"],
        "group_name": found[0].result["group_name"],
        "store": found[0].result["store"],
        "runs": [_facts(one, found[0], ms) for one, ms in zip(found, times, strict=True)],
    }
    if out is not None:
        from stochseg.report.comparison import write_comparison

        write_comparison(Path(out), result)
    return result


def _evaluated(run: Path, model: Segmenter, store: Store, options: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier evaluation holds, if it is of the same kind and of the model and the store as they are."""
    file, weights = run / "evaluation" / f"{options['split']}.json", run / "model" / "model.safetensors"
    try:
        result: dict[str, Any] = parse_json(file.read_text())
        newer = file.stat().st_mtime >= weights.stat().st_mtime
        asked = options | {
            "store_fingerprint": store.fingerprint,
            "weights": sum_in(weights),
            "temperature": None if model.temperature is None else [*model.temperature],
            "precision": precision_name(model.precision, model.device),
        }
        return result if newer and all(result[key] == value for key, value in asked.items()) else None
    except (OSError, ValueError, KeyError):
        return None


def _facts(one: Candidate, first: Candidate, milliseconds: float) -> dict[str, Any]:
    """A run's row."""
    keys = [key for key in COMPARED if one.result.get(key) is not None]
    scores = {key: one.result[key] for key in keys}
    scores |= {f"{key}_interval": one.result.get(f"{key}_interval") for key in keys}
    differences = {}
    if one.result["size"] != first.result["size"]:
        sizes = ["x".join(str(side) for side in each.result["size"]) for each in (one, first)]
        raise InputError(
            f"{one.run}: judged on {sizes[0]} pixels of an image, {first.run} on {sizes[1]}, as they were trained: scores of "
            "other pixels do not compare; train both at one size"
        )
    for key in keys if one is not first else ():
        if key not in first.values or len(np.unique(one.values["groups"])) < 2:
            continue
        if list(one.values["ids"]) != list(first.values["ids"]):
            raise InputError(f"{one.run}: was evaluated on other images than {first.run}; compare with --again true")
        test = paired_test(one.values[key], first.values[key], one.values["groups"])
        differences[key] = {"difference": test.difference, "interval": [test.low, test.high], "p_value": test.p_value}
    return {
        "run": str(one.run),
        "method": one.model.method,
        **scores,
        "differences": differences,
        "parameters": sum(
            p.numel() for name, net in one.model.networks.items() if name != "discriminator" for p in net.parameters()
        ),
        "training_seconds": _training_seconds(one.run),
        "passes": one.model.passes,
        "milliseconds_per_sample": milliseconds,
    }


def _training_seconds(run: Path) -> float | None:
    """Seconds of training that the run's log tells of."""
    try:
        lines = [parse_json(line) for line in (run / "metrics.jsonl").read_text().splitlines() if line]
    except (OSError, ValueError):
        return None
    minutes = [line["minutes"] for line in lines if "minutes" in line]
    return 60 * float(minutes[-1]) if minutes else None


def _milliseconds(candidates: Sequence[Candidate], data: Path, split: str, samples: int) -> list[float]:
    """Of a sample, the best of a few rounds, in which every run has its turn."""
    chosen = open_store(data).split(split)
    best = [float("inf")] * len(candidates)
    for _ in range(TIMED_ROUNDS):
        for i, one in enumerate(candidates):
            crop = centre_crop_for(one.model.size, chosen)
            rows = list(range(min(TIMED_IMAGES, len(chosen))))
            batch = next(iter(in_order(chosen, len(rows), crop, rows, one.model.needs_blackbox)))
            generator = torch.Generator().manual_seed(0)
            start = time.perf_counter()
            one.model.sample(batch.images, samples, generator, batch.blackbox)
            if one.model.device.type == "cuda":
                torch.cuda.synchronize()
            best[i] = min(best[i], 1e3 * (time.perf_counter() - start) / len(rows) / samples)
    return best
