"""What `stochseg calibrate` found, in words and numbers for a terminal."""

from collections.abc import Sequence
from typing import Any

from stochseg.report.table import groups

WHOLE = 0.5
"""Sets of more than this share of an image say little about where an outline lies."""


def calibration_text(record: dict[str, Any]) -> str:
    """The record that `calibrate` returns, as text."""
    fit, held_out = ({"group_name": record["group_name"], **record[half]} for half in ("fit", "held_out"))
    lines = [
        f"fitted on {fit['images']:,} images of {groups(fit)} of split {record['split']}, measured on "
        f"{held_out['images']:,} images of {groups(held_out)} held out; [95 % interval over these]",
        "",
    ]
    if record["temperature"] is not None:
        lines += [*_temperature(record), ""]
    return "\n".join(lines + _coverage(record))


def _temperature(record: dict[str, Any]) -> list[str]:
    found = record["temperature"]
    rows = [
        ["", "as it is", "tempered", "change"],
        *(
            [text, *(f"{value:.5f}" for value in found[name]), _change(found, name)]
            for name, text in (
                ("nll", "negative log likelihood of q"),
                ("ece", "calibration error of q"),
                ("ged", f"GED of {record['samples']} samples"),
            )
        ),
    ]
    listed = ", ".join(f"{t:.3f}" for t in found["fitted"])
    if found["kept"]:
        verdict = f"temperatures of q, one a class: {listed}; kept"
    else:
        verdict = (
            f"temperatures of q, one a class: {listed}; not kept, since they make q no likelier on the held-out half"
        )
    lines = [verdict, *_aligned(rows)]
    interval = found["ged_change_interval"]
    if found["kept"] and interval is not None and interval[0] > 0:
        lines.append("the samples are worse with them (GED above): `--temperature false` leaves q as it is")
    return lines


def _coverage(record: dict[str, Any]) -> list[str]:
    share, probability = record["share"], record["probability"]
    part = "the whole" if share == 1 else f"{100 * share:g} %"
    rows = [["", "outlines covered", "with empty ones", "pixels", "of the image", "|", "covered", "pixels"]]
    for name, facts in record["coverage"].items():
        rows.append(
            [
                name,
                _with_interval(facts, "coverage"),
                _with_interval(facts, "coverage_with_empty"),
                f"{facts['area']:.0f}",
                f"{100 * facts['area_share']:.1f} %",
                "|",
                _with_interval(facts, "union_coverage"),
                f"{facts['union_area']:.0f}",
            ]
        )
    lines = [
        f"sets of {record['samples']} samples to hold {part} of a new rater's outline with probability {probability:g}, "
        "and (right of |) the pixels inside at least one sample",
        *_aligned(rows),
    ]
    wide = [name for name, facts in record["coverage"].items() if facts["area_share"] > WHOLE]
    if wide:
        lines.append(f"{', '.join(wide)}: so wide that it says little; ask for a lower --coverage or --share")
    return lines


def _change(found: dict[str, Any], name: str) -> str:
    if f"{name}_change" not in found:
        return f"{found[name][1] - found[name][0]:+.5f}"
    interval = found[f"{name}_change_interval"]
    return f"{found[f'{name}_change']:+.5f}" + (f" [{interval[0]:+.5f}, {interval[1]:+.5f}]" if interval else "")


def _with_interval(facts: dict[str, Any], name: str) -> str:
    if facts[name] is None:
        return "no outline"
    interval = facts[f"{name}_interval"]
    return f"{facts[name]:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]
