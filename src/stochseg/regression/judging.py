"""The scores of the finished runs, beside those of the truth and of a generator that collapsed, and what they say."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stochseg.config import to_plain
from stochseg.data.regression import Bimodal, upper_branch
from stochseg.regression.config import METHODS, StudyConfig
from stochseg.regression.runs import Runs
from stochseg.regression.scores import grid_of_x, score_samples

POINTS, SAMPLES = 100, 1000
"""Numbers x, and samples of each, behind a score."""
CLOSE = 0.05
"""A frequency this near to pi counts as learned."""
ROWS = {"truth": "the true distribution", "collapsed": "the likelier branch alone"} | METHODS
COLUMNS = {
    "log_likelihood": "log likelihood",
    "crps": "CRPS",
    "energy_distance": "energy distance",
    "frequency_error": "error of the frequency",
    "frequency_error_per_x": "the same, x by x",
}

Results = dict[str, Any]


def judge(trained: Sequence[Runs], config: StudyConfig) -> Results:
    """Scores of every run, and their medians and quartiles by method and by setting; plain numbers throughout."""
    settings, runs = trained[0].grid.settings, trained[0].grid.runs
    x = grid_of_x(settings, POINTS)
    scored = [
        *_rows("truth", settings, score_samples(settings, x, draw_truth(settings, x, SAMPLES, config.seed)), 1),
        *_rows("collapsed", settings, score_samples(settings, x, collapsed_samples(settings, x, SAMPLES)), 1),
    ]
    for one in trained:
        x = grid_of_x(runs, POINTS)
        samples = one.sample(x, SAMPLES, torch.Generator().manual_seed(config.seed))
        scored += _rows(one.method, runs, score_samples(runs, x, samples), config.repetitions)
    return {
        "config": to_plain(config),
        "points": POINTS,
        "samples": SAMPLES,
        "summary": {name: _summary([row for row in scored if row["method"] == name]) for name in _methods(scored)},
        "runs": scored,
    }


def draw_truth(data: Bimodal, x: Tensor, n: int, seed: int) -> Tensor:
    """n true answers to each x [s m], [s m n]."""
    generator = torch.Generator().manual_seed(seed)
    return data.draw(x.repeat_interleave(n, 1), generator).view(*x.shape, n)


def collapsed_samples(data: Bimodal, x: Tensor, n: int) -> Tensor:
    """What a collapsed generator gives n times for each x [s m], [s m n]: the likelier branch, without noise."""
    branch = torch.where(data.pi < 0.5, -upper_branch(x), upper_branch(x))
    return branch[..., None].expand(*x.shape, n)


def results_text(results: Results) -> str:
    """Two tables, for a terminal: scores by method, and how often the upper branch comes in each setting."""
    return "\n\n".join(_aligned(rows) for rows in (score_rows(results), frequency_rows(results)))


def score_rows(results: Results) -> list[list[str]]:
    """Header and a row a method, cells as text: medians over all runs, and how many runs learned the frequency."""
    rows = [["median over all runs", *COLUMNS.values(), f"within {CLOSE}"]]
    for name, one in results["summary"].items():
        medians = [f"{one[key]['median']:z.{2 if key == 'log_likelihood' else 4}f}" for key in COLUMNS]
        rows.append([ROWS[name], *medians, f"{one['close']} of {one['runs']}"])
    return rows


def frequency_rows(results: Results) -> list[list[str]]:
    """Header and a row a setting, cells as text: median and range of the frequency of the upper branch."""
    methods = results["config"]["methods"]
    rows = [["upper branch at x < 0.7", "pi", "sigma", *(METHODS[name] for name in methods)]]
    for pi in results["config"]["pi"]:
        for sigma in results["config"]["sigma"]:
            cells = []
            for name in methods:
                found = [
                    row["frequency"]
                    for row in results["runs"]
                    if row["method"] == name and (row["pi"], row["sigma"]) == (pi, sigma)
                ]
                cells.append(f"{np.median(found):.3f} ({min(found):.3f} to {max(found):.3f})")
            rows.append(["", f"{pi:g}", f"{sigma:g}", *cells])
    return rows


def _rows(method: str, data: Bimodal, scores: dict[str, Tensor], repetitions: int) -> list[Results]:
    return [
        {
            "method": method,
            "pi": round(float(data.pi[at]), 6),  # float32 in the data
            "sigma": round(float(data.sigma[at]), 6),
            "repetition": at % repetitions,
        }
        | {name: float(values[at]) for name, values in scores.items()}
        for at in range(len(data.pi))
    ]


def _methods(rows: Sequence[Results]) -> list[str]:
    return list(dict.fromkeys(row["method"] for row in rows))


def _summary(rows: Sequence[Results]) -> Results:
    summary: Results = {"runs": len(rows), "close": sum(row["frequency_error"] <= CLOSE for row in rows)}
    for key in COLUMNS:
        low, median, high = np.quantile([row[key] for row in rows], (0.25, 0.5, 0.75))
        summary[key] = {"median": float(median), "quartiles": [float(low), float(high)]}
    return summary


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)
