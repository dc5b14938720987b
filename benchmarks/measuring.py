"""What the benchmarks share: interleaved timing, facts of the machine, files of results."""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from stochseg.models.precision import resolve_device


def new_parser(text: str | None, rounds: int) -> argparse.ArgumentParser:
    """A parser with the flags of every timing of models. text: the script's docstring; rounds: the default."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="auto")
    return parser


def judging_parser(text: str | None) -> argparse.ArgumentParser:
    """A parser with the flags of every script that judges runs on a store. text: the script's docstring."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="JSON to write")
    return parser


def begun(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, torch.device]:
    """The flags that are given, with the number of threads set, and the device."""
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    return args, resolve_device(args.device)


def interleaved(works: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each work in every round. In a round each runs once, so that what else the machine does hits all alike."""
    for _ in range(warm_up):
        for work in works.values():
            work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            wait_for_gpu()
            start = time.perf_counter()
            work()
            wait_for_gpu()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(each) for name, each in seconds.items()}


def wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> dict[str, Any]:
    """What the numbers were measured on, and how busy it was with other work."""
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    load = next(iter(_lines("/proc/loadavg")), "").split(" ")[0]
    return {
        "cpu": cpu,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": float(load) if load else None,
    }


def machine_line() -> str:
    """The same in a line."""
    found = machine()
    return f"{found['gpu'] or found['cpu']}, {found['threads']} threads, load {found['load']}"


def write(file: Path | None, results: Mapping[str, Any]) -> None:
    """The results with the machine's facts as JSON, where a file is asked for."""
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"machine": machine()} | dict(results), indent=1) + "\n")
    print(f"written: {file}")


def _lines(file: str) -> list[str]:
    path = Path(file)
    return path.read_text().splitlines() if path.is_file() else []
