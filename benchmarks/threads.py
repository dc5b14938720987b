"""What it costs that threads wait asleep: training steps on a quiet machine and beside a program that holds one core.

    python benchmarks/threads.py [--threads 2] [--rounds 3] [--seconds 8] [--spins 1000 10000]

Each timing is a process of its own, since OpenMP reads how its threads wait when it is loaded: as it comes, and as
`stochseg.threads` sets it for the commands. All take turns. A table, and JSON with --out.
"""

import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from measuring import machine_line, new_parser, write
from stepping import blobs, our_step
from stochseg.memory import keep_freed_memory
from stochseg.models.car import CAR
from stochseg.presets import load_config
from stochseg.threads import SPINS


def steps_a_second(seconds: float) -> float:
    """Steps of `lidc` from new weights that this process makes, as the commands make them."""
    keep_freed_memory()
    config = load_config("lidc")
    model = CAR(2, 1, (64, 64), config.calibration, config.refinement, precision="auto")
    step = our_step(model, config, torch.rand(config.training.batch, 1, 64, 64), blobs(config.training.batch, 4, 64))
    step()
    start, made = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        made += 1
    return made / (time.perf_counter() - start)


def timed(spins: str | None, threads: int, seconds: float) -> float:
    """The same in a new process whose threads wait so."""
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    env = kept | {"OMP_NUM_THREADS": str(threads)} | ({} if spins is None else {"GOMP_SPINCOUNT": spins})
    command = [sys.executable, __file__, "--child", "--seconds", str(seconds)]
    return float(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)


def hold_a_core() -> None:
    while True:
        pass


def main() -> None:
    parser = new_parser(__doc__, rounds=3)
    parser.add_argument("--seconds", type=float, default=8, help="of each timing")
    parser.add_argument(
        "--spins", nargs="+", default=[SPINS], help="turns that a waiting thread takes before it sleeps"
    )
    parser.add_argument("--child", action="store_true", help="make the steps in this process, and print their rate")
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args()
    if args.child:
        print(steps_a_second(args.seconds))
        return
    ways = {"as it comes": None} | {f"asleep after {spins}": spins for spins in args.spins}
    rates: dict[str, list[float]] = {f"{way}, {place}": [] for place in ("quiet", "beside") for way in ways}
    for _ in range(args.rounds):
        for place in ("quiet", "beside"):
            other = multiprocessing.Process(target=hold_a_core, daemon=True)
            if place == "beside":
                other.start()
            for way, spins in ways.items():
                rates[f"{way}, {place}"].append(timed(spins, args.threads, args.seconds))
            if place == "beside":
                other.terminate()
                other.join()
    found = {name: statistics.median(each) for name, each in rates.items()}
    print(f"training steps of lidc a second, {args.threads} threads; {machine_line()}")
    print(f"{'threads wait':20}{'quiet machine':>15}{'beside a program':>18}")
    for way in ways:
        print(f"{way:20}{found[f'{way}, quiet']:15.2f}{found[f'{way}, beside']:18.2f}")
    write(args.out, {"steps_a_second": found, "all": rates})


if __name__ == "__main__":
    main()
