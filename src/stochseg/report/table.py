"""What the scores say: the table that `evaluate` prints and the page shows, and the findings in words."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stochseg.metrics.conventions import CONVENTIONS
from stochseg.metrics.intervals import bootstrap_interval
from stochseg.scoring.scores import SCORES
from stochseg.wording import counted

ROWS = {
    "raters": "the raters' own population",
    "truth": "the true distribution",
    "all_empty": "always empty",
    "argmax": "most likely map of q, repeated",
    "independent_pixels": "independent pixels drawn from q",
}
COLUMNS = {
    "ged": "GED",
    "hm_iou": "matched IoU",
    "diversity": "diversity",
    "distance_to_labels": "distance to labels",
}
TRIVIAL = ("all_empty", "argmax", "independent_pixels")
"""The rows that a model must beat; the others are what it cannot be expected to beat."""
ALIKE = 0.1
"""Diversities that differ by less than this share of the raters' are called alike."""


def scores_rows(result: dict[str, Any]) -> list[list[str]]:
    """Header, the model's row, then one row a trivial answer; cells as text."""
    titles = COLUMNS | {"hm_iou": matched_title(result["convention"])}
    rows = [["", *titles.values()], ["this model", *(_cell(result, key) or "-" for key in COLUMNS)]]
    for name, text in shown_answers(result).items():
        if name in result["baselines"]:
            scores = result["baselines"][name]
            if name == "raters":  # independent draws from their population differ from raters as raters from raters
                own = result.get("raters_diversity")
                scores = {"diversity": own, "distance_to_labels": own} | scores
            shown = {key: _number(scores.get(key)) or "-" for key in COLUMNS}
            if name == "raters":
                bound = raters_matched(result)
                shown["hm_iou"] = "-" if bound is None else f"at least {_number(bound)}"
            rows.append([text, *shown.values()])
    return rows


def shown_answers(result: dict[str, Any]) -> dict[str, str]:
    """`ROWS` without what makes no sense: where classes flip none is a background, and no map is empty."""
    return {name: text for name, text in ROWS.items() if name != "all_empty" or not result.get("flips")}


def matched_title(convention: str) -> str:
    """What `hm_iou` is called under a convention, by what it matches on."""
    rule = CONVENTIONS.get(convention)
    return "matched Dice" if rule is not None and rule.matched == "dice" else "matched IoU"


def raters_matched(result: dict[str, Any]) -> float | None:
    """A lower bound of the matched IoU of a model that equals the raters; None where there is none to compare with.

    It pairs few maps with few. Where only as many samples as raters are matched, a model picks these from many.
    """
    rule = CONVENTIONS.get(result["convention"])
    if rule is not None and rule.matching == "rectangular":
        return None
    bound: float | None = result["baselines"].get("raters", {}).get("hm_iou")
    return bound


def scores_table(result: dict[str, Any]) -> str:
    """The scores as aligned text."""
    lines = _aligned(scores_rows(result))
    more = more_rows(result)
    width = max((len(row[0]) for row in more), default=0)
    lines += ["", *(f"{title.ljust(width)}  {rest}" for title, rest in more)]
    street = [*flip_lines(result), ""] if "class_flips" in result else []
    return "\n".join([caption(result), "", *lines, "", *street, details(result)])


FLIP_COLUMNS = {
    "q": "q",
    "samples": "samples",
    "q_right": "q, where right",
    "samples_right": "samples, where right",
    "coherence": "coherence",
}


def flip_rows(result: dict[str, Any]) -> list[list[str]]:
    """Header, then a row a flip: its probability beside its frequency; cells as text."""
    rows = [["class that flips", "probability", *FLIP_COLUMNS.values()]]
    for flip in result["class_flips"]:
        cells = (_cell(flip, key) or "-" for key in FLIP_COLUMNS)
        rows.append([f"{flip['from']}, {flip['to']}", _number(flip["probability"]), *cells])
    return rows


def flip_lines(result: dict[str, Any]) -> list[str]:
    """The same as aligned lines, with what the columns are."""
    return [*_aligned(flip_rows(result)), "", *flip_notes(result)]


def flip_notes(result: dict[str, Any]) -> list[str]:
    said = [
        "Frequencies: share of the flipped side in what both sides of the class get, over its pixels in all images; right: "
        f"where {result['right_means']} is. Coherence: share of the class's pixels on the side that most of "
        f"them take, in one sample of an image. [95 % interval over {result['flips_intervals_over']}]"
    ]
    if result["joint_total_variation"] is not None:
        said.append(
            f"Joint outcomes of all flips: total variation {result['joint_total_variation']:.3f} from their probabilities, "
            f"{result['joint_total_variation_of_draws']:.3f} for as many exact draws; {result['joint_none']:.0%} of the "
            "samples show neither side of some class"
        )
    return said


def more_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    """The scores beside the main ones: name with an arrow to the better side, and value with interval."""
    rows = []
    for key, score in SCORES.items():
        if key in COLUMNS or result.get(key) is None:
            continue
        arrow = {"higher": " \u2191", "lower": " \u2193", "": ""}[score.better]
        truth = result["baselines"].get("truth", {}).get(key)
        notes = [f"undefined for {counted(result['undefined'][key], 'image')}"] if key in result["undefined"] else []
        notes += [f"{ROWS['truth']} {_number(truth)}"] if truth is not None else []
        rows.append((score.title + arrow, _cell(result, key) + (f"; {', '.join(notes)}" if notes else "")))
    return rows


def caption(result: dict[str, Any]) -> str:
    return (
        f"{images(result)} of {groups(result)}, split {result['split']}, {counted(result['samples'], 'sample')} an image"
        f"{' (stratified, not independent draws)' if result.get('draws', 'independent') != 'independent' else ''}"
        f"{' in {} orientations'.format(result['orientations']) if result.get('orientations', 1) > 1 else ''}, "
        f"convention {result['convention']}; [95 % interval over {groups(result).split()[-1]}]"
    )


def groups(result: dict[str, Any]) -> str:
    """How many of what the images belong to: "105 patients"."""
    return counted(result["groups"], result["group_name"])


def images(result: dict[str, Any]) -> str:
    """How many images were scored, and of how many where that is not all: "20 of 1,540 images"."""
    whole = result.get("split_images", result["images"])
    part = f"{result['images']:,} of " if whole != result["images"] else ""
    return part + counted(whole, "image")


def details(result: dict[str, Any]) -> str:
    said = [
        f"Calibration error of q {_cell(result, 'ece_q', 4)}, of the samples' mean {_cell(result, 'ece_mean', 4)}",
    ]
    if result.get("empty") is not None:
        said.append(f"P(empty) {_cell(result, 'empty', 3)}, of the raters {_cell(result, 'raters_empty', 3)}")
    if result.get("miou") is not None:
        text = f"mean IoU of the most likely map {_cell(result, 'miou')}"
        either = result.get("miou_either_side")
        said.append(text + (f", {_cell(result, 'miou_either_side')} with either side of a flip" if either else ""))
    return "; ".join([*said, f"{result['seconds']:.1f} s"])


def best_trivial(result: dict[str, Any], key: str = "ged") -> str | None:
    """Name of the trivial answer with the best score: the lowest GED, the highest of any other."""
    scores = {name: result["baselines"].get(name, {}).get(key) for name in TRIVIAL}
    known = {name: score for name, score in scores.items() if score is not None}
    sign = 1 if key == "ged" else -1
    return min(known, key=lambda name: sign * known[name]) if known else None


def verdict(result: dict[str, Any], values: Mapping[str, NDArray[Any]]) -> str:
    """One sentence: does the model beat the best trivial answer in GED, image by image and group by group?

    values: scores of the images as evaluation writes them, with their groups. A difference counts where the 95 %
    interval of its mean, bootstrapped over groups, leaves 0 out.
    """
    best = best_trivial(result)
    if best is None:
        return "How close the samples come to the raters"
    gained = values["ged"] - values[f"{best}_ged"]
    if len(np.unique(values["groups"][np.isfinite(gained)])) < 2:
        return "Too few groups of images to tell the model from a trivial answer"
    low, high = bootstrap_interval(gained, values["groups"])
    if high < 0:
        return "The samples come closer to the raters than any trivial answer"
    if low > 0:
        return "A trivial answer comes closer to the raters than the samples do"
    return f"These {groups(result)} do not tell the model from a trivial answer"


def findings(result: dict[str, Any]) -> list[str]:
    """The main numbers in plain sentences."""
    model, best, baselines = result["ged"], best_trivial(result), result["baselines"]
    said = [
        f"GED {_cell(result, 'ged')} with {counted(result['samples'], 'sample')} on {counted(result['images'], 'image')} of "
        f"{groups(result)}; lower is better."
    ]
    raters = baselines.get("raters", {}).get("ged")
    if best is not None and raters is not None:
        trivial = baselines[best]["ged"]
        text = (
            f"Trivial answers reach {trivial:.3f} at best ({ROWS[best]}); "
            f"draws from the raters' own population would reach {raters:.3f}."
        )
        if raters < model < trivial:
            share = 100 * (trivial - model) / (trivial - raters)
            text += f" The model goes {share:.0f}\u00a0% of the way from the one to the other."
        said.append(text)
    if baselines.get("truth", {}).get("ged") is not None:
        said.append(
            f"Draws from the true distribution, known for generated images, reach {baselines['truth']['ged']:.3f}."
        )
    ours, theirs = result.get("diversity"), result.get("raters_diversity")
    if ours is not None and theirs:
        how = "as much as" if abs(ours / theirs - 1) < ALIKE else "more than" if ours > theirs else "less than"
        said.append(f"The samples of an image vary {how} its raters do: diversity {ours:.3f} against {theirs:.3f}.")
    return said


def _aligned(rows: list[list[str]]) -> list[str]:
    """Rows of cells as lines, the first of them a header."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def _cell(result: dict[str, Any], key: str, digits: int = 3) -> str:
    interval = result.get(f"{key}_interval")
    shown = f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else ""
    return _number(result.get(key), digits) + shown


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"
