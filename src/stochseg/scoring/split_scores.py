"""The samples of a model for every image of a split, scored against its raters, beside what trivial answers score."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stochseg.config import Crop
from stochseg.data.batches import crop_size, in_order
from stochseg.data.store import Split
from stochseg.metrics.areas import empty_counts
from stochseg.metrics.calibration import ReliabilityCounts, class_frequencies, reliability_counts
from stochseg.metrics.conventions import Convention, Flip
from stochseg.metrics.matching import check_counts
from stochseg.metrics.raters import raters_reference
from stochseg.models.class_maps import class_maps
from stochseg.models.segmenter import Segmenter
from stochseg.progress import track
from stochseg.sampling.latents import Draws, latents
from stochseg.scoring.reference_answers import draws_from_modes, independent_pixels, mode_scores, modes_of
from stochseg.scoring.scores import more_scores, score_maps
from stochseg.scoring.streets import blackbox_right, flip_counts, iou_counts

Values = dict[str, NDArray[np.float64]]
BATCH = 32
PIXELS_AT_ONCE = 2**19
"""Pixels of images that are scored at once, however large an image is."""
BASELINES = ("all_empty", "argmax", "independent_pixels", "raters")


@dataclass(frozen=True)
class Scores:
    """values: per image [N], by name; baselines: the same per trivial answer; reliability: of the marginals.

    reliability has an entry for each of "q" and "mean" (of the samples) with "top" and "foreground" (`Target`), and one
    of P(empty), ("empty", "top"). Where classes flip, none of them is a background, and "top" is all there is.
    bins: by name, what each image adds to the sums of "top", [N 3 bins]: counts, confidence, accuracy. counts: what each
    image of a store with one label an image adds to the scores of `scoring.streets`, [N ...].
    """

    values: Values
    baselines: dict[str, Values]
    reliability: dict[tuple[str, str], ReliabilityCounts]
    bins: dict[str, NDArray[np.float64]]
    counts: Values


def images_at_once(split: Split, crop: Crop) -> int:
    """How many images of a split are scored at once."""
    h, w = crop_size(crop, (split.images.shape[1], split.images.shape[2]))
    return min(BATCH, max(1, PIXELS_AT_ONCE // (h * w)))


def score_split(
    model: Segmenter,
    split: Split,
    samples: int,
    convention: Convention,
    *,
    crop: Crop,
    ignore: int | None = None,
    flips: Sequence[Flip] | None = None,
    seed: int = 0,
    draws: Draws = "independent",
    rows: Sequence[int] | None = None,
    full: bool = True,
    progress: bool = False,
) -> Scores:
    """Sample every image of a split (or of the rows given) and score the samples against its raters.

    full: also the scores that no convention changes, and what trivial answers score.
    """
    check_counts(samples, split.labels.shape[1], convention.matching)
    k = len(model.classes)
    chosen = list(range(len(split))) if rows is None else list(rows)
    found: defaultdict[str, list[Tensor]] = defaultdict(list)
    trivial: dict[str, defaultdict[str, list[Tensor]]] = {name: defaultdict(list) for name in BASELINES}
    reliability: dict[tuple[str, str], ReliabilityCounts] = {}
    bins: defaultdict[str, list[Tensor]] = defaultdict(list)
    counts_found: defaultdict[str, list[Tensor]] = defaultdict(list)
    size = images_at_once(split, crop)
    judged = bool(
        full and flips and "blackbox" in split.extras
    )  # a store's black box says where flips are to be counted
    batches: Iterable[Any] = in_order(split, size, crop, chosen, model.needs_blackbox or judged)
    if progress:
        batches = track(batches, -(-len(chosen) // size), f"evaluating on {split.name}", "batches")
    done = 0
    for batch in batches:
        numbers = chosen[done : done + len(batch.images)]
        done += len(numbers)
        seen = batch.blackbox if model.needs_blackbox else None
        q = model.probabilities(batch.images, seen).cpu()
        z = latents(seed, numbers, samples, model.latent, draws)
        maps = model.sample(batch.images, z=z, blackbox=seen).cpu()

        def score(answers: Tensor, labels: Tensor = batch.labels) -> dict[str, Tensor]:
            return score_maps(answers, labels, k, convention, ignore, flips)

        _add(found, score(maps))
        _add(found, more_scores(maps, batch.labels, k, ignore, flips) if full else {})
        mean = class_frequencies(maps, k)
        for name, marginals in (("q", q), ("mean", mean)):
            each = reliability_counts(marginals, batch.labels, ignore=ignore, per_image=True, flips=flips)
            bins[name].append(torch.stack([each.counts, each.confidence, each.accuracy], 1))
            sums = {"top": each.sum()}
            if not flips:  # where classes flip, the first one is no background
                sums["foreground"] = reliability_counts(marginals, batch.labels, target="foreground", ignore=ignore)
            for target, counts in sums.items():
                before = reliability.get((name, target))
                reliability[name, target] = counts if before is None else before + counts
        if full and batch.labels.shape[1] == 1:
            _add(counts_found, iou_counts(q, batch.labels, ignore, flips or ()))
        if full and flips:
            right = blackbox_right(batch.blackbox, batch.labels) if judged else None
            _add(counts_found, flip_counts(q, mean, maps, batch.labels, flips, ignore, right))
        if full and not flips:
            each = empty_counts(maps, batch.labels, k, ignore=ignore, per_image=True)
            bins["empty"].append(torch.stack([each.counts, each.confidence, each.accuracy], 1))
            before = reliability.get(("empty", "top"))
            reliability["empty", "top"] = each.sum() if before is None else before + each.sum()
        if full:
            same = (len(maps), samples, *maps.shape[2:])
            empty, likeliest = torch.zeros_like(maps[:, :1]), class_maps(q)[:, None]
            _add(trivial["all_empty"], score(empty.expand(same)))
            _add(trivial["argmax"], score(likeliest.expand(same)))
            _add(trivial["independent_pixels"], score(independent_pixels(q, samples, seed, numbers)))
            ged, hm_iou = raters_reference(batch.labels, samples, k, convention, ignore, flips)
            _add(trivial["raters"], {"ged": ged, "hm_iou": hm_iou})
            if "modes" in split.extras:
                modes, probabilities = modes_of(split, numbers, crop)
                truth = draws_from_modes(modes, probabilities, samples, seed, numbers)
                _add(found, mode_scores(maps, modes, probabilities, k, ignore))
                _add(
                    trivial.setdefault("truth", defaultdict(list)),
                    score(truth) | mode_scores(truth, modes, probabilities, k, ignore),
                )
    return Scores(
        _gather(found),
        {name: _gather(v) for name, v in trivial.items() if v},
        reliability,
        {name: torch.cat(rows).double().numpy() for name, rows in bins.items()},
        _gather(counts_found),
    )


def spread(count: int, limit: int) -> list[int]:
    """`limit` rows evenly over `count`."""
    return [int(i) for i in np.unique(np.linspace(0, count - 1, min(limit, count)).round())]


def _add(lists: defaultdict[str, list[Tensor]], values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        lists[name].append(value.double())


def _gather(lists: dict[str, list[Tensor]]) -> Values:
    return {name: torch.cat(values).numpy() for name, values in lists.items()}
