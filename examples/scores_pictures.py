"""The pictures of docs/metrics.md, drawn by scores.py on white."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scores_toys import MODELS, SIZE, TRUTH, Maps, Toy, samples_of

from stochseg import metrics
from stochseg.report.figures import DPI, LIGHT

INK: dict[str, Any] = {"color": LIGHT.ink, "fontsize": 9.5}
COLORS = {TRUTH: "#009e73", "independent pixels": LIGHT.first, "too diverse": LIGHT.second}
BLUES = LinearSegmentedColormap.from_list("lesion", ["#eceff3", LIGHT.first])


def of_models(toy: Toy, scores: Mapping[str, Mapping[str, float]]) -> Figure:
    """One image: its answers, its raters, samples of each model; and by name of score and model what it has over all."""
    low = toy.modes[:, 4, : SIZE // 2].any((1, 2))  # lesions below leave room for the numbers
    chosen = int((np.abs(toy.probabilities - [0.25, 0.1, 0.15, 0.2, 0.3]).sum(1) + low).argmin())
    side, step, left = 0.6, 0.65, 1.85
    places = [*(left + step * np.arange(8)), left + 8.25 * step]  # of eight samples and their mean
    columns = places[-1] + side + 0.42 + 0.68 * np.arange(len(scores))
    tops = [0.15, 0.15 + step, *(0.75 + step * (2 + np.arange(len(MODELS))))]
    width, height = columns[-1] + 0.4, tops[-1] + side + 0.1
    figure = Figure(figsize=(width, height), facecolor=LIGHT.paper)
    sheet = figure.add_axes((0, 0, 1, 1))
    sheet.set_axis_off()

    def line(top: float, name: str, maps: Maps | NDArray[np.float64], xs: list[float]) -> None:
        sheet.text(left - 0.12, top + side / 2, name.replace(", ", ",\n"), ha="right", va="center", **INK)
        for x, picture in zip(xs, maps):
            edges = (x, x + side, top + side, top)
            sheet.imshow(picture, cmap=BLUES, vmin=0, vmax=1, extent=edges, aspect="auto", interpolation="none")

    line(tops[0], "the five answers", toy.modes[chosen], places)
    line(tops[1], "what four raters drew", toy.labels[chosen], places)
    for x, p in zip(places, toy.probabilities[chosen]):
        sheet.text(x + 0.05, tops[0] + 0.13, f"{100 * p:.0f} %", color=LIGHT.ink, fontsize=8)
    heads = [(places[0], "eight samples of each model", "left"), (places[-1] + side / 2, "mean\nof all 16", "center")]
    heads += [(x, score.replace(" ", "\n"), "center") for x, score in zip(columns, scores)]
    for x, text, ha in heads:
        sheet.text(x, tops[2] - 0.08, text, ha=ha, va="bottom", **INK)
    for top, name in zip(tops[2:], MODELS):
        maps = samples_of(toy, name)[chosen].numpy()
        line(top, name, np.concatenate([maps[:8], maps.mean(0)[None]]), places)
        for x, score in zip(columns, scores):
            sheet.text(x, top + side / 2, f"{scores[score][name]:.2f}", ha="center", va="center", **INK)
    sheet.set(xlim=(0, width), ylim=(height, 0))
    return figure


def of_nearness(models: list[str], names: list[str], near: NDArray[np.float64], dots: NDArray[np.bool_]) -> Figure:
    """A field for each model and score: how near it is to the truth, [models names], with a dot where it is as good."""
    figure = Figure(figsize=(9.2, 4.1), layout="constrained", facecolor=LIGHT.paper)
    axes = figure.add_subplot()
    axes.set_facecolor("#ffffff")
    picture = axes.imshow(near, cmap=BLUES, vmin=0, vmax=1, aspect="auto")
    for y, x in np.argwhere(np.isnan(near)):
        axes.text(x, y, "none", ha="center", va="center", fontsize=7, color=LIGHT.reference)
    y, x = np.nonzero(dots)
    axes.plot(x, y, "o", color=LIGHT.second, markersize=9, markeredgecolor=LIGHT.paper)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", **INK)
    axes.set_yticks(range(len(models)), models, **INK)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(len(names) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(models) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color=LIGHT.paper, linewidth=1.5)
    bar = figure.colorbar(picture, ax=axes, shrink=0.8, ticks=[0, 1], pad=0.01)
    bar.ax.set_yticklabels(["worst", "as good as\nthe truth"], **INK)
    bar.outline.set_visible(False)
    return figure


def of_reliability(toy: Toy) -> Figure:
    """Stated against true frequency, of pixels and of whole empty maps: the one is right where the other is not."""
    figure = Figure(figsize=(8, 4.1), layout="constrained", facecolor=LIGHT.paper)
    left, right = (plain(axes) for axes in figure.subplots(1, 2))
    labels = torch.from_numpy(toy.labels)
    for axes, of in ((left, "a lesion at a pixel"), (right, "an empty map")):
        axes.plot([0, 1], [0, 1], color=LIGHT.reference, linewidth=1.2, linestyle=(0, (1, 1.5)))
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal", ylabel=f"share of raters with {of}")
        axes.set_xlabel(f"share of samples with {of}")
    for (name, color), marker in zip(COLORS.items(), "o^s"):
        samples = samples_of(toy, name)
        pixels = metrics.reliability_counts(metrics.class_frequencies(samples), labels, target="foreground")
        for axes, counts in ((left, pixels), (right, metrics.empty_counts(samples, labels))):
            used = counts.counts > 0
            points = [each[used].numpy() for each in counts.curve()]
            axes.plot(
                *points,
                marker=marker,
                color=color,
                linewidth=1.3,
                markersize=5.5,
                label=f"{name}: ECE {counts.error():.3f}",
            )
    for axes in (left, right):
        legend(axes, "lower right")
    return figure


def of_counts(toy: Toy, floor: Mapping[int, float]) -> Figure:
    """What the number of samples does to scores of models that stay the same; floor: GED expected of the truth by n."""
    figure = Figure(figsize=(9.6, 3.5), layout="constrained", facecolor=LIGHT.paper)
    panels = [plain(axes) for axes in figure.subplots(1, 3)]
    labels, numbers = torch.from_numpy(toy.labels), list(floor)
    for model, color in COLORS.items():
        if model == "independent pixels":
            continue
        samples = samples_of(toy, model, 64)
        sets = [metrics.set_distances(samples[:, :n], labels) for n in numbers]
        curves = [
            (0, "-", "V", [metrics.energy_distance_of(one, "V").ged for one in sets]),
            (0, "--", "U", [metrics.energy_distance_of(one, "U").ged for one in sets]),
            (1, "-", "labels repeated", [metrics.hungarian_iou_of(one, "repeat") for one in sets]),
            (1, "--", "best four only", [metrics.hungarian_iou_of(one, "rectangular") for one in sets]),
            (2, "-", "", [metrics.max_dice(samples[:, :n], labels) for n in numbers]),
        ]
        for place, style, how, values in curves:
            name = f"{model.split(',')[0]}, {how}".rstrip(", ")
            means = [one.mean() for one in values]
            panels[place].plot(numbers, means, style, color=color, marker="o", markersize=4, linewidth=1.5, label=name)
    panels[0].plot(
        numbers,
        list(floor.values()),
        color=LIGHT.ink,
        linewidth=1.5,
        linestyle=(0, (1, 1.5)),
        label="expected of the truth, V",
    )
    for axes, title in zip(panels, ("GED", "matched IoU", "D_max")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(numbers, [str(n) for n in numbers])
        axes.set_xlabel("samples n")
        axes.set_title(title, loc="left", fontsize=10.5, color=LIGHT.ink)
        axes.set_ylim(-0.05 if axes is panels[0] else 0, 0.9 if axes is panels[0] else 1.03)
        legend(axes, "upper right" if axes is panels[0] else "lower right")
    return figure


def plain(axes: Axes) -> Axes:
    """No box, a light grid."""
    axes.set_facecolor(LIGHT.paper)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LIGHT.reference)
    axes.tick_params(labelsize=9, color=LIGHT.reference, labelcolor=LIGHT.ink)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(**INK)
    axes.grid(color=LIGHT.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def legend(axes: Axes, place: str) -> None:
    axes.legend(
        loc=place, fontsize=8.5, labelcolor=LIGHT.ink, facecolor=LIGHT.paper, edgecolor=LIGHT.paper, framealpha=1
    )


def save(figure: Figure, file: Path) -> None:
    """On white, with a palette of 128 colours: a third of the bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI)
    Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)
