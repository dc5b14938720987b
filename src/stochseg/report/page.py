"""The report of a run: RUN/report.html, one page that needs nothing else, and its plots as files in RUN/figures."""

import base64
import io
import json
import os
import platform
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from stochseg.data.store import ClassInfo
from stochseg.errors import InputError
from stochseg.metrics.conventions import CONVENTIONS
from stochseg.models.car import model_folder
from stochseg.report import figures
from stochseg.report.figures import DARK, LIGHT, Plot, Theme
from stochseg.report.panels import ENTROPY_COLORS, PROBABILITY_COLORS, Tile, example_tiles, png_bytes
from stochseg.report.table import ROWS, best_trivial, caption, findings, scores_rows, verdict
from stochseg.training.log import read_metrics

Arrays = dict[str, NDArray[Any]]
SAMPLES_ON_PAGE, SAMPLES_IN_FIGURE = 8, 6
WIDEST_PICTURE = 1600
"""Pixels; wider pictures of progress are shrunk."""
SCORES = {"ged": "GED of an image", "hm_iou": "matched IoU of an image"}
LOSSES = {
    "cross_entropy": "cross entropy of q",
    "energy": "energy loss of the samples",
    "marginal": "cross entropy of the samples' mean",
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
class Picture:
    """A picture in the page: data URIs for light and dark schemes (the same where one does for both)."""

    light: str
    dark: str
    alt: str
    width: int
    height: int


def write_report(run: Path) -> Path:
    """Write RUN/report.html and RUN/figures/*.png and *.pdf from what training and evaluation left in a run directory.

    The page shows every split that was evaluated, test first. Returns its path. Raises InputError where the run holds
    no model or no evaluation, where a file of it is damaged, or where it cannot be written to.
    """
    run = Path(run)
    model = json.loads((model_folder(run) / "config.json").read_text())
    classes = [ClassInfo(c["name"], tuple(c["color"])) for c in model["classes"]]
    evaluated = read_evaluations(run)
    config = (run / "config.yaml").read_text() if (run / "config.yaml").is_file() else ""
    metrics = _read_training(run)
    plots = training_plots(metrics, (yaml.safe_load(config) or {}).get("validation", {}).get("select", "ged"))
    for one in evaluated:
        plots |= split_plots(one, classes)
    try:
        (run / "figures").mkdir(exist_ok=True)
        for plot in plots.values():
            plot.save(run / "figures")
        text = _render(
            run=run.name or str(run),
            splits=[_split(one, classes, plots) for one in evaluated],
            training=[_picture(plots[name]) for name in ("validation", "losses") if name in plots],
            progress=_progress(run),
            config=config,
            facts=_facts(run, model, evaluated, metrics),
            commands=_commands(run, evaluated),
        )
        partial = run / "report.html.partial"
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, run / "report.html")
    except OSError as error:
        raise InputError(f"{run}: the report cannot be written there ({error.strerror}); free space or rights") from error
    return run / "report.html"


def read_evaluations(run: Path) -> list[Evaluated]:
    """The evaluated splits of a run: test, then val, then others by name. InputError where there is none."""
    files = list((run / "evaluation").glob("*.json"))
    if not files:
        raise InputError(
            f"{run}: was not evaluated yet; run `stochseg evaluate {shlex.quote(str(run))} --data STORE --split val` first"
        )
    first = {"test": 0, "val": 1}
    files.sort(key=lambda file: (first.get(file.stem, 2), file.stem))
    return [_read_evaluation(file) for file in files]


def _read_evaluation(file: Path) -> Evaluated:
    try:
        result = json.loads(file.read_text())
        values = dict(np.load(file.with_suffix(".npz"), allow_pickle=False))
        examples = dict(np.load(file.with_name(f"{file.stem}_examples.npz"), allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file}: an evaluation that is damaged or not whole ({error}); evaluate the split again") from error
    return Evaluated(result, values, examples)


def _read_training(run: Path) -> list[dict[str, float]]:
    try:
        return read_metrics(run)
    except ValueError as error:
        raise InputError(f"{run / 'metrics.jsonl'}: holds a damaged line ({error}); delete that line") from error


def split_plots(one: Evaluated, classes: list[ClassInfo]) -> dict[str, Plot]:
    """The plots of an evaluated split by their file names, NAME_SPLIT."""
    result, values, split = one.result, one.values, one.result["split"]
    found = []
    known = [("this model", result["ged"])]
    known += [(text, result["baselines"][name]["ged"]) for name, text in ROWS.items() if name in result["baselines"]]
    told = "; ".join(f"{name} {score:.3f}" for name, score in known)
    found.append(
        Plot(
            f"ranking_{split}",
            f"GED of the model and of other answers: {told}",
            lambda theme: figures.ranking("GED (lower is better)", known, result.get("ged_interval"), theme),
        )
    )
    for key, label in SCORES.items():
        found.append(_histogram(f"{key}_{split}", key, label, result, values))
    curves = {"q": result["reliability_q"], "mean of the samples": result["reliability_mean"]}
    found.append(
        Plot(
            f"reliability_{split}",
            "Reliability diagram: stated probability of not being background against how often raters agreed, for q "
            f"(calibration error {result['ece_q']:.4f}) and the mean of the samples ({result['ece_mean']:.4f})",
            lambda theme: figures.reliability(curves, theme),
        )
    )
    order = ("image", "raters", "samples", "model")
    lines = [
        (title, sorted(tiles, key=lambda tile: order.index(tile.group)))
        for title, _, tiles in _examples(one.examples, classes, SAMPLES_IN_FIGURE)
    ]
    legend = [(c.name, _hex(c)) for c in classes[1:]]
    found.append(
        Plot(
            f"examples_{split}",
            "Images with raters, samples, the samples' mean, q and the entropies of both, from the best GED to the worst",
            lambda theme: figures.examples(lines, legend, theme),
        )
    )
    return {plot.name: plot for plot in found}


def _histogram(name: str, key: str, label: str, result: dict[str, Any], values: Arrays) -> Plot:
    series = {"this model": values[key]}
    best = best_trivial(result, key)
    if best is not None:
        series[ROWS[best]] = values[f"{best}_{key}"]
    own = result["baselines"].get("raters", {}).get(key)
    reference = None if own is None else (ROWS["raters"], own)
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


def minutes_at(steps: list[float], timed: list[dict[str, float]]) -> NDArray[np.float64]:
    """Minutes at which steps were done, from lines that hold both; steps after the last line go on at its pace.

    >>> minutes_at([5, 10, 20], [{"step": 10, "minutes": 1.0}]).tolist()
    [0.5, 1.0, 2.0]
    """
    x = np.array([0.0, *(line["step"] for line in timed)])
    y = np.array([0.0, *(line["minutes"] for line in timed)])
    pace = y[-1] / x[-1] if x[-1] else 0.0
    at = np.array(steps, np.float64)
    return np.where(at > x[-1], y[-1] + (at - x[-1]) * pace, np.interp(at, x, y))


def _examples(examples: Arrays, classes: list[ClassInfo], shown: int) -> list[tuple[str, str, list[Tile]]]:
    """Title, id and tiles of each example."""
    found = []
    for i, ged in enumerate(examples["ged"]):
        arrays = (examples[name][i] for name in ("images", "labels", "samples", "q"))
        found.append((f"GED {ged:.2f}", str(examples["ids"][i]), example_tiles(*arrays, classes, shown)))
    return found


def _split(one: Evaluated, classes: list[ClassInfo], plots: dict[str, Plot]) -> dict[str, Any]:
    """What the template shows of a split."""
    result, split = one.result, one.result["split"]
    examples = [
        {
            "title": title,
            "id": name,
            "tiles": [
                (tile, _embedded(png_bytes(tile.pixels), f"example {number}, {tile.name} {tile.note}".strip()))
                for tile in tiles
            ],
        }
        for number, (title, name, tiles) in enumerate(_examples(one.examples, classes, SAMPLES_ON_PAGE), 1)
    ]
    best = best_trivial(result)
    return {
        "name": split,
        "result": result,
        "verdict": verdict(result, one.values),
        "findings": findings(result),
        "caption": caption(result),
        "rows": scores_rows(result),
        "best": ROWS[best] if best else None,
        "ranking": _picture(plots[f"ranking_{split}"]),
        "examples": examples,
        "shown": min(SAMPLES_ON_PAGE, result["samples"]),
        "classes": [(c.name, _hex(c)) for c in classes[1:]],
        "probability": _gradient(PROBABILITY_COLORS) if len(classes) == 2 else None,
        "entropy": _gradient(ENTROPY_COLORS),
        "histograms": [_picture(plots[f"{key}_{split}"]) for key in SCORES],
        "reliability": _picture(plots[f"reliability_{split}"]),
        "few": figures.FEW_OBSERVATIONS,
    }


def _progress(run: Path) -> list[tuple[str, Picture]]:
    """First, middle and last picture of the training, with their steps."""
    files = sorted((run / "progress").glob("*.png"))
    chosen = [files[i] for i in sorted({0, len(files) // 2, len(files) - 1})] if files else []
    found = []
    for file in chosen:
        step = file.stem.removeprefix("step_").lstrip("0") or "0"
        with Image.open(file) as image:
            wide = image.width > WIDEST_PICTURE
            size = (WIDEST_PICTURE, round(image.height * WIDEST_PICTURE / image.width))
            png = png_bytes(image.convert("RGB").resize(size).quantize(256)) if wide else file.read_bytes()
        found.append((step, _embedded(png, f"images, raters, samples and q of the validation split at step {step}")))
    return found


def _facts(run: Path, model: dict[str, Any], evaluated: list[Evaluated], metrics: list[dict[str, float]]) -> dict[str, str]:
    import matplotlib
    import torch

    import stochseg

    timed = [line for line in metrics if "minutes" in line]
    facts = {"run": str(run), "classes": ", ".join(c["name"] for c in model["classes"])}
    facts["images"] = f"{model['channels']} channel(s), trained at {model['size'][0]} × {model['size'][1]} pixels"
    if timed:
        speed = np.median([line["images_per_second"] for line in timed])
        facts["training"] = (
            f"{metrics[-1]['step']:,.0f} steps in {minutes_at([metrics[-1]['step']], timed)[0]:.1f} minutes, "
            f"{speed:.0f} images a second"
        )
    for one in evaluated:
        r = one.result
        source = CONVENTIONS[r["convention"]].source if r["convention"] in CONVENTIONS else r["convention"]
        facts[f"evaluation on {r['split']}"] = (
            f"store {r['store']}, {r['images']:,} images of {r['groups']:,} groups, {r['raters_per_image']} raters, "
            f"{r['samples']} samples an image, seed {r['seed']}, {r['seconds']:.1f} seconds with all baselines"
        )
        facts["convention"] = f"{r['convention']}: {source}"
    facts["versions"] = (
        f"model written by stochseg {model['stochseg']}; this page by stochseg {stochseg.__version__}, "
        f"Python {platform.python_version()}, PyTorch {torch.__version__}, NumPy {np.__version__}, "
        f"matplotlib {matplotlib.__version__}"
    )
    return facts


def _commands(run: Path, evaluated: list[Evaluated]) -> list[str]:
    """The commands that lead from a store to this page."""
    where = shlex.quote(str(run))
    commands = []
    if (run / "config.yaml").is_file():
        config = shlex.quote(str(run / "config.yaml"))
        commands.append(f"stochseg train --config {config} --data STORE --out NEW_RUN")
    for one in evaluated:
        r = one.result
        limit = f" --limit {r['limit']}" if r.get("limit") else ""
        commands.append(
            f"stochseg evaluate {where} --data {shlex.quote(r['store'])} --split {shlex.quote(r['split'])} "
            f"--samples {r['samples']} --convention {r['convention']} --seed {r['seed']}{limit}"
        )
    return [*commands, f"stochseg report {where}"]


def _picture(plot: Plot) -> Picture:
    return _embedded(plot.png(LIGHT), plot.alt, plot.png(DARK))


def _embedded(png: bytes, alt: str, dark: bytes | None = None) -> Picture:
    with Image.open(io.BytesIO(png)) as image:
        width, height = image.size
    light, dim = (f"data:image/png;base64,{base64.b64encode(b).decode()}" for b in (png, dark or png))
    return Picture(light, dim, alt, width, height)


def _gradient(name: str) -> str:
    """A colour map as the stops of a CSS gradient."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return ", ".join(to_hex(colormaps[name](x)) for x in np.linspace(0, 1, 9))


def _hex(info: ClassInfo) -> str:
    return "#{:02x}{:02x}{:02x}".format(*info.color)


def _render(**content: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.j2").render(**content)
