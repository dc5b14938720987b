"""A comparison of runs as Markdown, JSON, one page, and a figure: GED against the time of a sample."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stochseg.report.figures import LIGHT, Plot, Theme, new_axes, new_figure
from stochseg.report.table import matched_title
from stochseg.wording import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = {
    "ged": "GED ↓",
    "hm_iou": "matched IoU ↑",
    "diversity": "diversity",
    "distance_to_labels": "distance to labels ↓",
}


def comparison_rows(result: dict[str, Any]) -> list[list[str]]:
    """Header and a row a run, cells as text."""
    titles = COLUMNS | {"hm_iou": f"{matched_title(result['convention'])} ↑"}
    rows = [
        ["run", "method", *titles.values(), "GED less the first's", "parameters", "training", "passes", "ms a sample"]
    ]
    for one in result["runs"]:
        difference = one["differences"].get("ged")
        rows.append(
            [
                one["run"],
                one["method"],
                *(_scored(one, key) for key in COLUMNS),
                "" if difference is None else f"{difference['difference']:+.3f} {_interval(difference['interval'])}",
                f"{one['parameters'] / 1e6:.2f} M",
                "" if one["training_seconds"] is None else f"{one['training_seconds'] / 60:.1f} min",
                str(one["passes"]),
                f"{one['milliseconds_per_sample']:.2f}",
            ]
        )
    return rows


def comparison_text(result: dict[str, Any]) -> str:
    """The comparison as aligned text, for a terminal."""
    rows = comparison_rows(result)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join([caption(result), "", *lines])


def caption(result: dict[str, Any]) -> str:
    of = "" if result["images"] == result["split_images"] else f" of {result['split_images']:,}"
    return (
        f"{result['images']:,}{of} images of {counted(result['groups'], result['group_name'])}, split {result['split']} of "
        f"{result['store']}, {counted(result['samples'], 'sample')} an image, convention {result['convention']}; "
        f"[95 % interval over {result['group_name']}s]; differences are paired, image by image"
    )


def write_comparison(folder: Path, result: dict[str, Any]) -> None:
    """FOLDER/comparison.json, .md, .html, and the figure as .png and .pdf."""
    folder.mkdir(parents=True, exist_ok=True)
    plot = Plot("comparison", "GED against the time of a sample", lambda theme: _figure(result, theme))
    plot.save(folder)
    rows = comparison_rows(result)
    table = ["| " + " | ".join(row) + " |" for row in rows]
    table.insert(1, "|" + "---|" * len(rows[0]))
    markdown = "\n".join(
        ["# Comparison", "", caption(result), "", *table, "", "![GED against time](comparison.png)", ""]
    )
    for name, text in (
        ("comparison.md", markdown),
        ("comparison.html", _page(result, rows, plot.png(LIGHT))),
        ("comparison.json", json.dumps(result, indent=1)),
    ):
        partial = folder / f"{name}.partial"
        partial.write_text(text)
        partial.replace(folder / name)


def _figure(result: dict[str, Any], theme: Theme) -> Figure:
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = new_figure(3.4, theme)
    axes = new_axes(figure.add_subplot(), theme)
    for i, one in enumerate(result["runs"]):
        time, color = one["milliseconds_per_sample"], theme.first if i == 0 else theme.second
        if one.get("ged_interval"):
            axes.plot([time, time], one["ged_interval"], color=color, linewidth=2, alpha=0.5)
        axes.plot(time, one["ged"], "o", color=color)
        axes.annotate(
            Path(one["run"]).name, (time, one["ged"]), (7, 3), textcoords="offset points", color=theme.ink, fontsize=8
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("milliseconds a sample")
    axes.set_ylabel(f"GED, {result['samples']} samples (lower is better)")
    return figure


def _page(result: dict[str, Any], rows: list[list[str]], picture: bytes) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<title>Comparison of runs</title><style>body{font:16px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;"
        "padding:0 1rem;color:#1c1f23;background:#fff}div{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem}"
        "th,td{text-align:left;padding:.4rem .8rem .4rem 0;border-bottom:1px solid #dfe2e6;white-space:nowrap}"
        "img{width:100%;max-width:34rem}</style>"
        f"<h1>Comparison of runs</h1><p>{html.escape(caption(result))}</p><div><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
        f'<img alt="GED against the time of a sample" src="data:image/png;base64,{base64.b64encode(picture).decode()}"></html>'
    )


def _scored(one: dict[str, Any], key: str) -> str:
    return "-" if one.get(key) is None else f"{one[key]:.3f} {_interval(one.get(f'{key}_interval'))}".rstrip()


def _interval(interval: list[float] | None) -> str:
    return f"[{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
