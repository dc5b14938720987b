"""How much longer a trained model's steps take where floats below 1.2e-38 are not counted as zero.

    python benchmarks/denormals.py runs/lidc --data stores/lidc

goes on training a copy of the run's model for a few steps, with denormal numbers and without (`stochseg.denormals`),
taking turns, and does the same with new weights: a new network has none, a trained one is sure of most pixels. A table,
and JSON with --out.
"""

from pathlib import Path

import torch

from measuring import begun, interleaved, machine_line, medians, new_parser, write
from stepping import our_step
from stochseg.data.batches import Batches
from stochseg.data.store import open_store
from stochseg.denormals import without_denormals
from stochseg.models.car import CAR
from stochseg.models.segmenter import load
from stochseg.presets import load_config
from stochseg.training.run import build_model


def main() -> None:
    parser = new_parser(__doc__, rounds=9)
    parser.add_argument("run", type=Path, help="a run of the method car")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="JSON to write")
    args, device = begun(parser)
    config = load_config(args.run / "config.yaml", {})
    store = open_store(args.data)
    batch = Batches(store.split("train"), config.training.batch, config.input, seed=0).at(0)
    trained = load(args.run, "float32", device)
    new = build_model(config, store, trained.channels, trained.size)
    works = {}
    for name, model in (("new weights", new), ("trained", trained)):
        assert isinstance(model, CAR)
        step = our_step(model, config, batch.images, batch.labels)
        works[f"{name}, with"] = step
        works[f"{name}, without"] = without_denormals()(step)
    found = medians(interleaved(works, args.rounds))
    print(f"a training step, ms; {machine_line()}")
    print(f"{'':14}{'denormal numbers':>18}{'zeros instead':>16}{'ratio':>8}")
    for name in ("new weights", "trained"):
        slow, fast = found[f"{name}, with"], found[f"{name}, without"]
        print(f"{name:14}{1e3 * slow:18.0f}{1e3 * fast:16.0f}{slow / fast:8.2f}")
    write(args.out, {"run": str(args.run), "seconds": found, "torch": torch.__version__})


if __name__ == "__main__":
    main()
