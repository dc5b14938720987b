"""Does reading a store limit training: batches a second against the fastest step of a preset's networks.

    python benchmarks/data_pipeline.py [--data STORE] [--presets lidc demo] [--threads 1] [--out FILE.json]

Without --data a store of noise is made that has LIDC's shapes, 180x180 with four raters. Batches are what training
gets: cropped, varied, shuffled. Head room is the time of a step over that of its batch, both from one run, taking turns.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from measuring import begun, interleaved, machine_line, medians, new_parser, write
from stepping import our_step
from stochseg.data.batches import Batches
from stochseg.data.store import LESION_CLASSES, Store, open_store
from stochseg.data.store_writer import StoreWriter
from stochseg.presets import load_config
from stochseg.training.run import build_model


def like_lidc(path: Path, images: int, size: int = 180) -> Path:
    """A store of noise with LIDC's shapes."""
    rng = np.random.default_rng(0)
    with StoreWriter(path, classes=LESION_CLASSES, raters=4) as writer:
        names = [str(i) for i in range(images)]
        split = writer.add_split("train", names, names, (size, size, 1), "noise")
        for i in range(images):
            split.images[i] = rng.integers(0, 256, (size, size, 1))
            split.labels[i] = rng.integers(0, 2, (4, size, size))
    return path


def works_of(
    store: Store, preset: str, more: dict[str, Any], device: torch.device
) -> tuple[int, dict[str, Callable[[], object]]]:
    """The batch size, and the two works: a batch of the next step, and a training step on one that is there."""
    config = load_config(preset, more)
    split = store.split("train")
    batches = Batches(split, config.training.batch, config.input, config.seed)
    side = config.input.crop
    model = build_model(config, store, split.images.shape[3], (side, side) if side else split.images.shape[1:3])
    model.to(device)
    batch, steps = batches.at(0), iter(range(1, 10**9))
    step = our_step(model, config, batch.images, batch.labels)
    return config.training.batch, {"batch": lambda: batches.at(next(steps)), "step": step}


def main() -> None:
    parser = new_parser(__doc__, rounds=9)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--presets", nargs="+", default=["lidc", "demo"])
    parser.add_argument("--images", type=int, default=1000, help="of the store that is made")
    parser.add_argument("--out", type=Path)
    args, device = begun(parser)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(args.data or like_lidc(Path(folder) / "store", args.images))
        print(machine_line())
        print(f"{'preset':34} {'batch, ms':>10} {'images/s':>9} {'step, ms':>10} {'head room':>10}")
        rows = []
        kinds: list[tuple[str, dict[str, Any]]] = [(preset, {}) for preset in args.presets]
        kinds.append((args.presets[0], {"input.jitter": 1.0, "input.rotate": 15.0, "input.scale": 0.2}))
        for preset, more in kinds:
            if preset == "demo":
                more = more | {"input.crop": 64}
            size, works = works_of(store, preset, more, device)
            seconds = interleaved(works, args.rounds)
            middle = medians(seconds)
            name = preset + (", rotated and scaled" if "input.rotate" in more else "")
            room = middle["step"] / middle["batch"]
            print(
                f"{name:34} {1e3 * middle['batch']:10.2f} {size / middle['batch']:9.0f} {1e3 * middle['step']:10.1f} "
                f"{room:9.1f}x",
                flush=True,
            )
            rows.append({"preset": name, "batch_size": size, "head_room": room} | {"seconds": seconds})
    write(args.out, {"data": str(args.data), "results": rows})


if __name__ == "__main__":
    main()
