"""Time and memory of the set scores, against independent plain loops over pairs in the same run.

    python benchmarks/metrics.py [--samples 16 100] [--batch 64] [--threads 2] [--out FILE.json]

Rows: `lesions`, ellipses of which 38 % are missing, as lesion masks are; `noise`, every pixel at random, where nothing
can be saved; `street`, 25 classes of which five flip, scored against all 32 modes with exact probabilities. Columns:
milliseconds an image, the best of a few rounds, for GED, matched IoU, and both from one set of distances; a loop that
counts each pair with numpy's logical operations; and, where scikit-learn is installed, one that calls its
jaccard_score for each pair, as much research code does. Loops run on a few images only, and must give the same scores,
or the program stops. Last, the most memory that scoring takes beside its input.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from stochseg import metrics

Map = NDArray[np.uint8]
FLIPS = [(1, 19, 8 / 17), (11, 20, 7 / 17), (13, 21, 6 / 17), (8, 22, 5 / 17), (0, 23, 4 / 17)]
STREET_CLASSES, STREET_IGNORE, STREET_SIZE = 25, 24, (256, 512)
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


def street(images: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Blocks of 19 classes as the label; samples flip classes and err in a tenth of the blocks."""
    h, w = STREET_SIZE

    def blocks(high: int, maps: int, side: int) -> Tensor:
        small = torch.randint(0, high, (images, maps, h // side, w // side), generator=generator, dtype=torch.uint8)
        return small.repeat_interleave(side, 2).repeat_interleave(side, 3)

    label = blocks(19, 1, 32)
    samples = label.expand(-1, count, -1, -1).clone()
    for source, target, p in FLIPS:
        flipped = torch.rand(images, count, 1, 1, generator=generator) < p
        samples[(samples == source) & flipped] = target
    wrong = blocks(10, count, 8) == 0
    return torch.where(wrong, blocks(19, count, 8), samples), label


def numpy_distance(a: Map, b: Map) -> float:
    union = np.logical_or(a == 1, b == 1).sum()
    return 1 - float(np.logical_and(a == 1, b == 1).sum() / union) if union else 0.0


def sklearn_distance(a: Map, b: Map) -> float:
    from sklearn.metrics import jaccard_score

    return 1 - float(jaccard_score(a.ravel(), b.ravel(), zero_division=1))


def street_distance(a: Map, b: Map) -> float:
    """Mean over the classes that flip of 1 - IoU; a class that neither map holds is left out."""
    found = []
    for c in (c for flip in FLIPS for c in flip[:2]):
        union = np.logical_or(a == c, b == c).sum()
        if union:
            found.append(1 - np.logical_and(a == c, b == c).sum() / union)
    return float(np.mean(found))


def loop_both(samples: Map, labels: Map, distance: Callable[[Map, Map], float]) -> tuple[float, float]:
    """GED and matched IoU of an image, one pair after the other."""
    ys = np.array([[distance(s, y) for y in labels] for s in samples])
    ss = np.mean([distance(s, t) for s in samples for t in samples])
    yy = np.mean([distance(y, z) for y in labels for z in labels])
    repeated = np.repeat(ys, len(samples) // len(labels), axis=1)
    return float(2 * ys.mean() - ss - yy), 1 - float(repeated[linear_sum_assignment(repeated)].mean())


def loop_street(samples: Map, label: Map) -> float:
    """GED of an image against all modes, each built as a map."""
    modes, probabilities = [], []
    for bits in product([0, 1], repeat=len(FLIPS)):
        mode, probability = label.copy(), 1.0
        for bit, (source, target, p) in zip(bits, FLIPS, strict=True):
            probability *= p if bit else 1 - p
            if bit:
                mode[label == source] = target
        modes.append(mode)
        probabilities.append(probability)
    p = np.array(probabilities)
    ys = np.array([[street_distance(s, y) for y in modes] for s in samples])
    yy = np.array([[street_distance(y, z) for z in modes] for y in modes])
    ss = np.mean([street_distance(s, t) for s in samples for t in samples])
    return float(2 * (ys @ p).mean() - ss - p @ yy @ p)


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


def megabytes_more(work: Callable[[], object]) -> float:
    """The most resident memory the work takes beside what there was before; nan where Linux does not tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    except OSError:
        return float("nan")
    before = peak_kilobytes()
    work()
    return (peak_kilobytes() - before) / 1024


def peak_kilobytes() -> int:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def measure(kind: str, n: int, args: argparse.Namespace) -> dict[str, Any]:
    make = lesions if kind == "lesions" else noise
    maps = make(args.batch, n + args.raters, args.size, torch.Generator().manual_seed(0))
    samples, labels = maps[:, :n].contiguous(), maps[:, n:].contiguous()
    row: dict[str, Any] = {"maps": kind, "samples": n, "megabytes": megabytes_more(lambda: both(samples, labels))}
    row |= {
        "ged": milliseconds(lambda: metrics.generalized_energy_distance(samples, labels), args.batch, args.rounds),
        "hm_iou": milliseconds(lambda: metrics.hungarian_iou(samples, labels), args.batch, args.rounds),
        "both": milliseconds(lambda: both(samples, labels), args.batch, args.rounds),
    }
    ours = torch.stack(both(samples, labels), 1).numpy()
    few = list(zip(samples.numpy(), labels.numpy(), strict=True))[: min(LOOP_IMAGES, args.batch)]
    loops = {"numpy": numpy_distance} | ({"sklearn": sklearn_distance} if find_spec("sklearn") else {})
    for name, distance in loops.items():
        some = few if name == "numpy" else few[:1]
        found: list[tuple[float, float]] = []
        work = lambda: found.extend(loop_both(*one, distance) for one in some)  # noqa: B023, E731
        row[name] = milliseconds(work, len(some), 1)
        np.testing.assert_allclose(ours[: len(some)], found, atol=1e-9)
    return row


def measure_street(n: int, args: argparse.Namespace) -> dict[str, Any]:
    images = max(1, args.batch // 16)
    samples, label = street(images, n, torch.Generator().manual_seed(0))

    def ged() -> Tensor:
        return metrics.generalized_energy_distance(
            samples, label, STREET_CLASSES, "car-cityscapes", STREET_IGNORE, flips=FLIPS
        )

    row: dict[str, Any] = {"maps": "street", "samples": n, "megabytes": megabytes_more(ged)}
    row |= {"ged": milliseconds(ged, images, args.rounds)}
    row |= {"numpy": milliseconds(lambda: loop_street(samples[0].numpy(), label[0, 0].numpy()), 1, 1)}
    np.testing.assert_allclose(ged()[0], loop_street(samples[0].numpy(), label[0, 0].numpy()), atol=1e-9)
    return row


def shown(row: dict[str, Any]) -> str:
    cells = [f"{row['maps']:8} {row['samples']:7}"]
    cells += [f"{row[key]:8.3f}" if key in row else f"{'':8}" for key in ("ged", "hm_iou", "both")]
    ours = row.get("both", row["ged"])
    for name in ("numpy", "sklearn"):
        cells.append(f"{row[name]:10.1f} {row[name] / ours:7.0f}x" if name in row else f"{'':19}")
    return " ".join([*cells, f"{row['megabytes']:6.0f}"])


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
    street_text = f"street {STREET_SIZE[0]}x{STREET_SIZE[1]}, {STREET_CLASSES} classes, 32 modes"
    print(f"{args.raters} raters, {args.size}x{args.size}, batch {args.batch}; {street_text}; {args.threads} threads")
    head = f"{'maps':8} {'samples':>7} {'ged':>8} {'hm_iou':>8} {'both':>8} {'numpy':>10} {'ratio':>8}"
    print(f"{head} {'sklearn':>10} {'ratio':>8} {'MiB':>6}   (ms an image)")
    rows = []
    for n in args.samples:
        for kind in ("lesions", "noise", "street"):
            rows.append(measure_street(n, args) if kind == "street" else measure(kind, n, args))
            print(shown(rows[-1]), flush=True)
    if args.out:
        machine = {"torch": torch.__version__, "processor": platform.processor() or platform.machine()}
        options = {key: value for key, value in vars(args).items() if key != "out"}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"options": options, "machine": machine, "ms_per_image": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
