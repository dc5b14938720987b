"""The study's plots: samples over x, the discriminator's landscape, training curves, frequencies of the upper branch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from stochseg.data.regression import FORKED, upper_branch
from stochseg.regression.config import METHODS, Method, StudyConfig
from stochseg.regression.judging import CLOSE, Results
from stochseg.regression.runs import Runs
from stochseg.regression.scores import grid_of_x
from stochseg.report.figures import Plot, Theme, new_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = NDArray[np.float64]
Curves = dict[Method, list[dict[str, Any]]]
HEIGHT = 0.72
"""The y shown: -HEIGHT to HEIGHT."""
SHOWN_SAMPLES, DOTS = 500, 3
"""Samples behind the mean shown at each x, and how many of them are dots."""
CURVES = {
    "log_likelihood": "log likelihood",
    "energy_distance": "energy distance",
    "frequency_error": "error of the frequency",
}


def study_plots(config: StudyConfig, trained: Sequence[Runs], results: Results, curves: Curves) -> list[Plot]:
    """All plots; those of single runs show the first repetition at the middle sigma."""
    middle = sorted(config.sigma)[len(config.sigma) // 2]
    told = f"sigma {middle:g}, first repetition"
    plots = [
        Plot("samples", f"Samples over x beside the two branches, {told}", _samples(config, trained, middle)),
        Plot("curves", "Training curves: median and quartiles over all runs", _curves(curves, results)),
        Plot("frequencies", "Frequency of the upper branch in every run, beside pi", _frequencies(config, results)),
    ]
    adversarial = [one for one in trained if config.objective(one.method).adversarial]
    if adversarial:
        draw = _landscapes(config, adversarial, middle)
        plots.insert(1, Plot("discriminator", f"Where the discriminator takes an answer for real, {told}", draw))
    return plots


def color_of(method: str, theme: Theme) -> str:
    green = "#009e73" if theme.paper == "#ffffff" else "#2cc295"
    return {"calibrated": theme.first, "adversarial": theme.second}.get(method, green)


def _panels(rows: int, columns: int, theme: Theme) -> tuple[Figure, list[list[Axes]]]:
    figure = new_figure(0.5 + 1.75 * rows, theme, width=0.6 + 2.0 * columns)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat:
        new_axes(axes, theme).set(xlim=(0, 1), ylim=(-HEIGHT, HEIGHT), xticks=(0, 0.5, 1), yticks=(-0.5, 0, 0.5))
    return figure, [list(row) for row in grid]


def _titles(axes: Sequence[Sequence[Axes]], config: StudyConfig, trained: Sequence[Runs], theme: Theme) -> None:
    for panel, pi in zip(axes[0], config.pi):
        panel.set_title(f"π = {pi:g}", fontsize=10, color=theme.ink)
    for row, one in zip(axes, trained):
        row[0].set_ylabel(f"{METHODS[one.method]}\ny")
    for panel in axes[-1]:
        panel.set_xlabel("x")


def _first_run(config: StudyConfig, pi: float, sigma: float) -> int:
    """The index among the runs of the first repetition of a setting."""
    return (config.pi.index(pi) * len(config.sigma) + config.sigma.index(sigma)) * config.repetitions


def _samples(config: StudyConfig, trained: Sequence[Runs], sigma: float) -> Callable[[Theme], Figure]:
    x = grid_of_x(trained[0].grid.runs, 100)
    drawn = [one.sample(x, SHOWN_SAMPLES, torch.Generator().manual_seed(config.seed)).cpu() for one in trained]
    expected = trained[0].calibration(x).cpu()
    at = x[0].cpu()
    branch = upper_branch(at).numpy()

    def draw(theme: Theme) -> Figure:
        figure, axes = _panels(len(trained), len(config.pi), theme)
        for row, one, samples in zip(axes, trained, drawn):
            for panel, pi in zip(row, config.pi):
                run = _first_run(config, pi, sigma)
                for side in (branch, -branch):
                    panel.fill_between(at, side - 2 * sigma, side + 2 * sigma, color=theme.grid, linewidth=0)
                dots = samples[run, :, :DOTS]
                color = color_of(one.method, theme)
                panel.plot(at.repeat_interleave(DOTS), dots.flatten(), ".", color=color, markersize=2.5, alpha=0.7)
                panel.plot(at, expected[run], color=theme.ink, linewidth=1.4, label="F(x)")
                panel.plot(
                    at, samples[run].mean(1), color=theme.ink, linewidth=1, linestyle=(0, (2, 1.5)), label="mean of G"
                )
        _titles(axes, config, trained, theme)
        shown = axes[0][0].get_legend_handles_labels()
        figure.legend(*shown, loc="outside upper right", ncols=2, frameon=False, fontsize=9, labelcolor=theme.ink)
        return figure

    return draw


def _landscapes(config: StudyConfig, trained: Sequence[Runs], sigma: float) -> Callable[[Theme], Figure]:
    side = 101
    x, y = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(-HEIGHT, HEIGHT, side), indexing="xy")
    shape = (len(trained[0].grid.runs.pi), side * side)
    device = trained[0].grid.runs.pi.device
    real = [
        one.probability(*(each.flatten().expand(shape).to(device) for each in (x, y))).view(-1, side, side).cpu()
        for one in trained
    ]

    def draw(theme: Theme) -> Figure:
        figure, axes = _panels(len(trained), len(config.pi), theme)
        for row, found in zip(axes, real):
            for panel, pi in zip(row, config.pi):
                shown = found[_first_run(config, pi, sigma)].numpy()
                box = (0, 1, -HEIGHT, HEIGHT)
                image = panel.imshow(shown, origin="lower", extent=box, aspect="auto", cmap="RdBu_r", vmin=0, vmax=1)
                panel.contour(shown, levels=[0.5], extent=box, colors="#1c1f23", linewidths=0.8)
                panel.grid(False)
        _titles(axes, config, trained, theme)
        bar = figure.colorbar(image, ax=[panel for row in axes for panel in row], shrink=0.8, ticks=(0, 0.5, 1))
        bar.ax.tick_params(labelsize=9, color=theme.reference, labelcolor=theme.ink)
        bar.set_label("D(x, y): real", color=theme.ink, fontsize=10)
        bar.outline.set_visible(False)
        return figure

    return draw


def _curves(curves: Curves, results: Results) -> Callable[[Theme], Figure]:
    def draw(theme: Theme) -> Figure:
        figure = new_figure(0.5 + 1.9 * len(CURVES), theme)
        rows = figure.subplots(len(CURVES), 1, sharex=True)
        for axes, (key, label) in zip(rows, CURVES.items()):
            new_axes(axes, theme).set_ylabel(label)
            for method, points in curves.items():
                steps = [point["step"] for point in points]
                low, median, high = np.quantile([point[key] for point in points], (0.25, 0.5, 0.75), axis=1)
                color = color_of(method, theme)
                axes.fill_between(steps, low, high, color=color, alpha=0.25, linewidth=0)
                axes.plot(steps, median, color=color, linewidth=1.6, label=METHODS[method])
            for name, dashes in (("truth", (0, (1, 1.5))), ("collapsed", (0, (4, 2)))):
                value = results["summary"][name][key]["median"]
                axes.axhline(value, color=theme.reference, linewidth=1.2, linestyle=dashes, label=name)
        rows[0].set_ylim(bottom=-20)
        for axes in rows[1:]:
            axes.set_ylim(bottom=0)
        rows[-1].set(xlabel="steps", xlim=(0, None))
        rows[0].legend(
            loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, frameon=False, fontsize=9, labelcolor=theme.ink
        )
        figure.align_ylabels()
        return figure

    return draw


def _frequencies(config: StudyConfig, results: Results) -> Callable[[Theme], Figure]:
    def draw(theme: Theme) -> Figure:
        figure = new_figure(3.4, theme, width=0.8 + 1.9 * len(config.pi))
        panels = figure.subplots(1, len(config.pi), sharey=True, squeeze=False)[0]
        for axes, pi in zip(panels, config.pi):
            new_axes(axes, theme).axhspan(pi - CLOSE, pi + CLOSE, color=theme.grid)
            axes.axhline(pi, color=theme.reference, linewidth=1.2)
            for place, method in enumerate(config.methods):
                found = [r for r in results["runs"] if r["method"] == method and abs(r["pi"] - pi) < 1e-6]
                spread = np.linspace(-0.3, 0.3, len(found)) if len(found) > 1 else [0.0]
                color = color_of(method, theme)
                axes.plot(
                    place + np.array(spread), [r["frequency"] for r in found], "o", color=color, markersize=4, alpha=0.8
                )
            axes.set_title(f"π = {pi:g}", fontsize=10, color=theme.ink)
            axes.set_xticks(range(len(config.methods)), [METHODS[m].replace(" ", "\n") for m in config.methods])
            axes.set(xlim=(-0.5, len(config.methods) - 0.5), ylim=(-0.03, 1.03))
            axes.grid(axis="x", visible=False)
        panels[0].set_ylabel(f"upper branch, x < {FORKED:g}")
        return figure

    return draw
