"""Training steps, samples and scores against the official code of CAR, side by side in one run.

    git clone https://github.com/EliasKassapis/CARSSS
    python benchmarks/against_official.py --official CARSSS [--threads 2] [--rounds 9] [--out FILE.json]

The same networks (parameters are counted and must agree), the same batch, 128x128; runs take turns, and the table has
medians and their ratios. A step is the calibration network, 5 samples, and the discriminator with R1. Samples go from
the image to n maps, calibration and refinement; scores are GED and matched IoU of 16 samples and 4 raters, and must
agree. "Our networks" are those of the preset `lidc`, the official code's the same as before. Without --official the
other side is a plain version of the same schedule (`plain.py`), and the table says so.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from measuring import begun, interleaved, machine_line, medians, new_parser, write
from official_code import load_official
from plain import PlainTraining
from stepping import blobs, our_step
from stochseg import metrics
from stochseg.config import Config
from stochseg.memory import keep_freed_memory
from stochseg.models.car import CAR
from stochseg.models.class_maps import one_hot_maps
from stochseg.models.precision import resolve_precision
from stochseg.presets import load_config

RATERS, SCORED = 4, 16
AIMS = {"step float32": 1.2, "step bfloat16": 4.0, "16 samples": 5.0, "100 samples": 8.0, "scores": 2000.0}


def ours(config: Config, size: int, device: torch.device, precision: str) -> CAR:
    model = CAR(2, 3, (size, size), config.calibration, config.refinement, config.discriminator, precision=precision)
    return model.to(device)


def our_scores(samples: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    distances = metrics.set_distances(samples, labels)
    return metrics.energy_distance_of(distances).ged, metrics.hungarian_iou_of(distances)


def plain_scores(samples: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """A loop over pairs with numpy. samples: one-hot [n b k h w]; labels: [b r h w]."""
    maps = samples.argmax(2).transpose(0, 1).cpu().numpy()
    pairs = [_scores_of_pairs(s, y) for s, y in zip(maps, labels.cpu().numpy(), strict=True)]
    ged, matched = np.array(pairs).T
    return torch.from_numpy(ged), torch.from_numpy(matched)


def _scores_of_pairs(samples: Any, labels: Any) -> tuple[float, float]:
    def distance(a: Any, b: Any) -> float:
        union = np.logical_or(a, b).sum()
        return float(1 - np.logical_and(a, b).sum() / union) if union else 0.0

    ys = np.array([[distance(y, s) for s in samples] for y in labels])
    ss = np.mean([distance(s, t) for s in samples for t in samples])
    yy = np.mean([distance(y, z) for y in labels for z in labels])
    repeated = ys.repeat(len(samples) // len(labels), 0)
    return float(2 * ys.mean() - ss - yy), 1 - float(repeated[linear_sum_assignment(repeated)].mean())


def main() -> None:
    parser = new_parser(__doc__, rounds=9)
    parser.add_argument("--official", type=Path, help="a clone of EliasKassapis/CARSSS")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=128, help="with --official always 128")
    parser.add_argument("--samples", type=int, nargs="+", default=[16, 100])
    parser.add_argument("--without-scores", action="store_true", help="steps and samples alone")
    parser.add_argument("--out", type=Path)
    args, device = begun(parser)
    keep_freed_memory(large=True)
    size = 128 if args.official else args.size
    config = load_config("lidc-paper", {"training.batch": args.batch})
    maps = blobs(args.batch, SCORED + RATERS, size)
    samples, labels = maps[:, :SCORED].contiguous(), maps[:, SCORED:].contiguous()
    images = (2.0 * labels.float().mean(1, keepdim=True) - 1).expand(-1, 3, -1, -1).contiguous().to(device)
    one_hot = one_hot_maps(labels[:, 0], 2).to(device)
    mine = ours(config, size, device, "float32")
    if args.official:
        other, other_name = load_official(args.official), "official"
        nets = {"calibration": other.calibration, "refinement": other.refinement, "discriminator": other.discriminator}
        for name, net in nets.items():
            counts = [sum(p.numel() for p in each.parameters()) for each in (net, mine.networks[name])]
            assert counts[0] == counts[1], f"{name}: {counts[0]} parameters there, {counts[1]} here"
        step, sample, scores, notes = other.step, other.sample, other.scores, other.notes
    else:
        plain, other_name = PlainTraining(ours(config, size, device, "float32").networks), "plain"
        step, sample, scores = plain.step, plain.sample, plain_scores
        notes = ["no --official: compared with our own plain version of the same schedule"]
    notes.append("freed memory stays with the process, for both sides, as in `stochseg train`")
    print(f"{machine_line()}; batch {args.batch}, {size}x{size}")
    for note in notes:
        print(note)

    bf16 = resolve_precision("auto", device) == torch.bfloat16
    works: dict[str, dict[str, Callable[[], object]]] = {"step": {other_name: lambda: step(images, one_hot)}}
    works["step"]["float32"] = our_step(mine, config, images, labels)
    if bf16:
        works["step"]["bfloat16"] = our_step(ours(config, size, device, "bfloat16"), config, images, labels)
    small = load_config("lidc", {})
    for of, drawing in (
        ("", ours(config, size, device, "auto")),
        (", our networks", ours(small, size, device, "auto")),
    ):
        for n in args.samples:
            works[f"{n} samples{of}"] = {
                other_name: lambda n=n: sample(images[:1], n),
                "auto": lambda n=n, drawing=drawing: drawing.sample(images[:1], n),
            }
    if not args.without_scores:
        one = one_hot_maps(samples[:1], 2).transpose(0, 1).to(device)  # [n 1 k h w]
        works["scores"] = {
            other_name: lambda: scores(one, labels[:1]),
            "ours": lambda: our_scores(samples, labels),  # a batch, as evaluation takes it
        }
        for a, b in zip(scores(one, labels[:1]), our_scores(samples[:1], labels[:1]), strict=True):
            torch.testing.assert_close(a.double().cpu(), b.double(), atol=1e-5, rtol=0)

    rows = []
    print(f"{'work':26} {other_name + ', ms':>14} {'ours, ms':>10} {'ratio':>8} {'at least':>9}")
    for work, sides in works.items():
        seconds = interleaved(sides, args.rounds)
        middle = medians(seconds)
        for side in list(sides)[1:]:
            each = args.batch if work == "scores" else 1
            name = f"{work} {side}" if work == "step" else work
            ratio = middle[other_name] / (middle[side] / each)
            row = {"work": name, other_name: middle[other_name], "ours": middle[side] / each, "ratio": ratio}
            rows.append(row | {"seconds": {other_name: seconds[other_name], "ours": seconds[side]}})
            aim = f"{AIMS[name]:.1f}x" if name in AIMS else ""
            print(
                f"{name:26} {1e3 * row[other_name]:14.1f} {1e3 * row['ours']:10.2f} {ratio:7.1f}x {aim:>9}", flush=True
            )
    if not bf16:
        print(f"{'step bfloat16':26} not measured: no fast bfloat16 here")
    options = {
        key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items() if key != "out"
    }
    write(args.out, {"options": options, "compared_with": other_name, "notes": notes, "results": rows})


if __name__ == "__main__":
    main()
