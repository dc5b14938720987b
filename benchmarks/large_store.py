"""A store larger than memory: the most anonymous memory that opening it and drawing batches from it takes.

    python benchmarks/large_store.py [--images 1000 1000000] [--batches 200] [--out FILE.json]

Stores are sparse files of zeros, so a million images of 64x64 with four raters (20 GB by their size) take no room on the
disk. Each is opened and read in a process of its own: anonymous memory is what the process cannot give back; pages of
the mapped files are not in it. Linux only.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from measuring import machine, write

SIDE, RATERS = 64, 4


def sparse_store(path: Path, images: int) -> Path:
    """A store of zeros whose files have holes in place of pixels."""
    path.mkdir()
    ids = [f"image-{i:07}" for i in range(images)]
    arrays = {"images": (images, SIDE, SIDE, 1), "labels": (images, RATERS, SIDE, SIDE)}
    entry: dict[str, Any] = {"ids": ids, "groups": [name[:-1] for name in ids], "source": "zeros", "arrays": {}}
    for name, shape in arrays.items():
        file = f"train.{name}.npy"
        np.lib.format.open_memmap(path / file, "w+", np.uint8, shape).flush()
        entry["arrays"][name] = {"file": file, "shape": list(shape), "dtype": "uint8", "sha256": "not taken"}
    classes = [{"name": name, "color": [0, 0, 0]} for name in ("background", "lesion")]
    index = {
        "format": "stochseg-store", "version": 1, "classes": classes, "ignore": None, "raters": RATERS, "flips": [],
        "convention": "car", "group_name": "patient", "notes": {}, "splits": {"train": entry},
    }  # fmt: skip
    (path / "index.json").write_text(json.dumps(index))
    return path


def anonymous_megabytes() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def read(path: Path, batches: int) -> dict[str, float]:
    """Open the store and draw batches, in this process: seconds, and the most anonymous memory beside that at the start."""
    import torch

    from stochseg.config import InputConfig
    from stochseg.data.batches import Batches
    from stochseg.data.store import open_store

    torch.set_num_threads(1)
    config = InputConfig(crop=SIDE)
    Batches(open_store(sparse_store(path.with_name("warm"), 64)).split("train"), 32, config, 0).at(0)  # loads libraries
    before = most = anonymous_megabytes()
    ended = threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.01):
            most = max(most, anonymous_megabytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    drawn = Batches(open_store(path).split("train"), 32, config, 0)
    opened = time.perf_counter() - start
    after_opening = anonymous_megabytes() - before
    start = time.perf_counter()
    for step in range(batches):
        drawn.at(step)
    seconds = time.perf_counter() - start
    ended.set()
    watcher.join()
    return {
        "open_seconds": opened,
        "batch_ms": 1e3 * seconds / batches,
        "index_megabytes": after_opening,
        "peak_megabytes": most - before,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="where the sparse files go; default a temporary folder")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.read:
        print(json.dumps(read(args.read, args.batches)))
        return
    print(f"{machine()['cpu']}, 1 thread; {SIDE}x{SIDE}, {RATERS} raters, batches of 32; MB of anonymous memory")
    print(f"{'images':>9} {'size, GB':>9} {'open, s':>8} {'batch, ms':>10} {'after opening, MB':>18} {'peak, MB':>9}")
    rows = []
    for images in args.images:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            store = sparse_store(Path(folder) / "store", images)
            command = [sys.executable, __file__, "--read", str(store), "--batches", str(args.batches)]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        size = images * SIDE * SIDE * (1 + RATERS) / 1e9
        print(
            f"{images:9} {size:9.2f} {found['open_seconds']:8.2f} {found['batch_ms']:10.2f} "
            f"{found['index_megabytes']:18.1f} {found['peak_megabytes']:9.1f}",
            flush=True,
        )
        rows.append({"images": images, "gigabytes": size} | found)
    write(args.out, {"batches": args.batches, "results": rows})


if __name__ == "__main__":
    main()
