"""Time of the set scores, against an independent plain loop over pairs in the same run.

    python benchmarks/metrics.py [--samples 16 100] [--batch 64] [--threads 2] [--out FILE.json]

Two kinds of maps: `lesions`, ellipses of which 38 % are missing, as lesion masks are; `noise`, every pixel at random,
where nothing can be saved. The loop counts each pair with numpy's logical operations and matches with scipy; it runs on
a few images only. Both must agree, or the program stops. Figures are milliseconds an image, the best of a few rounds.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from stochseg import metrics

LOOP_IMAGES = 3


def lesions(images: int, count: int, size: int, generator: torch.Generator) -> Tensor:
    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(images, count, 1, 1, generator=generator) * (high - low) + low

    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    down, across = (y - size * uniform(0.45, 0.55)) / uniform(0.05, 0.12), (x - size / 2) / uniform(0.05, 0.12)
    inside = down**2 + across**2 < size**2
    return (inside & (uniform(0, 1) > 0.38)).to(torch.uint8)


def noise(images: int, count: int, size: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (images, count, size, size), generator=generator, dtype=torch.uint8)


def loop_distance(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    union = np.logical_or(a == 1, b == 1).sum()
    return 1 - float(np.logical_and(a == 1, b == 1).sum() / union) if union else 0.0


def loop_ged(samples: NDArray[np.uint8], labels: NDArray[np.uint8]) -> float:
    ys = np.mean([loop_distance(s, y) for s in samples for y in labels])
    ss = np.mean([loop_distance(s, t) for s in samples for t in samples])
    yy = np.mean([loop_distance(y, z) for y in labels for z in labels])
    return float(2 * ys - ss - yy)


def loop_hungarian(samples: NDArray[np.uint8], labels: NDArray[np.uint8]) -> float:
    repeated = np.repeat(labels, len(samples) // len(labels), axis=0)
    cost = np.array([[loop_distance(s, y) for y in repeated] for s in samples])
    return 1 - float(cost[linear_sum_assignment(cost)].mean())


def both(samples: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Both scores from one set of distances."""
    distances = metrics.set_distances(samples, labels)
    return metrics.energy_distance_of(distances).ged, metrics.hungarian_iou_of(distances)


def milliseconds(work: Callable[[], object], images: int, rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return 1e3 * best / images


def measure(kind: str, n: int, args: argparse.Namespace) -> dict[str, float | str | int]:
    make = lesions if kind == "lesions" else noise
    maps = make(args.batch, n + args.raters, args.size, torch.Generator().manual_seed(0))
    samples, labels = maps[:, :n].contiguous(), maps[:, n:].contiguous()
    ged, hm_iou = both(samples, labels)
    few = list(zip(samples.numpy(), labels.numpy(), strict=True))[: min(LOOP_IMAGES, args.batch)]
    np.testing.assert_allclose(ged[: len(few)], [loop_ged(*one) for one in few], atol=1e-9)
    np.testing.assert_allclose(hm_iou[: len(few)], [loop_hungarian(*one) for one in few], atol=1e-9)
    row: dict[str, float | str | int] = {
        "maps": kind,
        "samples": n,
        "ged": milliseconds(lambda: metrics.generalized_energy_distance(samples, labels), args.batch, args.rounds),
        "hm_iou": milliseconds(lambda: metrics.hungarian_iou(samples, labels), args.batch, args.rounds),
        "both": milliseconds(lambda: both(samples, labels), args.batch, args.rounds),
        "loop": milliseconds(lambda: [(loop_ged(*one), loop_hungarian(*one)) for one in few], len(few), 1),
    }
    row["ratio"] = float(row["loop"]) / float(row["both"])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[16, 100])
    parser.add_argument("--raters", type=int, default=4)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.raters} raters, {args.size}x{args.size}, batch {args.batch}, {args.threads} threads; ms an image")
    print(f"{'maps':8} {'samples':>7} {'ged':>8} {'hm_iou':>8} {'both':>8} {'loop':>9} {'ratio':>7}")
    rows = []
    for n in args.samples:
        for kind in ("lesions", "noise"):
            row = measure(kind, n, args)
            rows.append(row)
            print(
                f"{row['maps']:8} {row['samples']:7} {row['ged']:8.3f} {row['hm_iou']:8.3f} {row['both']:8.3f} "
                f"{row['loop']:9.1f} {row['ratio']:6.0f}x",
                flush=True,
            )
    if args.out:
        machine = {"torch": torch.__version__, "processor": platform.processor() or platform.machine()}
        options = {key: value for key, value in vars(args).items() if key != "out"}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"options": options, "machine": machine, "ms_per_image": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
