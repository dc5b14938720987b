"""What `stochseg calibrate` found, in words and numbers for a terminal."""

from collections.abc import Sequence
from typing import Any

from stochseg.data.store import ClassInfo
from stochseg.models.calibrated import Calibrated
from stochseg.wording import counted

WHOLE = 0.5
"""Sets of more than this share of an image say little about where an outline lies."""


def calibration_text(record: dict[str, Any]) -> str:
    """The record that `calibrate` returns, as text."""
    lines = [f"{_halves(record)}; [95 % interval over these]", ""]
    if record["temperature"] is not None:
        lines += [*_temperature(record), ""]
    return "\n".join(lines + _coverage(record))


def calibration_sentences(
    calibrated: Calibrated, classes: Sequence[ClassInfo], results: Sequence[dict[str, Any]]
) -> list[str]:
    """The same in a few sentences for the report; results: of `evaluate`, whose scores may be from before it."""
    record = calibrated.record
    said = [f"`stochseg calibrate`: {_halves(record)}. Intervals are over the latter."] if record else []
    if record.get("split") == "train":
        said.append("The model was trained on that split, so that none of this holds for new images.")
    if calibrated.temperature:
        listed = ", ".join(f"{c.name} {t:.3f}" for c, t in zip(classes, calibrated.temperature))
        said.append(f"Temperatures of q: {listed}.")
    found = record.get("temperature")
    if found:
        nll, ged = (
            f"from {found[name][0]:.4f} to {found[name][1]:.4f} ({_change(found, name)})" for name in ("nll", "ged")
        )
        text = f"{'They take' if found['kept'] else 'Temperatures would have taken'} the negative log likelihood of q {nll}"
        text += f" and the GED of {counted(record['samples'], 'sample')} {ged}"
        said.append(text + ("." if found["kept"] else ", and were not kept."))
    covers = record.get("coverage", {})
    if covers and calibrated.coverage:
        c = calibrated.coverage
        said.append(
            f"Sets of {counted(c.samples, 'sample')}, on images of {c.fitted_at()} pixels, that are to hold "
            f"{_part(c.share)} of a new rater's outline with probability {c.probability:g}, on average over "
            f"{counted(2, record['group_name']).split()[-1]}. {' '.join(_class_sentence(*one) for one in covers.items())}"
        )
    before = [r["split"] for r in results if list(r.get("temperature") or ()) != list(calibrated.temperature or ())]
    if before:
        said.append(f"The scores of {', '.join(before)} above are without these temperatures: evaluate again.")
    return said


def _class_sentence(name: str, facts: dict[str, Any]) -> str:
    return (
        f"{name}: they cover {_with_interval(facts, 'coverage')} of the outlines with {facts['area']:.0f} pixels "
        f"({100 * facts['area_share']:.1f} % of the image), the pixels inside at least one sample "
        f"{_with_interval(facts, 'union_coverage')} with {facts['union_area']:.0f}."
    )


def _halves(record: dict[str, Any]) -> str:
    fit, held_out = (
        f"{counted(record[half]['images'], 'image')} of {counted(record[half]['groups'], record['group_name'])}"
        for half in ("fit", "held_out")
    )
    return f"fitted on {fit} of split {record['split']}, measured on {held_out} held out"


def _part(share: float) -> str:
    return "the whole" if share == 1 else f"{100 * share:g} %"


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
    h, w = record["size"]
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
        f"sets of {counted(record['samples'], 'sample')}, on images of {w}x{h} pixels, to hold {_part(record['share'])} "
        f"of a new rater's outline with probability {record['probability']:g}, and (right of |) the pixels inside at "
        "least one sample",
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
