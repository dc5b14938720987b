"""What a training step cannot cost less than on this machine, what it costs, and which kinds of work the rest is.

    python benchmarks/floor.py [--config lidc] [--threads 2] [--out FILE.json]

The rate of operations is measured on convolutions of the preset's own shapes, forward and backward, the bandwidth on
a copy; operations of a step are counted, its time is the median of several, and a profile shares it out by kind.
"""

import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from measuring import begun, interleaved, machine_line, medians, new_parser, write
from stepping import Operations, blobs, our_step
from stochseg.config import Config
from stochseg.models.car import CAR
from stochseg.models.precision import autocast, resolve_precision
from stochseg.presets import load_config

KINDS = (
    ("convolutions and matrix products", ("convolution", "mm", "linear")),
    ("norms", ("norm",)),
    ("activations", ("silu", "relu", "gelu", "softmax")),
    ("optimizer", ("adam",)),
    ("copies and changes of layout", ("copy", "cat", "shuffle", "clone", "fill", "zero", "interpolate", "upsample")),
)
"""Kinds of work by parts of operators' names; the first that fits, in this order."""


def rate_of_convolutions(config: Config, device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of the best of the preset's convolutions, forward and backward."""
    best = 0.0
    side = 64 // config.refinement.patch
    for level, width in enumerate(config.refinement.widths):
        n, s = config.training.batch * config.objective.samples, side >> level
        x = torch.randn(n, width, s, s, device=device).to(memory_format=torch.channels_last).requires_grad_()
        w = torch.randn(width, width, 3, 3, device=device, requires_grad=True)
        operations = 3 * 2 * n * s * s * width * width * 9

        def work(x: torch.Tensor = x, w: torch.Tensor = w) -> None:
            with autocast(dtype, device):
                y = F.conv2d(x, w, padding=1)
            y.backward(torch.ones_like(y))

        best = max(best, operations / medians(interleaved({"": work}, 9))[""])
    return best


def bandwidth(device: torch.device) -> float:
    """Bytes a second that a copy reads and writes."""
    a = torch.ones(2**26, device=device)
    b = torch.empty_like(a)
    return 2 * a.nbytes / medians(interleaved({"": lambda: b.copy_(a)}, 7))[""]


def shares(step: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Of the time of the operators of a step, by kind of work."""
    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as found:
        for _ in range(4):
            step()
    times: Counter[str] = Counter()
    for event in found.key_averages():
        kind = next((kind for kind, parts in KINDS if any(part in event.key.lower() for part in parts)), "the rest")
        times[kind] += event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
    total = times.total()
    return {kind: time / total for kind, time in times.most_common()}


def main() -> None:
    parser = new_parser(__doc__, rounds=9)
    parser.add_argument("--config", default="lidc", help="a preset with networks of ours")
    parser.add_argument("--out", type=Path)
    args, device = begun(parser)
    config = load_config(args.config)
    dtype = resolve_precision("auto", device)
    model = CAR(2, 1, (64, 64), config.calibration, config.refinement, precision="auto").to(device)
    images = torch.rand(config.training.batch, 1, 64, 64, device=device) * 2 - 1
    labels = blobs(config.training.batch, 4, 64)
    plain = our_step(model, config, images, labels, recorded=False)
    plain()
    with Operations() as counted:
        plain()
    operations, step = counted.total, our_step(model, config, images, labels)
    rate, copied = rate_of_convolutions(config, device, dtype), bandwidth(device)
    taken = statistics.median(interleaved({"": step}, args.rounds)[""])
    print(f"{machine_line()}, {str(dtype).removeprefix('torch.')}")
    print(f"a copy moves {copied / 1e9:.1f} GB/s, convolutions of {args.config} do {rate / 1e9:.0f} GFLOP/s")
    print(
        f"a step of {config.training.batch} images: {operations / 1e9:.1f} GFLOP, so at least {1e3 * operations / rate:.0f} ms"
    )
    print(f"it takes {1e3 * taken:.0f} ms, {taken * rate / operations:.2f} times that:")
    parts = shares(step, device)
    for kind, share in parts.items():
        print(f"  {kind:34} {share:6.1%} {1e3 * share * taken:8.1f} ms")
    results = {"operations": operations, "rate": rate, "bandwidth": copied, "seconds": taken, "shares": parts}
    write(args.out, {"config": args.config, "dtype": str(dtype), "results": results})


if __name__ == "__main__":
    main()
