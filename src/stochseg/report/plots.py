"""Which plots a run gets: from what evaluation and training left in its directory to `Plot`s with names and words."""

import shlex
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stochseg.data.reading import parse_json
from stochseg.data.store import ClassInfo
from stochseg.errors import InputError
from stochseg.report import figures
from stochseg.report.figures import Plot
from stochseg.report.flips import flips_plot
from stochseg.report.panels import Tile, example_tiles, is_clear
from stochseg.report.table import ROWS, best_trivial, matched_title, raters_matched, shown_answers

Arrays = dict[str, NDArray[Any]]
SAMPLES_IN_FIGURE = 6
SCORES = {"ged": "GED of an image", "hm_iou": "matched IoU of an image"}
LOSSES = {
    "cross_entropy": "cross entropy of q",
    "energy": "energy loss of the samples",
    "marginal": "cross entropy of the samples' mean",
    "nearest": "cross entropy of the nearest shape",
    "calibration": "KL of the samples' mean from q",
    "adversarial": "adversarial loss of the samples",
    "discriminator": "loss of the discriminator",
    "r1": "gradient penalty R1",
    "accuracy": "accuracy of the discriminator",
}


@dataclass(frozen=True)
class Evaluated:
    """What `evaluate` left of one split: the summary, scores of every image, and a few images with their samples."""

    result: dict[str, Any]
    values: Arrays
    examples: Arrays


@dataclass(frozen=True)
class Example:
    """An image of a split with its raters, samples and marginals as pictures."""

    title: str
    id: str
    tiles: list[Tile]


def read_evaluations(run: Path) -> list[Evaluated]:
    """The evaluated splits of a run: test, then val, then others by name. InputError where there is none."""
    # scores of stratified samples are not scores of draws, those in several orientations not of the model alone
    apart = ("_stratified", "_orientations")
    files = [file for file in (run / "evaluation").glob("*.json") if not file.stem.endswith(apart)]
    if not files:
        raise InputError(
            f"{run}: was not evaluated yet; run `stochseg evaluate {shlex.quote(str(run))} --data STORE --split val` first"
        )
    first = {"test": 0, "val": 1}
    files.sort(key=lambda file: (first.get(file.stem, 2), file.stem))
    return [_read_evaluation(file) for file in files]


def _read_evaluation(file: Path) -> Evaluated:
    try:
        result = parse_json(file.read_text())
        values = dict(np.load(file.with_suffix(".npz"), allow_pickle=False))
        examples = dict(np.load(file.with_name(f"{file.stem}_examples.npz"), allow_pickle=False))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{file}: an evaluation that is damaged or not whole ({error}); evaluate the split again"
        ) from error
    return Evaluated(result, values, examples)


def examples_of(one: Evaluated, classes: list[ClassInfo], shown: int) -> list[Example]:
    """The examples that evaluation kept, best GED first, with their first `shown` samples."""
    kept, found = one.examples, []
    for i, ged in enumerate(kept["ged"]):
        tiles = example_tiles(kept["images"][i], kept["labels"][i], kept["samples"][i], kept["q"][i], classes, shown)
        title = f"GED {ged:.2f}" if np.isfinite(ged) else "GED undefined"
        found.append(Example(title, str(kept["ids"][i]), tiles))
    return found


def color_of(info: ClassInfo) -> str:
    """Its colour as #rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*info.color)


def split_plots(one: Evaluated, classes: list[ClassInfo]) -> dict[str, Plot]:
    """The plots of an evaluated split by their file names, NAME_SPLIT."""
    result, values, split = one.result, one.values, one.result["split"]
    found = []
    known = [("this model", result["ged"])]
    others = ((text, result["baselines"].get(name, {}).get("ged")) for name, text in shown_answers(result).items())
    known += [(text, score) for text, score in others if score is not None]
    told = "; ".join(f"{name} {score:.3f}" for name, score in known)
    found.append(
        Plot(
            f"ranking_{split}",
            f"GED of the model and of other answers: {told}",
            lambda theme: figures.ranking("GED (lower is better)", known, result.get("ged_interval"), theme),
        )
    )
    for key, label in (SCORES | {"hm_iou": f"{matched_title(result['convention'])} of an image"}).items():
        if key in values:  # a convention may have no matched IoU
            found.append(_histogram(f"{key}_{split}", key, label, result, values))
    chance = f"P(not {classes[0].name})" if result.get("reliability_of") != "top" else "P(likeliest class)"
    curves = {"q": result["reliability_q"], "mean of the samples": result["reliability_mean"]}
    found.append(
        Plot(
            f"reliability_{split}",
            f"Reliability diagram: stated {chance} against how often raters agreed, for q "
            f"(calibration error {result['ece_q']:.4f}) and the mean of the samples ({result['ece_mean']:.4f})",
            lambda theme: figures.reliability(chance, curves, theme),
        )
    )
    order = ("image", "raters", "samples", "model")
    lines = [
        (example.title, sorted(example.tiles, key=lambda tile: order.index(tile.group)))
        for example in examples_of(one, classes, SAMPLES_IN_FIGURE)
    ]
    legend = [(c.name, color_of(c)) for c in shown_classes(one, classes)]
    found.append(
        Plot(
            f"examples_{split}",
            "Images with raters, samples, the samples' mean, q and the entropies of both, from the best GED to the worst",
            lambda theme: figures.examples(lines, legend, chance if len(classes) == 2 else None, theme),
        )
    )
    if result.get("class_flips"):
        found.append(flips_plot(result))
    return {plot.name: plot for plot in found}


def shown_classes(one: Evaluated, classes: list[ClassInfo]) -> list[ClassInfo]:
    """The classes that the pictures of the examples paint."""
    seen = set(np.unique(one.examples["labels"])) | set(np.unique(one.examples["samples"]))
    return [c for i, c in enumerate(classes) if not is_clear(c) and (len(classes) == 2 or i in seen)]


def _histogram(name: str, key: str, label: str, result: dict[str, Any], values: Arrays) -> Plot:
    series = {"this model": values[key]}
    best = best_trivial(result, key)
    if best is not None:
        series[ROWS[best]] = values[f"{best}_{key}"]
    bound = key == "hm_iou"
    own = raters_matched(result) if bound else result["baselines"].get("raters", {}).get(key)
    reference = None if own is None else (f"{ROWS['raters']}, {'at least' if bound else 'mean'}", own)
    told = "; ".join(f"{who}: mean {np.nanmean(scores):.3f}" for who, scores in series.items())
    return Plot(name, f"Histogram, {label}: {told}", lambda theme: figures.histogram(label, series, reference, theme))


def training_plots(metrics: list[dict[str, float]], select: str = "ged") -> dict[str, Plot]:
    """The plots of metrics.jsonl: validation scores and losses against minutes; none where it holds no such lines."""
    timed = [line for line in metrics if "minutes" in line]
    judged = [line for line in metrics if "val_ged" in line]
    plots = {}
    if judged:
        minutes = minutes_at([line["step"] for line in judged], timed)
        scores = {
            key: np.array([line.get(f"val_{key}", np.nan) for line in judged])
            for key in ("ged", "diversity", "raters_diversity")
        }
        kept = len(judged) - 1
        if select == "ged" and "val_selection" in judged[0]:
            kept = int(np.argmin([line["val_selection"] for line in judged]))
        plots["validation"] = Plot(
            "validation",
            f"Validation during training: GED from {scores['ged'][0]:.3f} to {scores['ged'][-1]:.3f}, diversity from "
            f"{scores['diversity'][0]:.3f} to {scores['diversity'][-1]:.3f}; the model kept had GED {scores['ged'][kept]:.3f}",
            lambda theme: figures.validation_curves(minutes, scores, kept, theme),
        )
    losses = {
        text: np.array([line.get(name, np.nan) for line in timed])
        for name, text in LOSSES.items()
        if any(name in line for line in timed)
    }
    if losses:
        at = np.array([line["minutes"] for line in timed])
        plots["losses"] = Plot(
            "losses",
            f"Losses against minutes of training: {', '.join(losses)}",
            lambda theme: figures.losses(at, losses, theme),
        )
    return plots


def remove_other_plots(folder: Path, evaluated: list[Evaluated], drawn: Iterable[str]) -> None:
    """Remove the plots of the evaluated splits that an earlier report left in the folder and this one does not draw."""
    kinds = (*SCORES, "ranking", "reliability", "examples", "flips")
    stale = {f"{kind}_{one.result['split']}" for one in evaluated for kind in kinds} - set(drawn)
    for name in stale:
        for suffix in ("png", "pdf"):
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)


def minutes_at(steps: list[float], timed: list[dict[str, float]]) -> NDArray[np.float64]:
    """Minutes at which steps were done, from lines that hold both; steps after the last line go on at its pace.

    >>> minutes_at([5, 10, 20], [{"step": 10, "minutes": 1.0}]).tolist()
    [0.5, 1.0, 2.0]
    """
    x = np.array([0.0, *(line["step"] for line in timed)])
    y = np.array([0.0, *(line["minutes"] for line in timed)])
    pace = y[-1] / x[-1] if x[-1] else 0.0
    at = np.array(steps, np.float64)
    return np.asarray(np.where(at > x[-1], y[-1] + (at - x[-1]) * pace, np.interp(at, x, y)))
