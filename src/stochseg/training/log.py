"""What a run tells: metrics.jsonl, a progress bar or plain lines, TensorBoard and Weights & Biases where asked for."""

import json
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stochseg.config import Config, to_plain
from stochseg.data.reading import parse_json
from stochseg.errors import InputError
from stochseg.progress import SECONDS_BETWEEN_LINES, say

SHOWN = ("cross_entropy", "energy", "adversarial", "calibration")
"""Losses beside the progress bar."""


class Log:
    """One object per run; `numbers` for the files, `show` for the person who waits.

    writes: whether this process does so; of several, the first does.
    """

    def __init__(self, run: Path, config: Config, step: int, writes: bool = True) -> None:
        self._writes = writes
        self._file = run / "metrics.jsonl"
        self._bar: Any = None
        self._last_line = 0.0
        self._writers: list[Any] = []
        if not writes:
            return
        self._forget_after(step)
        if config.training.tensorboard:
            self._writers.append(_tensorboard(run))
        if config.training.wandb:
            self._writers.append(_wandb(run, config))

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        if not self._writes:
            return
        line = {"step": step} | {k: float(f"{v:.6g}") for k, v in values.items()}
        with self._file.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        for write in self._writers:
            write(step, values)

    def show(self, step: int, share: float, seconds_left: float, losses: Mapping[str, float], speed: float) -> None:
        """A bar on a terminal; a line every ten seconds elsewhere."""
        if not self._writes:
            return
        shown = ", ".join(f"{name} {losses[name]:.3f}" for name in SHOWN if name in losses)
        text = f"{shown}, {speed:.0f} images/s"
        if sys.stderr.isatty():
            from tqdm import tqdm

            if self._bar is None:
                self._bar = tqdm(total=100, bar_format="{percentage:3.0f}% |{bar:24}| {desc}")
            self._bar.n = min(100, round(100 * share))
            self._bar.set_description_str(f"step {step}, {text}, {_clock(seconds_left)} left")
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            say(f"{share:4.0%} step {step}, {text}, {_clock(seconds_left)} left")

    def say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            say(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _forget_after(self, step: int) -> None:
        """Drop the lines of steps that a resumed run will take again, and a line cut off by a kill."""
        if not self._file.exists():
            return
        lines = [json.dumps(line) + "\n" for line in read_metrics(self._file.parent) if line["step"] <= step]
        self._file.write_text("".join(lines))


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl, oldest first."""
    file = run / "metrics.jsonl"
    if not file.is_file():
        return []
    return [found for line in file.read_text().splitlines() if (found := _whole(line)) is not None]


def _whole(line: str) -> dict[str, float] | None:
    """The numbers of a line; None where a kill cut it off."""
    try:
        found: dict[str, float] = parse_json(line)
    except ValueError:
        return None
    return found


def _clock(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def check_loggers(config: Config) -> None:
    """InputError where a logger is asked for that is not installed."""
    for name in ("tensorboard", "wandb"):
        if getattr(config.training, name) and find_spec(name) is None:
            raise InputError(f"--training.{name}: not installed; run `pip install 'stochseg[{name}]'`")


def _tensorboard(run: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(run / "tensorboard"))

    def write(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return write


def _wandb(run: Path, config: Config) -> Any:
    import wandb

    opened = wandb.init(project=config.training.wandb, name=run.name, dir=str(run), config=to_plain(config))
    return lambda step, values: opened.log(values, step=step)
