"""The model card, README.md beside the weights: written when a model is kept, its scores put in when it is judged.

Everything outside of the two lines that enclose the scores is the user's to change; only what lies between is replaced.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stochseg.data.reading import parse_json
from stochseg.models.weights_file import sum_in
from stochseg.progress import say
from stochseg.wording import counted

if TYPE_CHECKING:
    from stochseg.models.segmenter import Segmenter

NAME = "README.md"
FOLDER = "FOLDER"
"""Stands in a card for where the model is; a hub's name takes its place."""
BEGIN = "<!-- scores, by `stochseg evaluate`; what is outside of these two lines is kept -->"
END = "<!-- end of scores -->"
NO_SCORES = "None yet: `stochseg evaluate RUN --data STORE --split test` puts them here."


@dataclass(frozen=True)
class Origin:
    """Where a model comes from. images, groups: of the training split; judged: images of the split that it was chosen
    on, and its mean scores there."""

    store: str
    fingerprint: str
    images: int
    groups: int
    group_name: str
    raters: int
    steps: int
    chosen_on: str
    judged: int
    ged: float
    hm_iou: float


def new_card(model: "Segmenter", origin: Origin | None = None, about: str = "") -> str:
    """The card of a model that nobody has judged yet. about: what is to be said in place of the training."""
    names = ", ".join(c.name for c in model.classes)
    h, w = model.size
    kind = {1: "grey images", 3: "colour images"}.get(model.channels, f"images of {model.channels} channels")
    attach = ", blackbox=segmenter" if model.takes_blackbox else ""
    parts = [
        "---\nlibrary_name: stochseg\npipeline_tag: image-segmentation\ntags:\n- stochastic-segmentation\n- uncertainty\n"
        "- calibration\n---",
        f"# Segmentations of {names}: a distribution to draw from",
        f"A model of stochseg, method `{model.method}`. Where {kind} have more than one "
        "right segmentation, it draws coherent ones, as often as the raters of its training data would.",
        f'```python\nimport stochseg\n\nmodel = stochseg.load("{FOLDER}"{attach})\nmaps = model.sample(images, n=16)  # uint8 '
        f"[b n h w]; images float [b {model.channels} h w] in [-1, 1]\nq = model.probabilities(images)  # float "
        f"[b {len(model.classes)} h w], the probability of each class at each pixel\n```",
    ]
    if model.takes_blackbox:
        parts.append(
            "It was built on another segmenter, which is not in it and whose answer it takes beside each image."
        )
    parts += ["## Data", about or _data(origin, h, w), "## Scores", f"{BEGIN}\n{NO_SCORES}\n{END}", "## Limits"]
    parts.append(
        "- It says how the raters of its training data would disagree. Other raters, instructions, devices and populations "
        "were not looked at unless the scores above are of them.\n"
        f"- It was trained on {h}x{w} pixels; other sizes run, and were not judged.\n"
        "- Its samples are hypotheses, not findings. For research only: not a medical device, not for clinical use."
    )
    return "\n\n".join(parts) + "\n"


def scores_text(evaluations: Sequence[Mapping[str, Any]], calibration: Mapping[str, Any] | None) -> str:
    """The scores of each split as a table, with 95 % intervals, and what the model was calibrated to."""
    rows = []
    for e in evaluations:
        of = f"{e['images']:,} of {counted(e['groups'], e['group_name'])}"
        scores = [_with_interval(e, name) for name in ("ged", "hm_iou", "ece_q")]
        others = [
            _number(e["baselines"].get(name, {}).get("ged")) for name in ("raters", "independent_pixels", "argmax")
        ]
        rows.append([f"{e['store']}, {e['split']}", of, str(e["samples"]), e["convention"], *scores, *others])
    head = ["data", "images", "samples", "convention", "GED (lower is better)", "matched IoU", "calibration error of q"]
    head += ["GED of the raters themselves", "of independent pixels", "of the likeliest map"]
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)] if rows else [NO_SCORES]
    if rows:
        by = " and ".join(sorted({counted(2, e["group_name"])[2:] for e in evaluations}))
        lines += [
            "",
            f"In brackets: 95 % intervals over {by}. Numbers of different conventions or data do not compare.",
        ]
    if calibration is not None:
        lines += ["", _calibration(calibration)]
    return "\n".join(lines)


def refresh_card(run: Path, model_folder: Path) -> None:
    """Put the scores of RUN/evaluation that are of these weights into the card, and what the model was calibrated to."""
    weights = sum_in(model_folder / "model.safetensors")
    found = map(_read, sorted((run / "evaluation").glob("*.json")))
    evaluations = [e for e in found if e.get("draws") == "independent" and e.get("orientations", 1) == 1]
    calibration = _read(model_folder / "calibration.json") if (model_folder / "calibration.json").is_file() else None
    temperature = (calibration or {}).get("temperature")
    of_it = [e for e in evaluations if (e.get("weights"), e.get("temperature")) == (weights, temperature)]
    text = scores_text(of_it, calibration)
    file = model_folder / NAME
    try:
        card = file.read_text() if file.is_file() else ""
        _put(file, with_scores(card, text))
    except OSError as error:
        say(f"{file}: the card was left as it is ({error.strerror})")


def with_scores(card: str, scores: str) -> str:
    """A card with these scores between its two lines, which are added at the end where they are missing."""
    before, begin, rest = card.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        before, after = f"{card.rstrip()}\n\n## Scores\n\n".lstrip(), "\n"
    return f"{before}{BEGIN}\n{scores}\n{END}{after}"


def _data(origin: Origin | None, h: int, w: int) -> str:
    if origin is None:
        return "Not noted."
    o = origin
    return (
        f"Trained for {o.steps:,} steps on {o.images:,} images of {counted(o.groups, o.group_name)} of the store `{o.store}` "
        f"(sha256 {o.fingerprint[:16]}...), up to {counted(o.raters, 'rater')} an image, at {h}x{w} pixels. Chosen on "
        f"{counted(o.judged, 'image')} of its split `{o.chosen_on}`: GED {o.ged:.3f}, matched IoU {o.hm_iou:.3f}; scores on "
        "that split are a little too good."
    )


def _calibration(facts: Mapping[str, Any]) -> str:
    temperature, covered = facts.get("temperature"), facts.get("coverage")
    told = [f"temperatures {', '.join(f'{t:.3g}' for t in temperature)}"] if temperature else []
    if covered:
        told.append(
            f"coverage sets that hold a new rater's outline with probability {covered['probability']:g}, of "
            f"{covered['samples']} samples"
        )
    where = facts.get("record", {})
    of = f" on {where['store']}, {where['split']}" if "store" in where and "split" in where else ""
    return f"Calibrated{of}: {' and '.join(told) or 'left as it was'}."


def _with_interval(found: Mapping[str, Any], name: str) -> str:
    interval = found.get(f"{name}_interval")
    return _number(found.get(name)) + (f" [{', '.join(map(_number, interval))}]" if interval else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _read(file: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where it is damaged, which is no reason to fail after the work."""
    try:
        found = parse_json(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _put(file: Path, text: str) -> None:
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(text)
    os.replace(partial, file)
