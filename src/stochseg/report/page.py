"""The report of a run: RUN/report.html, one page that needs nothing else, and its plots as files in RUN/figures."""

import base64
import io
import os
import platform
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from stochseg.data.reading import parse_json
from stochseg.data.store import ClassInfo
from stochseg.errors import InputError
from stochseg.metrics.conventions import CONVENTIONS
from stochseg.models.calibrated import read_calibrated
from stochseg.models.model_files import model_folder
from stochseg.report.calibration import calibration_sentences
from stochseg.report.figures import DARK, FEW_OBSERVATIONS, Plot
from stochseg.report.panels import ENTROPY_COLORS, PROBABILITY_COLORS, png_bytes
from stochseg.report.plots import (
    SCORES,
    Evaluated,
    color_of,
    examples_of,
    minutes_at,
    read_evaluations,
    remove_other_plots,
    shown_classes,
    split_plots,
    training_plots,
)
from stochseg.report.reading import reading_of
from stochseg.report.table import (
    ROWS,
    best_trivial,
    caption,
    findings,
    flip_notes,
    flip_rows,
    groups,
    images,
    more_rows,
    raters_matched,
    scores_rows,
    verdict,
)
from stochseg.training.log import read_metrics
from stochseg.wording import counted

SAMPLES_ON_PAGE = 8
WIDEST_PICTURE = 1600
"""Pixels; wider pictures of progress are shrunk."""


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
    folder = model_folder(run)
    model = _read_model(folder / "config.json")
    classes = [ClassInfo(c["name"], tuple(c["color"])) for c in model["classes"]]
    evaluated = read_evaluations(run)
    calibrated = read_calibrated(folder, len(classes))
    config = (run / "config.yaml").read_text() if (run / "config.yaml").is_file() else ""
    metrics = read_metrics(run)
    plots = training_plots(metrics, (yaml.safe_load(config) or {}).get("validation", {}).get("select", "ged"))
    for one in evaluated:
        plots |= split_plots(one, classes)
    progress = _progress(run)
    try:
        (run / "figures").mkdir(exist_ok=True)
        for plot in plots.values():
            plot.save(run / "figures")
        remove_other_plots(run / "figures", evaluated, plots)
        pictures = {
            name: embedded_plot(plot, run / "figures")
            for name, plot in plots.items()
            if not name.startswith("examples_")
        }
        text = render(
            "report.html.j2",
            run=run.resolve().name,
            splits=[_split(one, classes, pictures) for one in evaluated],
            calibrated=calibrated and calibration_sentences(calibrated, classes, [one.result for one in evaluated]),
            training=[pictures[name] for name in ("validation", "losses") if name in pictures],
            progress=progress,
            config=config,
            facts=_facts(run, model, evaluated, metrics),
            commands=_commands(run, evaluated),
        )
        partial = run / "report.html.partial"
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, run / "report.html")
    except OSError as error:
        raise InputError(
            f"{run}: the report cannot be written there ({error.strerror}); make room or get the rights"
        ) from error
    return run / "report.html"


def _read_model(file: Path) -> dict[str, Any]:
    try:
        return dict(parse_json(file.read_text()))
    except ValueError as error:
        raise InputError(f"{file}: not readable as JSON ({error}); copy the model again") from error


def _split(one: Evaluated, classes: list[ClassInfo], pictures: dict[str, Picture]) -> dict[str, Any]:
    """What the template shows of a split."""
    result, split = one.result, one.result["split"]
    examples = []
    for number, example in enumerate(examples_of(one, classes, SAMPLES_ON_PAGE), 1):
        alts = [f"example {number}, {tile.name} {tile.note}".strip() for tile in example.tiles]
        embedded = [_embedded(png_bytes(tile.pixels), alt) for tile, alt in zip(example.tiles, alts)]
        examples.append({"title": example.title, "id": example.id, "tiles": list(zip(example.tiles, embedded))})
    best = best_trivial(result)
    return {
        "name": split,
        "result": result,
        "verdict": verdict(result, one.values),
        "findings": findings(result),
        "caption": caption(result),
        "reading": reading_of(result, len(classes)),
        "rows": scores_rows(result),
        "more": more_rows(result),
        "best": ROWS[best] if best else None,
        "bound": "hm_iou" in one.values and raters_matched(result) is not None,
        "ranking": pictures[f"ranking_{split}"],
        "examples": examples,
        "shown": min(SAMPLES_ON_PAGE, result["samples"]),
        "classes": [(c.name, color_of(c)) for c in shown_classes(one, classes)],
        "flips": _flips(result, pictures),
        "probability": _gradient(PROBABILITY_COLORS) if len(classes) == 2 else None,
        "entropy": _gradient(ENTROPY_COLORS),
        "histograms": [pictures[f"{key}_{split}"] for key in SCORES if key in one.values],
        "reliability": pictures[f"reliability_{split}"],
        "background": classes[0].name,
        "few": FEW_OBSERVATIONS,
    }


def _flips(result: dict[str, Any], pictures: dict[str, Picture]) -> dict[str, Any] | None:
    """The section on classes that flip, where they do."""
    if not result.get("class_flips"):
        return None
    return {"rows": flip_rows(result), "notes": flip_notes(result), "plot": pictures[f"flips_{result['split']}"]}


def _progress(run: Path) -> list[tuple[str, Picture]]:
    """First, middle and last picture of the training, with their steps."""
    files = sorted((run / "progress").glob("*.png"))
    chosen = [files[i] for i in sorted({0, len(files) // 2, len(files) - 1})] if files else []
    found = []
    for file in chosen:
        step = file.stem.removeprefix("step_").lstrip("0") or "0"
        try:
            with Image.open(file) as image:
                pixels = np.asarray(image.convert("RGB"))
        except OSError as error:
            raise InputError(f"{file}: not readable as a picture ({error}); delete it") from error
        h, w = pixels.shape[:2]
        if w > WIDEST_PICTURE:
            size = (WIDEST_PICTURE, round(h * WIDEST_PICTURE / w))
            pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
        found.append(
            (
                step,
                _embedded(png_bytes(pixels), f"images, raters, samples and q of the validation split at step {step}"),
            )
        )
    return found


def _facts(
    run: Path, model: dict[str, Any], evaluated: list[Evaluated], metrics: list[dict[str, float]]
) -> dict[str, str]:
    import matplotlib
    import torch

    import stochseg

    timed = [line for line in metrics if "minutes" in line]
    facts = {"run": str(run), "classes": ", ".join(c["name"] for c in model["classes"])}
    facts["images"] = (
        f"{model['channels']} channel{'s' * (model['channels'] > 1)}, trained at {model['size'][0]} × {model['size'][1]} pixels"
    )
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
            f"store {r['store']}, {images(r)} of {groups(r)}, {counted(r['raters_per_image'], 'rater')}, "
            f"{counted(r['samples'], 'sample')} an image, seed {r['seed']}, {r['seconds']:.1f} seconds with all baselines"
        )
        facts[f"convention {r['convention']}"] = source
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


def embedded_plot(plot: Plot, folder: Path) -> Picture:
    """The plot as it was saved to the folder, and a dark twin."""
    return _embedded((folder / f"{plot.name}.png").read_bytes(), plot.alt, plot.png(DARK))


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


def render(template: str, **content: Any) -> str:
    """A template of this package, filled in."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**content)
