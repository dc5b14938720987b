"""The table that `score` prints: one method with intervals, or two side by side with their paired difference."""

from collections.abc import Sequence
from typing import Any

from stochseg.metrics.conventions import get_convention
from stochseg.scoring import SCORES, Score

ARROWS = {"lower": "↓", "higher": "↑", "": ""}
TITLES = {"ece_mean": Score("calibration error of the mean", "lower")}
"""Scores of all images together, beside those that each image has."""
DIGITS = {"ece_mean": 4}


def score_table(result: dict[str, Any]) -> str:
    """What `stochseg.score.score` returns, as aligned text."""
    return _compared(result) if "difference" in result else _single(result)


def _single(result: dict[str, Any]) -> str:
    rows = [["score", "", "mean", "95 % interval", "undefined images"]]
    for key, title in _titles(result):
        if key in result:
            count = result["undefined"].get(key)
            rows.append(
                [
                    title.title,
                    ARROWS[title.better],
                    _number(result[key], key),
                    _interval(result.get(f"{key}_interval"), key),
                    str(count or ""),
                ]
            )
    return _joined(
        [
            f"{result['samples_folder']} against {result['labels_folder']}",
            f"{_facts(result)}; {result['samples']} samples of an image",
        ],
        rows,
        ["↑ higher is better, ↓ lower is better", *_notes(result, result["undefined"])],
    )


def _compared(result: dict[str, Any]) -> str:
    a, b = result["a"], result["b"]
    rows = [["score", "", "A", "B", "A - B", "95 % interval", "p", "better", "images"]]
    for key, title in _titles(result):
        if key not in result["difference"]:
            continue
        entry = result["difference"][key]
        interval, p = entry.get("interval"), entry.get("p_value")
        rows.append(
            [
                title.title,
                ARROWS[title.better],
                *(_number(entry.get(which), key) for which in ("a", "b", "difference")),
                _interval(interval, key),
                "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}",
                _better(title, interval),
                str(entry["images"]),
            ]
        )
    undefined = {key: entry["undefined"] for key, entry in result["difference"].items() if entry["undefined"]}
    notes = [
        "↑ higher is better, ↓ lower is better; better: whose the interval of the difference says it is, = neither",
        "means and differences are over the images where the score is defined for both methods, as many as the last "
        "column says",
        *_notes(result, undefined),
    ]
    if a["samples"] != b["samples"]:
        notes.append(
            f"A has {a['samples']} samples of an image and B {b['samples']}: most scores move with that number; compare "
            "equal ones"
        )
    return _joined(
        [
            f"A: {a['samples_folder']}, {a['samples']} samples of an image",
            f"B: {b['samples_folder']}, {b['samples']} samples of an image",
            f"against {result['labels_folder']}, {_facts(result)}",
        ],
        rows,
        notes,
    )


def _facts(result: dict[str, Any]) -> str:
    images, groups, name = result["images"], result["groups"], result["group_name"]
    of = "" if name == "image" else f" of {groups:,} {name}{'' if groups == 1 else 's'}"
    raters, missing = result["raters_per_image"], result["missing_raters"]
    of_raters = f"{raters} rater{'' if raters == 1 else 's'}" + (f" ({missing:,} maps missing)" if missing else "")
    return (
        f"{images:,} image{'' if images == 1 else 's'}{of}, {of_raters}, "
        f"{result['classes']} classes, convention {result['convention']}"
    )


def _notes(result: dict[str, Any], undefined: dict[str, int]) -> list[str]:
    notes = []
    if undefined:
        notes.append(
            "undefined: the score has no value for these images (docs/metrics.md says when); means leave them out"
        )
    if result["groups"] == 1:
        notes.append(f"no intervals: they take images of at least 2 {result['group_name']}s")
    else:
        notes.append(f"intervals: bootstrap over {result['groups']:,} {result['group_name']}s")
    if result["skipped"]:
        some = ", ".join(result["skipped_images"][:3]) + (", ..." if result["skipped"] > 3 else "")
        notes.append(f"skipped: {result['skipped']:,} images without samples or labels ({some})")
    notes.append(f"{result['seconds']:.1f} s")
    return notes


def _titles(result: dict[str, Any]) -> list[tuple[str, Score]]:
    """Every score that there may be, those without a title of their own by their key, in the order to show."""
    found = result.get("difference") or {
        key: None for key, value in result.items() if f"{key}_interval" in result or (key in SCORES and value is None)
    }
    titles = SCORES | TITLES
    if get_convention(result["convention"]).matched == "dice":
        titles = titles | {"hm_iou": Score("matched Dice", "higher")}
    return list(titles.items()) + [(key, Score(key.replace("_", " "), "")) for key in found if key not in titles]


def _better(title: Score, interval: Sequence[float] | None) -> str:
    if not title.better or interval is None:
        return ""
    low, high = interval
    if low <= 0 <= high:
        return "="
    return "A" if (high < 0) == (title.better == "lower") else "B"


def _joined(head: list[str], rows: list[list[str]], notes: list[str]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(_aligned(cell, i, widths[i]) for i, cell in enumerate(row)).rstrip() for row in rows]
    rule = "-" * max(map(len, lines))
    return "\n".join([*head, "", lines[0], rule, *lines[1:], "", *notes])


def _aligned(cell: str, column: int, width: int) -> str:
    """Names and arrows to the left, numbers to the right."""
    return cell.ljust(width) if column < 2 else cell.rjust(width)


def _interval(interval: Sequence[float] | None, key: str) -> str:
    return "" if not interval else f"[{_number(interval[0], key)}, {_number(interval[1], key)}]"


def _number(value: float | None, key: str) -> str:
    if value is None:
        return "-"
    text = f"{value:.{DIGITS.get(key, 3)}f}" if abs(value) < 100 else f"{value:,.1f}"
    return text.lstrip("-") if not text.strip("-0.") else text  # no "-0.000"
