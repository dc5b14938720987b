"""How good a segmenter must be for flips to show in the GED: what exact flips of its map score, whole or pixel by pixel.

    python benchmarks/flip_ceiling.py --data stores/streets --split val

takes the black box's maps of a store whose classes flip, and maps of which ever more blocks of 16x16 pixels are as the
label says. Each map is flipped with the exact probabilities, all pixels of a class together (what a perfectly calibrated
and coherent model over that segmenter draws) or each pixel by itself. The ratio of the two GEDs is the most that
coherence alone gains at that quality. A table, and JSON with --out.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from measuring import write
from stochseg.data.store import Store, open_store
from stochseg.metrics import generalized_energy_distance
from stochseg.metrics.conventions import Flip
from stochseg.metrics.overlap import class_iou, class_overlaps

BLOCK = 16


def flipped(maps: Tensor, flips: Sequence[Flip], n: int, whole: bool, generator: torch.Generator) -> Tensor:
    """n draws [b n h w] of maps [b h w]: each flip happens in the whole image at once, or in every pixel by itself."""
    b, h, w = maps.shape
    draws = maps[:, None].repeat(1, n, 1, 1)
    for source, target, p in flips:
        happens = torch.rand((b, n, 1, 1) if whole else (b, n, h, w), generator=generator) < p
        draws[(maps[:, None] == source) & happens] = target
    return draws


def mended(maps: Tensor, truth: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Maps [b h w] of which this share of the blocks is the truth."""
    b, h, w = maps.shape
    blocks = torch.rand(b, -(-h // BLOCK), -(-w // BLOCK), generator=generator) < share
    where = blocks.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)[:, :h, :w]
    return torch.where(where, truth, maps)


def row_of(store: Store, maps: Tensor, labels: Tensor, samples: int, generator: torch.Generator) -> dict[str, float]:
    k = len(store.classes)
    sides = {target for _, target, _ in store.flips}
    every = class_iou(class_overlaps(maps, labels[:, 0], k, store.ignore).sum(0))
    iou = every[[c for c in range(k) if c not in sides]].nanmean()  # nan: in no map and no label
    known = torch.ones_like(maps, dtype=torch.bool) if store.ignore is None else labels[:, 0] != store.ignore

    def ged(whole: bool) -> float:
        draws = flipped(maps, store.flips, samples, whole, generator)
        found = generalized_energy_distance(
            draws, labels, classes=k, convention="car-cityscapes", ignore=store.ignore, flips=store.flips
        )
        return float(found.nanmean())

    together, apart = ged(True), ged(False)
    right = float((maps == labels[:, 0])[known].double().mean())
    return {"right": right, "miou": float(iou), "together": together, "apart": apart, "ratio": together / apart}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a store with flips and a black box")
    parser.add_argument("--split", default="val")
    parser.add_argument("--images", type=int, default=24, help="spread over the split")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args()
    store = open_store(args.data)
    split = store.split(args.split)
    if not store.flips or split.extras.get("blackbox", np.empty(0)).ndim != 3:
        parser.error(f"{args.data}: has no flips, or no class ids of a black box; see `stochseg blackbox predict`")
    rows = np.unique(np.linspace(0, len(split) - 1, args.images).round().astype(int))
    labels = torch.from_numpy(np.array(split.labels[rows]))
    maps = torch.from_numpy(np.array(split.extras["blackbox"][rows]))
    generator = torch.Generator().manual_seed(0)
    truth = labels[:, 0] if store.ignore is None else torch.where(labels[:, 0] == store.ignore, maps, labels[:, 0])
    found = []
    print(
        f"{len(rows)} images of {args.split}, {args.samples} draws; GED of exact flips of whole classes, and of pixels"
    )
    print(f"{'blocks mended':>14}{'pixels right':>14}{'mean IoU':>10}{'whole':>8}{'pixels':>8}{'ratio':>7}")
    for share in (0.0, 0.5, 0.75, 0.9, 1.0):
        row = row_of(store, mended(maps, truth, share, generator), labels, args.samples, generator)
        found.append({"mended": share} | row)
        print(
            f"{share:14.0%}{row['right']:14.3f}{row['miou']:10.3f}{row['together']:8.3f}{row['apart']:8.3f}{row['ratio']:7.2f}"
        )
    write(args.out, {"images": len(rows), "samples": args.samples, "results": found})


if __name__ == "__main__":
    main()
