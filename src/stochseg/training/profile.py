"""Where the time of a training step goes, measured as it runs: `stochseg train --profile`.

At any moment one part is at work, so the parts add up to the whole. On a CPU a change of part reads the clock; on a GPU
it records an event, and the times between events are read after the step, so nothing waits for the measurement.
"""

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch

NAME = "profile.json"
PARTS = ("data", "F", "G", "D", "losses", "backward", "exchange", "optimizer", "other")
"""In the order of a step. F, G, D: forward passes (a method's own network is F); exchange: with other processes."""
WARM_UP = 5
"""Steps at the start that are left out, where there are more: memory is taken and kernels are chosen in them."""

_current: ContextVar["Profile | None"] = ContextVar("profile", default=None)


class Profile:
    """Seconds by part, a step at a time, and of what lies between steps."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []
        self._part = "other"
        self.steps: list[dict[str, float]] = []
        self._between: defaultdict[str, float] = defaultdict(float)
        self.change("other")

    def change(self, part: str) -> str:
        """Time goes to `part` from now on; returns where it went before."""
        before, self._part = self._part, part
        self._marks.append((part, self._now()))
        return before

    def step(self) -> None:
        """End a step."""
        self.steps.append(self._read())

    def between(self, name: str) -> None:
        """What was since the last step is none, but `name`."""
        self._between[name] += sum(self._read().values())

    def result(self) -> dict[str, Any]:
        """Milliseconds a step by part and in all, how many steps they are the mean of, and seconds beside the steps."""
        steps = self.steps[WARM_UP:] or self.steps
        parts = {
            part: 1e3 * sum(step.get(part, 0.0) for step in steps) / len(steps)
            for part in PARTS
            if any(part in step for step in steps)
        }
        return {
            "steps": len(steps),
            "ms_per_step": sum(parts.values()),
            "parts_ms": parts,
            "seconds_between": dict(self._between),
        }

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _read(self) -> dict[str, float]:
        """Seconds by part since the last reading."""
        self.change(self._part)
        marks, self._marks = self._marks, self._marks[-1:]
        if self._cuda:
            torch.cuda.synchronize()
        found: dict[str, float] = defaultdict(float)
        for (part, start), (_, end) in zip(marks, marks[1:]):
            found[part] += start.elapsed_time(end) / 1e3 if self._cuda else end - start
        return found


@contextmanager
def timed(part: str) -> Iterator[None]:
    """The time of the block goes to `part`; outside of `profiling` this does nothing, as do the two below."""
    profile = _current.get()
    if profile is None:
        yield
        return
    before = profile.change(part)
    try:
        yield
    finally:
        profile.change(before)


@contextmanager
def unmeasured() -> Iterator[None]:
    """Nothing in the block changes whose time it is."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


def end_step() -> None:
    """A step ends here."""
    profile = _current.get()
    if profile is not None:
        profile.step()


def end_of(name: str) -> None:
    """What was since the last step is no step, but `name`."""
    profile = _current.get()
    if profile is not None:
        profile.between(name)


@contextmanager
def profiling(run: Path | None, device: torch.device, facts: dict[str, Any]) -> Iterator[None]:
    """Measure the steps in the block, and write RUN/profile.json at its end, with the facts; nothing where run is None."""
    if run is None:
        yield
        return
    profile = Profile(device)
    token = _current.set(profile)
    try:
        yield
    finally:
        _current.reset(token)
        if profile.steps:
            (run / NAME).write_text(json.dumps(facts | profile.result(), indent=1) + "\n")


def profile_table(run: Path) -> str:
    """RUN/profile.json for people."""
    if not (run / NAME).is_file():
        return "no step was taken, so none was profiled"
    found = json.loads((run / NAME).read_text())
    total = found["ms_per_step"]
    lines = [f"{part:10} {ms:9.2f} ms {ms / total:6.1%}" for part, ms in found["parts_ms"].items()]
    lines.append(f"{'a step':10} {total:9.2f} ms {1e3 * found['batch'] / total:7.0f} images/s")
    beside = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in found["seconds_between"].items())
    lines.append(
        f"mean of {found['steps']} steps on {found['device']}, {found['precision']}; beside them: {beside or 'nothing'}"
    )
    return "\n".join(lines)
