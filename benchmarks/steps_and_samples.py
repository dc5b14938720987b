"""Training steps and samples of the presets on this device: time, share of its peak, memory.

    python benchmarks/steps_and_samples.py [--device cuda] [--only PART] [--compile] [--out FILE.json]

A step is what training does once its batch is there: copy to the device, losses and gradients of all networks, updates.
On a GPU it is timed as it is ("plain") and from a recording (`training.record`), and with --compile by torch.compile in
both modes (the first case alone, it takes a minute to begin). Peak is the rate of a product of large bf16 (else float32)
matrices, measured in the same run. Samples are 16 of each image, from image to class maps. Weights are random; time does
not depend on them.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch

from measuring import begun, machine_line, new_parser, wait_for_gpu, write
from stepping import Operations, blobs, our_step
from stochseg.models.car import CAR
from stochseg.models.precision import resolve_precision
from stochseg.presets import load_config
from stochseg.training.compiled import compiled


class Case(NamedTuple):
    preset: str
    size: tuple[int, int]
    batch: int
    channels: int = 1
    classes: int = 2


STEPS = (
    Case("lidc", (64, 64), 16),
    Case("lidc", (64, 64), 128),
    Case("lidc", (128, 128), 16),
    Case("lidc", (128, 128), 64),
    Case("lidc-paper", (128, 128), 8, 3),
    Case("lidc-paper", (128, 128), 32, 3),
    Case("cityscapes", (256, 512), 8, 3, 25),
)
SAMPLES = (
    Case("lidc", (128, 128), 1),
    Case("lidc", (128, 128), 64),
    Case("lidc-paper", (128, 128), 1, 3),
    Case("lidc-paper", (128, 128), 64, 3),
    Case("cityscapes", (256, 512), 1, 3, 25),
    Case("cityscapes", (256, 512), 8, 3, 25),
)
DRAWN = 16


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a product of square matrices of random numbers."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: a @ b, 10)


def seconds_of(work: Callable[[], object], rounds: int, repeats: int = 3) -> float:
    """Of one of `rounds` in a row, the median of several repeats."""
    for _ in range(3):
        work()
    found = []
    for _ in range(repeats):
        wait_for_gpu()
        start = time.perf_counter()
        for _ in range(rounds):
            work()
        wait_for_gpu()
        found.append((time.perf_counter() - start) / rounds)
    return statistics.median(found)


def model_of(case: Case, device: torch.device) -> tuple[CAR, Any]:
    config = load_config(case.preset, {"training.batch": case.batch})
    model = CAR(
        case.classes,
        case.channels,
        case.size,
        config.calibration,
        config.refinement,
        config.discriminator if config.objective.adversarial else None,
        precision="auto",
    )
    return model.to(device), config


def steps_of(case: Case, device: torch.device, mode: str) -> tuple[Callable[[], object], Any]:
    """A training step, and the context that it runs in."""
    model, config = model_of(case, device)
    labels = blobs(case.batch, 4, max(case.size))[..., : case.size[0], : case.size[1]].contiguous()
    images = torch.rand(case.batch, case.channels, *case.size) * 2 - 1
    step = our_step(model, config, images, labels, recorded=mode == "recorded")
    return step, compiled(model.networks, mode) if mode in ("default", "reduce-overhead") else nullcontext()


def rows_of_steps(
    cases: Sequence[Case], device: torch.device, rate: float, modes: list[str], rounds: int
) -> Iterator[dict[str, Any]]:
    for case in cases:
        operations = 0.0
        for mode in modes if case == STEPS[0] else modes[:2]:
            forget_memory(device)
            step, context = steps_of(case, device, mode)
            with context:
                if not operations:
                    step()
                    with Operations() as counted:
                        step()
                    operations = counted.total
                begin = time.perf_counter()
                for _ in range(3):  # compiling lies in here
                    step()
                begin = time.perf_counter() - begin
                seconds = seconds_of(step, rounds)
            yield {"work": "step", "mode": mode, **case._asdict(), "begin_s": begin, "ms": 1e3 * seconds,
                   "images_per_second": case.batch / seconds, "gflop": operations / 1e9,
                   "share_of_peak": operations / seconds / rate, "mib": memory(device)}  # fmt: skip


def rows_of_samples(cases: Sequence[Case], device: torch.device, rounds: int) -> Iterator[dict[str, Any]]:
    for case in cases:
        forget_memory(device)
        model, _ = model_of(case, device)
        images = torch.rand(case.batch, case.channels, *case.size, device=device) * 2 - 1
        seconds = seconds_of(lambda model=model, images=images: model.sample(images, DRAWN), rounds)
        yield {"work": f"{DRAWN} samples", "mode": "auto", **case._asdict(), "ms": 1e3 * seconds,
               "samples_per_second": DRAWN * case.batch / seconds, "mib": memory(device)}  # fmt: skip


def forget_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory(device: torch.device) -> float | None:
    """The most that was held, MiB; None on a CPU."""
    return torch.cuda.max_memory_reserved() / 2**20 if device.type == "cuda" else None


def main() -> None:
    parser = new_parser(__doc__, rounds=10)
    parser.add_argument("--only", choices=["steps", "samples"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--first", action="store_true", help="the first case of the steps alone")
    parser.add_argument("--presets", nargs="+", help="only cases of these")
    parser.add_argument("--out", type=Path)
    args, device = begun(parser)
    dtype = resolve_precision("auto", device)
    rate = peak(device, dtype)
    print(f"{machine_line()}; a product of large matrices, {dtype}: {rate / 1e12:.1f} TFLOP/s")
    modes = [
        "plain",
        *(["recorded"] if device.type == "cuda" else []),
        *(["default", "reduce-overhead"] if args.compile else []),
    ]

    def chosen(cases: tuple[Case, ...]) -> list[Case]:
        return [case for case in cases if not args.presets or case.preset in args.presets]

    rows = []
    if args.only != "samples":
        print(
            f"{'step of':14} {'size':>9} {'batch':>5} {'mode':>16} {'ms':>9} {'images/s':>9} {'of peak':>8} {'MiB':>7}"
        )
        for row in rows_of_steps(chosen(STEPS)[: 1 if args.first else None], device, rate, modes, args.rounds):
            rows.append(row)
            print(
                f"{row['preset']:14} {'x'.join(map(str, row['size'])):>9} {row['batch']:5} {row['mode']:>16} {row['ms']:9.2f} "
                f"{row['images_per_second']:9.0f} {row['share_of_peak']:8.2%} {row['mib'] or 0:7.0f}", flush=True
            )  # fmt: skip
    if args.only != "steps":
        print(f"{f'{DRAWN} samples of':14} {'size':>9} {'batch':>5} {'ms':>9} {'samples/s':>10} {'MiB':>7}")
        for row in rows_of_samples(chosen(SAMPLES), device, args.rounds):
            rows.append(row)
            print(
                f"{row['preset']:14} {'x'.join(map(str, row['size'])):>9} {row['batch']:5} {row['ms']:9.2f} "
                f"{row['samples_per_second']:10.0f} {row['mib'] or 0:7.0f}", flush=True
            )  # fmt: skip
    write(args.out, {"peak": rate, "dtype": str(dtype), "results": rows})


if __name__ == "__main__":
    main()
