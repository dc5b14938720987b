"""How time grows: with samples, image size, classes, images of a store, and processes. A table and a figure each.

    python benchmarks/growth.py [--curves samples size classes images processes] [--threads 1] --out DIR

Sampling is that of an untrained model of the `lidc` preset's networks (its time does not depend on the weights), of
batches of 4 images. `images` opens sparse stores (`large_store.py`) and draws batches. `processes` starts torchrun with
1, 2, ... processes on this machine, one thread each, on generated data, and compares images a second at one global
batch. Beside each time is its ratio to what a straight line through the largest value gives: 1 where time grows as the
work does, above 1 where something constant weighs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from large_store import sparse_store
from measuring import begun, interleaved, machine_line, medians, new_parser, write
from stochseg import metrics
from stochseg.models.car import CAR
from stochseg.presets import load_config

BATCH = 4
STRAIGHT = {"samples": True, "size": True, "classes": True, "images": False, "processes": False}


def model_of(classes: int, device: torch.device) -> CAR:
    config = load_config("lidc")
    return CAR(classes, 1, (64, 64), config.calibration, config.refinement, precision="auto").to(device)


def sampling(device: torch.device, sizes: list[int], ns: list[int], classes: list[int]) -> list[Callable[[], object]]:
    """Draw n samples of images of each size (sides), in turn for each triple."""
    works: list[Callable[[], object]] = []
    for side, n, k in zip(sizes, ns, classes, strict=True):
        model, images = model_of(k, device), torch.rand(BATCH, 1, side, side) * 2 - 1
        works.append(lambda model=model, images=images, n=n: model.sample(images, n))
    return works


def curve_of_samples(args: argparse.Namespace, device: torch.device) -> dict[str, dict[int, float]]:
    ns = [n for n in (1, 4, 16, 64, 256) if n <= args.most]
    drawn = dict(zip(ns, sampling(device, [64] * len(ns), ns, [2] * len(ns)), strict=True))
    maps = {n: torch.randint(0, 2, (BATCH, n, 64, 64), dtype=torch.uint8) for n in ns}
    labels = torch.randint(0, 2, (BATCH, 4, 64, 64), dtype=torch.uint8)
    scored = {n: (lambda n=n: metrics.generalized_energy_distance(maps[n], labels)) for n in ns}
    return {"sampling": timed(drawn, args.rounds), "GED": timed(scored, args.rounds)}


def curve_of_size(args: argparse.Namespace, device: torch.device) -> dict[str, dict[int, float]]:
    """x is pixels, not side."""
    sides = [side for side in (64, 128, 256, 512, 1024) if side <= 4 * args.most]
    works = sampling(device, sides, [4] * len(sides), [2] * len(sides))
    return {"sampling": timed({side**2: work for side, work in zip(sides, works, strict=True)}, args.rounds)}


def curve_of_classes(args: argparse.Namespace, device: torch.device) -> dict[str, dict[int, float]]:
    ks = [k for k in (2, 5, 19, 50, 150) if k <= args.most]
    drawn = dict(zip(ks, sampling(device, [64] * len(ks), [16] * len(ks), ks), strict=True))
    maps = {k: torch.randint(0, k, (BATCH, 16, 64, 64), dtype=torch.uint8) for k in ks}
    scored = {k: (lambda k=k: metrics.generalized_energy_distance(maps[k], maps[k][:, :4], k)) for k in ks}
    return {"sampling": timed(drawn, args.rounds), "GED": timed(scored, args.rounds)}


def curve_of_images(args: argparse.Namespace, device: torch.device) -> dict[str, dict[int, float]]:
    """Seconds to open a store, and of a batch of 32: the latter should not grow."""
    found: dict[str, dict[int, float]] = {"opening": {}, "a batch": {}}
    script = Path(__file__).with_name("large_store.py")
    for images in (10**2, 10**3, 10**4, 10**5, 10**6):
        if images > 4000 * args.most:
            continue
        with tempfile.TemporaryDirectory() as folder:
            store = sparse_store(Path(folder) / "store", images)
            command = [sys.executable, str(script), "--read", str(store), "--batches", str(20 * args.rounds)]
            read = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        found["opening"][images], found["a batch"][images] = read["open_seconds"], read["batch_ms"] / 1e3
    return found


def curve_of_processes(args: argparse.Namespace, device: torch.device) -> dict[str, dict[int, float]]:
    """Seconds a step by number of processes, and how many of them went to the exchange; from `train --profile`."""
    found: dict[str, dict[int, float]] = {"a step": {}, "exchange": {}}
    counts = [n for n in (1, 2, 4, 8) if n <= max(2, (os.cpu_count() or 1))]
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        stochseg = [sys.executable, "-m", "stochseg"]
        subprocess.run(
            [*stochseg, "prepare", "ambiguous", "--out", str(store), "--images", "100", "--val", "20", "--test", "20"],
            check=True,
        )
        for n in counts:
            run = Path(folder) / f"run{n}"
            launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
            more = ["--steps", str(10 + 3 * args.rounds), "--validation.images", "4"]
            more += ["--training.batch", "32", "--device", "cpu", "--profile"]
            command = [
                *launcher,
                "-m",
                "stochseg",
                "train",
                "--config",
                "demo",
                "--data",
                str(store),
                "--out",
                str(run),
            ]
            subprocess.run([*command, *more], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
            profile = json.loads((run / "profile.json").read_text())
            found["a step"][n] = profile["ms_per_step"] / 1e3
            found["exchange"][n] = profile["parts_ms"].get("exchange", 0.0) / 1e3
    return found


def timed(works: dict[int, Callable[[], object]], rounds: int) -> dict[int, float]:
    seconds = interleaved({str(x): work for x, work in works.items()}, rounds)
    return {int(x): middle for x, middle in medians(seconds).items()}


def show(curve: str, found: dict[str, dict[int, float]]) -> None:
    for name, points in found.items():
        print(f"\n{name}, by {'pixels' if curve == 'size' else curve}")
        last = max(points)
        for x, seconds in points.items():
            line = points[last] / last * x
            beside = f"{seconds / line:8.2f} of a straight line" if STRAIGHT[curve] and line else ""
            print(f"{x:9} {1e3 * seconds:12.3f} ms {beside}")


def draw(curve: str, found: dict[str, dict[int, float]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    for name, points in found.items():
        x, y = list(points), [1e3 * seconds for seconds in points.values()]
        (line,) = axes.plot(x, y, marker="o", label=name)
        if STRAIGHT[curve]:
            axes.plot(x, [y[-1] / x[-1] * each for each in x], color=line.get_color(), linestyle=":", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="pixels" if curve == "size" else curve, ylabel="ms")
    axes.legend()
    figure.savefig(file, dpi=120)
    plt.close(figure)


CURVES = {
    "samples": curve_of_samples,
    "size": curve_of_size,
    "classes": curve_of_classes,
    "images": curve_of_images,
    "processes": curve_of_processes,
}


def main() -> None:
    parser = new_parser(__doc__, rounds=5)
    parser.add_argument("--curves", nargs="+", choices=CURVES, default=list(CURVES))
    parser.add_argument("--most", type=int, default=256, help="a smaller number leaves the longer works out")
    parser.add_argument("--out", type=Path, required=True, help="folder of figures and growth.json")
    args, device = begun(parser)
    args.out.mkdir(parents=True, exist_ok=True)
    print(machine_line())
    results: dict[str, Any] = {}
    for curve in args.curves:
        results[curve] = CURVES[curve](args, device)
        show(curve, results[curve])
        draw(curve, results[curve], args.out / f"{curve}.png")
    write(args.out / "growth.json", {"batch": BATCH, "seconds": results})


if __name__ == "__main__":
    main()
