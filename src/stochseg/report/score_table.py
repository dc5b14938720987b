"""The table that `score` prints: one method with intervals, or two side by side with their paired difference."""

from collections.abc import Sequence
from typing import Any

from stochseg.report.table import matched_title
from stochseg.scoring.scores import SCORES, Score
from stochseg.wording import counted, some

ARROWS = {"lower": "↓", "higher": "↑", "": ""}
TITLES = {"ece_mean": Score("calibration error of the mean", "lower")}
"""Scores of all images together, beside those that each image has."""
DIGITS = {"ece_mean": 4}
LEVEL = 0.05
"""A method is called better where the interval of the difference lies off 0 and p, where there is a p, is below."""
FEWEST_GROUPS = 6
"""Of fewer the smallest p there is, 2 of 2^groups flips of signs, is not below `LEVEL`."""


def score_table(result: dict[str, Any]) -> str:
    """What `scoring.folders.score` returns, as aligned text."""
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
            f"{_facts(result)}; {counted(result['samples'], 'sample')} of an image",
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
                _better(title, interval, p) if result["groups"] >= FEWEST_GROUPS else "",
                str(entry["images"]),
            ]
        )
    undefined = {key: entry["undefined"] for key, entry in result["difference"].items() if entry["undefined"]}
    found = counted(result["groups"], result["group_name"])
    few = f"{found}: fewer than {FEWEST_GROUPS} cannot tell which is better (p stays above {LEVEL})"
    notes = [
        "↑ higher is better, ↓ lower is better; better: whose the interval of the difference says it is, with p < "
        f"{LEVEL} where there is a p; = neither",
        "means and differences are over the images where the score is defined for both methods, as many as the last "
        "column says",
        *([few] if result["groups"] < FEWEST_GROUPS else []),
        *_notes(result, undefined),
    ]
    if a["samples"] != b["samples"]:
        notes.append(
            f"A has {counted(a['samples'], 'sample')} of an image and B {b['samples']}: most scores move with that "
            "number; compare equal ones"
        )
    return _joined(
        [
            f"A: {a['samples_folder']}, {counted(a['samples'], 'sample')} of an image",
            f"B: {b['samples_folder']}, {counted(b['samples'], 'sample')} of an image",
            f"against {result['labels_folder']}, {_facts(result)}",
        ],
        rows,
        notes,
    )


def _facts(result: dict[str, Any]) -> str:
    name, missing = result["group_name"], result["missing_raters"]
    of = "" if name == "image" else f" of {counted(result['groups'], name)}"
    absent = f" ({counted(missing, 'map')} missing)" if missing else ""
    return (
        f"{counted(result['images'], 'image')}{of}, {counted(result['raters_per_image'], 'rater')}{absent}, "
        f"{result['classes']} classes, convention {result['convention']}"
    )


def _notes(result: dict[str, Any], undefined: dict[str, int]) -> list[str]:
    notes = []
    if undefined:
        notes.append(
            "undefined: the score has no value for these images (docs/metrics.md says when); means leave them out"
        )
    if result["groups"] == 1:
        notes.append(f"no intervals: they need at least {counted(2, result['group_name'])}")
    else:
        alone = "; images of one patient belong together: --groups" if result["group_name"] == "image" else ""
        notes.append(f"intervals: bootstrap over {counted(result['groups'], result['group_name'])}{alone}")
    if result["skipped"]:
        names = some(result["skipped_images"])
        notes.append(f"skipped: {counted(result['skipped'], 'image')} without samples or labels ({names})")
    notes.append(f"{result['seconds']:.1f} s")
    return notes


def _titles(result: dict[str, Any]) -> list[tuple[str, Score]]:
    """Every score that there may be, those without a title of their own by their key, in the order to show."""
    found = result.get("difference") or {
        key: None for key, value in result.items() if f"{key}_interval" in result or (key in SCORES and value is None)
    }
    titles = SCORES | TITLES
    titles = titles | {"hm_iou": Score(matched_title(result["convention"]), "higher")}
    return list(titles.items()) + [(key, Score(key.replace("_", " "), "")) for key in found if key not in titles]


def _better(title: Score, interval: Sequence[float] | None, p: float | None) -> str:
    if not title.better or interval is None:
        return ""
    low, high = interval
    if low <= 0 <= high or (p is not None and p >= LEVEL):
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
