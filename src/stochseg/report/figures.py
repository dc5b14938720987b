"""The plots of a report, drawn with matplotlib's objects: for a page in light and dark, and as files for papers.

Plots are small, so that they can be read on a phone without zooming and placed in one column of a paper.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from stochseg.report.panels import ENTROPY_COLORS, PROBABILITY_COLORS, Tile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = NDArray[np.float64]
WIDTH = 4.6
"""Inches; at 96 pixels an inch a little wider than a phone."""
DPI = 180
FEW_OBSERVATIONS = 1000
"""Bins of a reliability diagram with fewer observations are drawn hollow."""


@dataclass(frozen=True)
class Theme:
    """Colours of a plot: Okabe and Ito's, which colour-blind eyes tell apart, in two lightnesses."""

    paper: str
    ink: str
    grid: str
    first: str
    second: str
    reference: str


LIGHT = Theme("#ffffff", "#1c1f23", "#dfe2e6", "#0072b2", "#d55e00", "#6b7178")
DARK = Theme("#1a1e24", "#e6e8eb", "#363c45", "#56b4e9", "#e69f00", "#a0a7b0")


@dataclass(frozen=True)
class Plot:
    """One plot: the name of its files, what it shows in words, and how to draw it."""

    name: str
    alt: str
    draw: Callable[[Theme], Figure]

    def png(self, theme: Theme) -> bytes:
        return self._file(theme, "png")

    def save(self, folder: Path) -> None:
        """Write FOLDER/NAME.png and .pdf, on white."""
        for kind in ("png", "pdf"):
            (folder / f"{self.name}.{kind}").write_bytes(self._file(LIGHT, kind))

    def _file(self, theme: Theme, kind: str) -> bytes:
        import matplotlib

        # without the date the same run gives the same bytes; fonts of type 42 are what publishers ask for
        undated: dict[str, Any] = {"CreationDate": None} if kind == "pdf" else {"Software": None}
        buffer = io.BytesIO()
        with matplotlib.rc_context({"pdf.fonttype": 42}):
            self.draw(theme).savefig(buffer, format=kind, dpi=DPI, metadata=undated)
        return buffer.getvalue()


def ranking(label: str, scores: Sequence[tuple[str, float]], interval: Sequence[float] | None, theme: Theme) -> Figure:
    """Scores on one line each, best known on top; the first of `scores` is the model, whose interval is a bar."""
    figure = new_figure(0.8 + 0.42 * len(scores), theme)
    axes = new_axes(figure.add_subplot(), theme)
    model = scores[0]
    order = sorted(scores, key=lambda one: -one[1])
    for place, (name, score) in enumerate(order):
        ours = (name, score) == model
        color = theme.first if ours else theme.reference
        if ours and interval is not None:
            axes.plot(interval, [place, place], color=color, linewidth=11, alpha=0.35, solid_capstyle="butt")
        axes.plot(score, place, "o", color=color, markersize=6)
        axes.annotate(
            f"{score:.3f}",
            (score, place),
            (0, 8),
            textcoords="offset points",
            ha="center",
            color=theme.ink,
            fontsize=8.5,
        )
    axes.set_yticks(range(len(order)), [textwrap.fill(name, 20) for name, _ in order])
    axes.get_yticklabels()[order.index(model)].set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(-0.06 * order[0][1], 1.1 * order[0][1])
    axes.set_ylim(-0.5, len(order) - 0.3)
    axes.set_xlabel(label)
    return figure


def histogram(
    label: str, series: Mapping[str, Values], reference: tuple[str, float] | None, theme: Theme, unit: str = "images"
) -> Figure:
    """How many images score how much: the first series filled, the second as a line, means as dashes.

    series: name -> values [N], nan left out; reference: of what is shown as one number, words that go before it and it.
    """
    figure = new_figure(3.3, theme)
    axes = new_axes(figure.add_subplot(), theme)
    defined = {name: values[np.isfinite(values)] for name, values in series.items()}
    every = np.concatenate(list(defined.values()))
    bins = int(np.clip(1.5 * np.sqrt(len(every) / len(series)), 8, 40))
    edges = np.histogram_bin_edges(every, bins)
    for (name, values), color, filled in zip(defined.items(), (theme.first, theme.second), (True, False)):
        counts = np.histogram(values, edges)[0]
        text = f"{name}, mean {values.mean():.3f}"
        if filled:
            axes.stairs(counts, edges, fill=True, color=color, alpha=0.35)
        axes.stairs(counts, edges, color=color, linewidth=1.6, label=text)
        axes.axvline(values.mean(), color=color, linewidth=1.2, linestyle=(0, (4, 2)))
    if reference is not None:
        text = f"{reference[0]} {reference[1]:.3f}"
        axes.axvline(reference[1], color=theme.reference, linewidth=1.4, linestyle=(0, (1, 1.5)), label=text)
    axes.set_xlabel(label)
    axes.set_ylabel(unit)
    _legend(axes, theme)
    return figure


def reliability(label: str, curves: Mapping[str, Mapping[str, Sequence[float]]], theme: Theme) -> Figure:
    """Stated probability against the raters' frequency, above how many observations each bin holds.

    label: the probability of what; curves: name -> confidence, frequency and pixels, each a list with an entry a bin
    that holds any.
    """
    figure = new_figure(4.7, theme)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    new_axes(above, theme)
    new_axes(below, theme)
    above.plot([0, 1], [0, 1], color=theme.reference, linewidth=1.2, linestyle=(0, (1, 1.5)), label="perfect")
    for (name, curve), color, marker in zip(curves.items(), (theme.first, theme.second), "os"):
        x, y, counts = (np.array(curve[key], np.float64) for key in ("confidence", "frequency", "pixels"))
        few = counts < FEW_OBSERVATIONS
        above.plot(x, y, color=color, linewidth=1.2, alpha=0.6)
        above.plot(x[~few], y[~few], marker, color=color, markersize=5.5, label=name)
        above.plot(x[few], y[few], marker, color=color, markersize=5.5, markerfacecolor=theme.paper)
        below.plot(x, counts, color=color, linewidth=1.2, marker=marker, markersize=3.5)
    above.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), ylabel="frequency among raters")
    below.set_yscale("log")
    below.set_ylabel("observations")
    below.set_xlabel(f"stated {label}")
    figure.align_ylabels()
    _legend(above, theme)
    return figure


def validation_curves(minutes: Values, curves: Mapping[str, Values], kept: int, theme: Theme) -> Figure:
    """GED, and diversity beside the raters' own, against minutes of training; `kept` marks the model that was kept.

    curves: "ged", "diversity", "raters_diversity", values [N] each.
    """
    figure = new_figure(4.2, theme)
    above, below = figure.subplots(2, 1, sharex=True)
    for axes, key, color in ((above, "ged", theme.first), (below, "diversity", theme.second)):
        new_axes(axes, theme).set_ylabel(key.replace("ged", "GED"))
        axes.plot(minutes, curves[key], color=color, linewidth=1.6, marker="o", markersize=3.5)
        ring = axes.plot(minutes[kept], curves[key][kept], "o", markersize=9, color=theme.ink, clip_on=False)
        ring[0].set(markerfacecolor="none", label="model kept" if axes is above else None)
    own = curves["raters_diversity"][-1]  # of the same images each time; nan where none has two raters
    if np.isfinite(own):
        below.axhline(own, color=theme.reference, linestyle=(0, (1, 1.5)), label="the raters' own")
        _legend(below, theme)
    below.set(
        xlim=(0, None), ylim=(0, 1.15 * np.nanmax([*curves["diversity"], own, 0.1])), xlabel="minutes of training"
    )
    figure.align_ylabels()
    _legend(above, theme)
    return figure


def losses(minutes: Values, curves: Mapping[str, Values], theme: Theme) -> Figure:
    """One small plot a loss, since each has its own scale, over common minutes of training; values [N], nan left out."""
    from matplotlib.ticker import LogLocator, NullLocator

    figure = new_figure(0.5 + 1.23 * len(curves), theme)
    rows = np.atleast_1d(figure.subplots(len(curves), 1, sharex=True))
    for axes, (name, values) in zip(rows, curves.items()):
        new_axes(axes, theme)
        there = np.isfinite(values)
        axes.plot(
            minutes[there], values[there], color=theme.first, linewidth=1.4, marker="o" if there.sum() == 1 else ""
        )
        if there.any() and values[there].min() > 0 and values[there].max() > 10 * values[there].min():
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_locator(NullLocator())
        axes.set_title(name, fontsize=9, color=theme.ink, loc="left", pad=3)
    rows[-1].set_xlim(left=0)
    rows[-1].set_xlabel("minutes of training")
    return figure


def examples(
    lines: Sequence[tuple[str, Sequence[Tile]]],
    legend: Sequence[tuple[str, str]],
    probability: str | None,
    theme: Theme,
) -> Figure:
    """One line an example: its title and its tiles, the same columns in each; class colours and scales below.

    legend: name and colour of each class that is painted; probability: of what, where mean and q are drawn on a scale.
    """
    from matplotlib.patches import Patch

    first = lines[0][1]
    h, w = first[0].pixels.shape[:2]
    side, gap = 0.8, 0.05  # inches
    changes = [0, *(int(a.group != b.group) for a, b in zip(first, first[1:]))]
    lefts = 0.6 + (side + gap) * np.arange(len(first)) + 3 * gap * np.cumsum(changes)
    width, head, step = lefts[-1] + side + gap, 0.5, side * h / w + gap
    columns = max(1, int((width - 6.3) / 1.5))  # of the legend, left of the scales
    foot = max(0.75, 0.4 + 0.22 * -(-len(legend) // columns))
    height = head + foot + step * len(lines)
    figure = new_figure(height, theme, width, layout=None)

    sheet = figure.add_axes((0, 0, 1, 1))  # one for all: its coordinates are inches from the top left
    sheet.set_axis_off()
    ink: dict[str, Any] = {"fontsize": 10.5, "color": theme.ink}
    for top, (title, tiles) in zip(head + step * np.arange(len(lines)), lines):
        bottom = top + side * h / w
        sheet.text(0.52, (top + bottom) / 2, title.replace(" ", "\n"), ha="right", va="center", **ink)
        for left, tile in zip(lefts, tiles):
            sheet.imshow(tile.pixels, interpolation="none", aspect="auto", extent=(left, left + side, bottom, top))
            if tile.note:
                box = {"facecolor": "black", "alpha": 0.6, "edgecolor": "none", "pad": 1.5}
                sheet.text(left + 0.04, bottom - 0.05, tile.note, color="white", fontsize=9, va="bottom", bbox=box)
    for left, tile in zip(lefts, first):
        sheet.text(left + side / 2, head - 0.06, tile.name.replace(" of ", "\nof "), ha="center", va="bottom", **ink)
    sheet.set(xlim=(0, width), ylim=(height, 0))
    below = height - foot + 0.15
    bar = (2.7 / width, 0.14 / height)
    at = 1 - (below + 0.14) / height
    _color_scale(figure.add_axes((1 - 2.8 / width, at, *bar)), ENTROPY_COLORS, "entropy (1: all classes alike)", theme)
    if probability is not None:
        _color_scale(figure.add_axes((1 - 6.1 / width, at, *bar)), PROBABILITY_COLORS, f"mean, q: {probability}", theme)
    patches = [Patch(color=color, label=name) for name, color in legend]
    anchor = (0.2 / width, (height - below + 0.1) / height)
    figure.legend(
        handles=patches,
        loc="upper left",
        bbox_to_anchor=anchor,
        ncols=columns,
        frameon=False,
        fontsize=10.5,
        labelcolor=theme.ink,
    )
    return figure


def _color_scale(axes: Axes, colors: str, label: str, theme: Theme) -> None:
    axes.imshow(np.linspace(0, 1, 256)[None], cmap=colors, aspect="auto", extent=(0, 1, 0, 1))
    axes.set(yticks=[], xticks=(0, 0.5, 1))
    axes.spines[:].set_visible(False)
    axes.tick_params(labelsize=9.5, color=theme.reference, labelcolor=theme.ink, pad=1)
    axes.set_xlabel(label, fontsize=10.5, color=theme.ink, labelpad=1)


def new_figure(
    height: float, theme: Theme, width: float = WIDTH, layout: Literal["constrained"] | None = "constrained"
) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout, facecolor=theme.paper)


def new_axes(axes: Axes, theme: Theme) -> Axes:
    """No box and no ticks where a light grid does; everything in the theme's ink."""
    axes.set_facecolor(theme.paper)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.reference)
    axes.tick_params(labelsize=9, color=theme.reference, labelcolor=theme.ink)
    axes.xaxis.label.set(color=theme.ink, fontsize=10)
    axes.yaxis.label.set(color=theme.ink, fontsize=10)
    axes.grid(color=theme.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def _legend(axes: Axes, theme: Theme) -> None:
    """Above the plot, where it covers nothing."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        frameon=False,
        fontsize=9,
        labelcolor=theme.ink,
        borderaxespad=0.2,
        handlelength=1.6,
        labelspacing=0.3,
    )
