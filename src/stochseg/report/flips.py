"""The plot of classes that flip: how often each does in q and in the samples, beside how often it should."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stochseg.report.figures import Plot, Theme, new_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SERIES = {"q": "q", "samples": "samples"}
BAR = 0.34
"""Width of a bar, where a group of them has room for 1."""


def flips_plot(result: Mapping[str, Any]) -> Plot:
    """The plot flips_SPLIT of a result of `evaluate` on a store whose classes flip."""
    rows = result["class_flips"]
    told = "; ".join(
        f"{row['from']} {row['probability']:.3f}: "
        + ", ".join(f"{name} {_text(row[key])}" for key, name in SERIES.items())
        for row in rows
    )
    return Plot(
        f"flips_{result['split']}",
        f"Frequency of every flip in q and in the samples beside its probability: {told}",
        lambda theme: flip_bars(rows, theme),
    )


def flip_bars(rows: Sequence[Mapping[str, Any]], theme: Theme) -> Figure:
    """A group of bars a flip: its frequency in q and in the samples, with intervals, and a line at its probability.

    rows: as `scoring.streets.flip_summary` gives them; a frequency that is None has no bar.
    """
    figure = new_figure(3.4, theme, max(4.6, 1.05 * len(rows)))
    axes = new_axes(figure.add_subplot(), theme)
    axes.grid(axis="x", visible=False)
    for place, (key, name) in enumerate(SERIES.items()):
        color = (theme.first, theme.second)[place]
        known = [(x, row) for x, row in enumerate(rows) if row[key] is not None]
        at = [x + (place - (len(SERIES) - 1) / 2) * BAR for x, _ in known]
        axes.bar(at, [row[key] for _, row in known], BAR * 0.9, color=color, alpha=0.75, label=name)
        for x, (_, row) in zip(at, known):
            if row[f"{key}_interval"] is not None:
                axes.plot([x, x], row[f"{key}_interval"], color=theme.ink, linewidth=1.2)
    for x, row in enumerate(rows):
        label = "probability" if x == 0 else None
        reach = BAR * len(SERIES) / 2 + 0.05
        axes.plot([x - reach, x + reach], [row["probability"]] * 2, color=theme.ink, linewidth=2, label=label)
    axes.set_xticks(range(len(rows)), [textwrap.fill(row["from"], 12) for row in rows])
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("frequency of the flip")
    axes.set_ylim(0, None)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=3,
        frameon=False,
        fontsize=9,
        labelcolor=theme.ink,
        borderaxespad=0.2,
        handlelength=1.6,
        columnspacing=1.2,
    )
    return figure


def _text(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
