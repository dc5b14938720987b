"""What is left to gain, and where: the GED of a model with its chance of an empty map, or its outlines, made the raters'.

    python benchmarks/ged_parts.py runs/lidc --data stores/lidc --split val

takes a model that lists its maps with their probabilities (refinement.net hypotheses), so that the GED that draws are
expected to have follows from the list, without drawing. Then it says, image by image, how often the map is empty as often
as the raters do, or takes the outlines of that image's raters in place of the model's, or both. No model can know these
very raters, so the last lines are bounds of what is left in each part, not aims. A table, and JSON with --out.
"""

from pathlib import Path

import torch
from torch import Tensor

from measuring import judging_parser, write
from stochseg.data.batches import centre_crop_for, in_order
from stochseg.data.store import open_store
from stochseg.metrics import bootstrap_interval, pairwise_iou
from stochseg.models.car import CAR

DRAWS = (16, 100)


def expected_ged(distances: Tensor, weights: Tensor, raters: Tensor, n: int) -> Tensor:
    """The mean of the V statistic over n independent draws from a list, [b].

    distances: [b a a] of all maps; weights: [b a], how likely each is drawn; raters: [b a], the same of the raters. Of the
    n^2 pairs of draws n are of a draw with itself, at distance 0.
    """
    ys, ss, yy = (
        torch.einsum("ba,bac,bc->b", one, distances, other)
        for one, other in ((weights, raters), (weights, weights), (raters, raters))
    )
    return 2 * ys - (1 - 1 / n) * ss - yy


def versions(maps: Tensor, likely: Tensor, raters: int) -> dict[str, Tensor]:
    """Weights [b a] of the maps [b a h w], the last ones being the raters', in each version; likely: [b a - raters]."""
    blank = ~maps.flatten(2).any(2)
    own = torch.cat([likely, likely.new_zeros(len(likely), raters)], 1)
    theirs = torch.zeros_like(own)
    theirs[:, -raters:] = 1 / raters

    def mixed(empty: Tensor, outlines: Tensor) -> Tensor:
        """The empty map as often as it says [b]; else one of the outlines' [b a], the model's where those have none."""
        marked = outlines.masked_fill(blank, 0)
        fallback = own.masked_fill(blank, 0)
        marked = torch.where(marked.sum(1, keepdim=True) > 0, marked, fallback)
        marked = marked * ((1 - empty) / marked.sum(1).clamp(min=1e-9))[:, None]
        marked[:, 0] += 1 - marked.sum(1)
        return marked

    empty, empty_of_raters = own.masked_fill(~blank, 0).sum(1), theirs.masked_fill(~blank, 0).sum(1)
    return {
        "the model": own,
        "its P(empty) the same in every image": mixed(empty_of_raters.mean().expand_as(empty), own),
        "its P(empty) the raters', outlines its own": mixed(empty_of_raters, own),
        "its outlines the raters', P(empty) its own": mixed(empty, theirs),
        "both: draws of these raters": theirs,
    }


def main() -> None:
    parser = judging_parser(__doc__)
    parser.add_argument(
        "runs", type=Path, nargs="+", help="of several, trained at one size, each draw is of any of them"
    )
    parser.add_argument("--orientations", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    store = open_store(args.data)
    if len(store.classes) != 2 or store.flips:
        parser.error(f"{args.data}: takes a store of two classes that do not flip")
    split, models = store.split(args.split), [CAR.load(run, "auto") for run in args.runs]
    for run, model in zip(args.runs, models):
        if model.size != models[0].size:
            parser.error(
                f"{run}: was trained at {model.size}, {args.runs[0]} at {models[0].size}; take runs of one size"
            )
        model.orientations = args.orientations
    whole, raters = [], len(split.labels[0])
    for batch in in_order(split, 32, centre_crop_for(models[0].size, split)):
        if bool((batch.labels == 255).any()):
            parser.error(f"{args.data}: a rater is missing; takes images that all raters have read")
        lists, chances = zip(*(model.hypotheses(batch.images) for model in models))
        likely = torch.cat(chances, 1).double() / len(models)
        whole.append((torch.cat([*lists, batch.labels], 1).long(), likely))
    maps, likely = torch.cat([m for m, _ in whole]), torch.cat([p for _, p in whole])
    distances = torch.cat([1 - pairwise_iou(some, some) for some in maps.split(64)])
    all_versions = versions(maps, likely, raters)
    theirs = all_versions["both: draws of these raters"]
    print(f"{len(maps):,} images of {args.split}; expected GED (V) of {DRAWS[0]} and {DRAWS[1]} draws [95 % interval]")
    rows = []
    for name, weights in all_versions.items():
        found = {n: expected_ged(distances, weights, theirs, n) for n in DRAWS}
        scores = {
            f"ged{n}": (float(each.mean()), *bootstrap_interval(each.numpy(), split.groups))
            for n, each in found.items()
        }
        rows.append({"version": name, **scores})
        print(f"{name:45}" + "   ".join("{:.3f} [{:.3f}, {:.3f}]".format(*score) for score in scores.values()))
    write(
        args.out, {"runs": [str(run) for run in args.runs], "images": len(maps), "split": args.split, "results": rows}
    )


if __name__ == "__main__":
    main()
