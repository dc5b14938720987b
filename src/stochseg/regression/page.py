"""What the study leaves for people: RUN/results.json, curves.json, figures, and a page that needs nothing else."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from stochseg.config import to_plain
from stochseg.errors import InputError
from stochseg.regression.config import METHODS, StudyConfig
from stochseg.regression.figures import Curves, study_plots
from stochseg.regression.judging import CLOSE, Results, frequency_rows, score_rows
from stochseg.regression.runs import Runs
from stochseg.report.page import embedded_plot, render


def write_page(run: Path, config: StudyConfig, results: Results, trained: Sequence[Runs], curves: Curves) -> Path:
    """Write all of it, each file whole. Returns the page, RUN/report.html."""
    plots = study_plots(config, trained, results, curves)
    try:
        (run / "figures").mkdir(exist_ok=True)
        for plot in plots:
            plot.save(run / "figures")
        page = render(
            "regression.html.j2",
            run=run.resolve().name,
            verdict=verdict(results),
            scores=score_rows(results),
            frequencies=frequency_rows(results),
            figures={plot.name: embedded_plot(plot, run / "figures") for plot in plots},
            results=results,
            close=CLOSE,
            config=yaml.safe_dump(to_plain(config), sort_keys=False),
        )
        for name, text in (
            ("results.json", json.dumps(results, indent=1)),
            ("curves.json", json.dumps(curves)),
            ("report.html", page),
        ):
            (run / f"{name}.partial").write_text(text, encoding="utf-8")
            os.replace(run / f"{name}.partial", run / name)
    except OSError as error:
        raise InputError(f"{run}: cannot be written ({error.strerror}); make room, then --resume") from error
    return run / "report.html"


def verdict(results: Results) -> list[str]:
    """What the scores say, in sentences: first what was learned, then what the log likelihood makes of it."""
    summary = results["summary"]
    learned = [
        f"{one['close']} of {one['runs']} runs {METHODS[name]}" for name, one in summary.items() if name in METHODS
    ]
    truth, collapsed = summary["truth"], summary["collapsed"]
    wrong = np.mean([row["frequency_error"] for row in results["runs"] if row["method"] == "collapsed"])
    return [
        f"Within {CLOSE} of the true frequency of the upper branch: {', '.join(learned)}.",
        "The log likelihood of the samples cannot judge this: a generator that always gives the likelier branch scores "
        f"{collapsed['log_likelihood']['median']:.2f}, the truth itself {truth['log_likelihood']['median']:.2f} (higher is "
        f"better), though its frequencies are off by {wrong:.2f} on average. The energy distance tells them apart: "
        f"{collapsed['energy_distance']['median']:z.3f} against {truth['energy_distance']['median']:z.3f} (lower is better).",
    ]
