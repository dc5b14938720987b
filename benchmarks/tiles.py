"""What tiles do to the samples of images larger than those of training: GED of the middle, and where too much is marked.

    python benchmarks/tiles.py runs/lidc --data stores/lidc --split val

takes images of a store that are larger than the crops of a run's training and scores the middle crop: sampled by itself, in
tiles of the training size, in larger tiles, and as a part of the whole. Beside it stands how much is marked in the
middle of the image, at the middles of the other tiles, and elsewhere. A model that was trained on crops around an object
expects one in the middle of whatever it sees, so it marks more there than raters do. A table, and JSON with --out.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from measuring import judging_parser, write
from stochseg.data.store import open_store
from stochseg.metrics import generalized_energy_distance
from stochseg.models.segmenter import Segmenter, load
from stochseg.sampling.latents import latents
from stochseg.sampling.tiling import Tile, Tiling

PLACES = ("middle", "other middles", "elsewhere")


def middles(tiling: Tiling) -> dict[str, NDArray[np.bool_]]:
    """Which pixels [h w] lie at the image's middle, at the middles of its other tiles (squares of a quarter of their
    sides), and in neither."""
    h, w = tiling.size
    found = {name: np.zeros((h, w), bool) for name in PLACES}
    side = tiling.rows.tile // 8
    for y in tiling.rows.starts:
        for x in tiling.columns.starts:
            row, column = y + tiling.rows.tile // 2, x + tiling.columns.tile // 2
            name = "middle" if (row, column) == (h // 2, w // 2) else "other middles"
            found[name][row - side : row + side, column - side : column + side] = True
    found["elsewhere"] = ~(found["middle"] | found["other middles"])
    return found


def inner(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle [... size] of maps [... h w]."""
    y, x = ((length - side) // 2 for length, side in zip(maps.shape[-2:], size))
    return maps[..., y : y + size[0], x : x + size[1]]


def measured(
    model: Segmenter, images: Tensor, labels: Tensor, ways: Sequence[tuple[str, Tile]], samples: int, convention: str
) -> list[dict[str, float | str]]:
    """A row for the raters and for each way. images: [b c h w]; labels: [b r h w]."""
    tiling = model.tiling((images.shape[-2], images.shape[-1]))
    assert tiling is not None
    places = middles(tiling)
    z = latents(0, range(len(images)), samples, model.latent)
    here, k = inner(labels, model.size), len(model.classes)

    def row(name: str, maps: Tensor, marked: NDArray[np.floating] | None) -> dict[str, float | str]:
        ged = generalized_energy_distance(maps, here, classes=k, convention=convention).nanmean()
        return {"way": name, "ged": float(ged), **shares_of(marked)}

    def shares_of(marked: NDArray[np.floating] | None) -> dict[str, float | str]:
        return {} if marked is None else {place: float(marked[where].mean()) for place, where in places.items()}

    by_raters = ((labels > 0) & (labels < 255)).double().mean((0, 1)).numpy()
    rows: list[dict[str, float | str]] = [{"way": "the raters", **shares_of(by_raters)}]
    alone = torch.cat([model.sample(inner(x, model.size), z=each) for x, each in zip(images.split(1), z.split(1))])
    rows.append(row("the middle by itself", alone, None))
    for name, tile in ways:
        maps = torch.cat([model.sample(x, z=each, tile=tile) for x, each in zip(images.split(1), z.split(1))])
        rows.append(row(name, inner(maps, model.size), (maps > 0).double().mean((0, 1)).numpy()))
    return rows


def main() -> None:
    parser = judging_parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=60, help="spread over the split")
    parser.add_argument("--samples", type=int, default=16)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    store = open_store(args.data)
    split, model = store.split(args.split), load(args.run, "float32")
    h, w = split.images.shape[1:3]
    if h <= model.size[0] or w <= model.size[1]:
        parser.error(
            f"images of {w}x{h} pixels are no larger than the {model.size[1]}x{model.size[0]} of the run's training"
        )
    rows = np.linspace(0, len(split.ids) - 1, min(args.images, len(split.ids))).astype(int)
    images = torch.from_numpy(np.stack([split.images[i] for i in rows])).permute(0, 3, 1, 2) / 127.5 - 1
    labels = torch.from_numpy(np.stack([split.labels[i] for i in rows]))
    larger = model.size[0] * 3 // 2 // 16 * 16
    ways: list[tuple[str, Tile]] = [
        ("tiles of the training size", "auto"),
        (f"tiles of {larger}", larger),
        ("the whole", None),
    ]
    found = measured(model, images, labels, ways, args.samples, store.convention or "car")
    print(
        f"{len(rows)} of {args.split}, {args.samples} samples; GED of the middle {model.size[1]}x{model.size[0]}; % marked"
    )
    print(f"{'':28}{'GED':>8}" + "".join(f"{place:>16}" for place in PLACES))
    for one in found:
        shares = "".join(f"{100 * float(one[p]):16.2f}" if p in one else f"{'':16}" for p in PLACES)
        ged = f"{one['ged']:8.3f}" if "ged" in one else f"{'':8}"
        print(f"{one['way']:28}{ged}{shares}")
    write(args.out, {"images": len(rows), "samples": args.samples, "results": found})


if __name__ == "__main__":
    main()
