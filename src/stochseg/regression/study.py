"""The study from its config to a directory that holds everything: checkpoints, scores, figures, a page."""

import time
from pathlib import Path
from typing import Any

from stochseg.config import to_plain
from stochseg.denormals import without_denormals
from stochseg.errors import InputError
from stochseg.models.precision import resolve_device
from stochseg.presets import checked, read_preset
from stochseg.progress import say
from stochseg.regression.config import StudyConfig
from stochseg.wording import counted

NAME = "regression"
FREE_ON_RESUME = ("device", "lr")


@without_denormals()
def run_study(
    out: str | Path | None = None, config: str | None = None, resume: bool = False, **overrides: Any
) -> tuple[Path, dict[str, Any]]:
    """Run the study in a directory; returns it, and its results as they are in RUN/results.json.

    out: by default runs/DATE_TIME_regression. config: preset or YAML file with `study: regression`. resume: go on in
    `out` where it stopped; of a finished run only scores, figures and the page are made anew. overrides: keys of
    `StudyConfig`. Raises InputError for what cannot be used, RunError where a loss is not finite, Stopped after a signal.
    """
    from stochseg.regression.judging import judge
    from stochseg.regression.page import write_page
    from stochseg.regression.runs import Grid, Runs, build_networks
    from stochseg.regression.training import train_calibration, train_runs
    from stochseg.training.run_config import begun, config_to_resume
    from stochseg.training.stopping import stop_on_signal

    run = Path(out) if out else Path("runs") / f"{time.strftime('%Y-%m-%d_%H%M%S')}_{Path(config or NAME).stem}"
    if resume:
        settings = config_to_resume(run, config, overrides, load_study, lambda name: name in FREE_ON_RESUME)
    else:
        settings = load_study(config or NAME, overrides)
    grid = Grid.of(settings, resolve_device(settings.device))
    with begun(run, {"study": NAME} | to_plain(settings), resume):
        say(
            f"{'resuming' if resume else 'training'} in {run}: {counted(len(grid.settings.pi), 'setting')} of the data, "
            f"{counted(len(settings.methods), 'method')}, {counted(len(grid.runs.pi) * len(settings.methods), 'run')}"
        )
        trained, numbers = [], {}
        with stop_on_signal() as stopped:
            calibration = build_networks(settings, grid)["calibration"]
            numbers["calibration"] = train_calibration(
                calibration, grid.settings, settings, run / "checkpoint" / "calibration", stopped
            )
            for method in settings.methods:
                networks = build_networks(settings, grid)
                networks["calibration"] = calibration
                trained.append(Runs(method, grid, networks))
                numbers[method] = train_runs(trained[-1], settings, run / "checkpoint" / method, stopped)
        say("drawing samples, scores and figures")
        seconds = {name: round(one["seconds"], 1) for name, one in numbers.items()}
        results = judge(trained, settings) | {"training_seconds": seconds}
        write_page(run, settings, results, trained, {method: numbers[method]["curves"] for method in settings.methods})
    return run, results


def load_study(preset: str, overrides: dict[str, Any]) -> StudyConfig:
    """A checked StudyConfig from a preset or YAML file and overrides. Raises InputError where a key does not fit."""
    keys = read_preset(preset)
    if keys.pop("study", None) != NAME:
        raise InputError(f"--config {preset}: is not this study; give one with the key `study: {NAME}`")
    return checked(StudyConfig, preset, keys, overrides)
