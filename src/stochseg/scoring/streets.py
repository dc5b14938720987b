"""The scores of single labels whose classes flip: each flip's frequency, its coherence, and the IoU of the likeliest map."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stochseg.data.store import ClassInfo
from stochseg.metrics.conventions import Flip
from stochseg.metrics.flip_modes import flip_frequencies, flip_mode_frequencies
from stochseg.metrics.flip_shares import flip_coherence, flip_pixels
from stochseg.metrics.intervals import bootstrap_interval, bootstrap_totals_interval
from stochseg.metrics.modes import expected_total_variation, mode_total_variation
from stochseg.metrics.overlap import class_overlaps
from stochseg.models.class_maps import class_maps

Arrays = dict[str, NDArray[np.float64]]
SOURCES = ("q", "samples")


def merged(maps: Tensor, flips: Sequence[Flip]) -> Tensor:
    """Class maps with both sides of every flip as one: `to` counts as `from`."""
    result = maps.clone()
    for source, target, _ in flips:
        result[maps == target] = source
    return result


def likeliest_label(labels: Tensor, flips: Sequence[Flip]) -> Tensor:
    """The labels [b h w] as they most often are: flipped where that is likelier than not."""
    result = labels.clone()
    for source, target, p in flips:
        if p > 0.5:
            result[labels == source] = target
    return result


def iou_counts(q: Tensor, labels: Tensor, ignore: int | None, flips: Sequence[Flip]) -> dict[str, Tensor]:
    """Overlaps [b k 2] of the likeliest map of q [b k h w] with labels [b 1 h w]: `overlaps`, and where classes flip
    `overlaps_either`, in which either side of a flip is right."""
    k, label, likeliest = q.shape[1], labels[:, 0], class_maps(q)
    counts = {"overlaps": class_overlaps(likeliest, likeliest_label(label, flips), k, ignore)}
    if flips:
        counts["overlaps_either"] = class_overlaps(merged(likeliest, flips), label, k, ignore)
    return counts


def blackbox_right(blackbox: Tensor, labels: Tensor) -> Tensor:
    """Where a black box, ids [b h w] or probabilities [b j h w], says what the labels [b 1 h w] say: bool [b h w]."""
    ids = blackbox if blackbox.ndim == 3 else class_maps(blackbox)
    return ids == labels[:, 0]


def flip_counts(
    q: Tensor,
    mean: Tensor,
    maps: Tensor,
    labels: Tensor,
    flips: Sequence[Flip],
    ignore: int | None,
    right: Tensor | None,
) -> dict[str, Tensor]:
    """What `flip_summary` needs of each image. q, mean (of the samples): [b k h w]; maps: [b n h w]; labels: [b 1 h w].

    right: bool [b h w], where a black box is right; without one, where the likeliest map of q is, whichever side it takes.
    """
    k, label = q.shape[1], labels[:, 0]
    if right is None:
        right = merged(class_maps(q), flips) == label
    counts: dict[str, Tensor] = {}
    for region, pixels in (("", None), ("_right", right)):
        for name, probabilities in (("q", q), ("samples", mean)):
            found = flip_pixels(probabilities, labels, flips, ignore, pixels)
            counts |= {f"flip_pixels{region}": found.pixels}
            counts |= {f"flip_{name}_kept{region}": found.kept, f"flip_{name}_flipped{region}": found.flipped}
    sides = flip_frequencies(maps, labels, flips, k, ignore)
    modes = flip_mode_frequencies(maps, labels, flips, k, ignore)
    return counts | {
        "flip_coherence": flip_coherence(maps, labels, flips, k, ignore),
        "flip_flipped": sides.flipped,
        "flip_neither": sides.neither,
        "flip_modes": modes.frequencies,
        "flip_modes_wanted": modes.probabilities,
    }


def iou_summary(values: Arrays, classes: Sequence[ClassInfo], groups: NDArray[Any]) -> dict[str, Any]:
    """IoU of each class that maps or labels hold, by name, and their mean, all images together, with its interval."""
    result: dict[str, Any] = {}
    for key, name in (("overlaps", "iou"), ("overlaps_either", "iou_either_side")):
        if key in values:
            totals = values[key].sum(0)
            there = totals[:, 1] > 0
            each = {c.name: float(i / u) for c, (i, u), seen in zip(classes, totals, there) if seen}
            result |= {name: each, f"m{name}": float(np.mean(list(each.values()))) if each else None}
            result[f"m{name}_interval"] = (
                list(bootstrap_totals_interval(values[key], _units(groups), _mean_iou))
                if len(groups) > 1 and each
                else None
            )
    return result


def flip_summary(
    values: Arrays, flips: Sequence[Flip], classes: Sequence[ClassInfo], groups: NDArray[Any], samples: int, right: str
) -> dict[str, Any]:
    """For each flip its frequency in q and in the samples beside its probability; what its samples hold together.

    A frequency is the share of `to` in what either side of the flip gets, over the pixels of the class in all images
    together; `*_mass` is that of `to` in all these pixels, the paper's figure, in which a class taken for something else
    lowers the frequency. `*_right`: on the pixels where what `right` names is right. Intervals: 95 %, over groups, or
    over images where there is one group only.
    """
    rows = []
    units = _units(groups)
    for i, (source, target, p) in enumerate(flips):
        there = values["flip_pixels"][:, i] > 0
        row: dict[str, Any] = {
            "from": classes[source].name,
            "to": classes[target].name,
            "probability": p,
            "images": int(there.sum()),
            "pixels": int(values["flip_pixels"][:, i].sum()),
            "pixels_right": int(values["flip_pixels_right"][:, i].sum()),
        }
        for region in ("", "_right"):
            pixels = values[f"flip_pixels{region}"][:, i]
            for name in SOURCES:
                kept, flipped = (values[f"flip_{name}_{side}{region}"][:, i] for side in ("kept", "flipped"))
                for key, whole in ((f"{name}{region}", kept + flipped), (f"{name}_mass{region}", pixels)):
                    row |= _share(key, flipped, whole, units)
        for key in ("coherence", "neither"):
            row |= _mean(key, values[f"flip_{key}"][:, i], units)
        # images in which the class flipped, whatever its size in pixels
        sided = 1 - values["flip_neither"][:, i]
        row |= _share("samples_by_image", np.nan_to_num(values["flip_flipped"][:, i]), np.nan_to_num(sided), units)
        rows.append(row)
    known = [row["coherence"] for row in rows if row["coherence"] is not None]
    return {
        "class_flips": rows,
        "right_means": right,
        "coherence": float(np.mean(known)) if known else None,
        "flips_intervals_over": "groups" if len(np.unique(groups)) > 1 else "images",
        **_joint(values["flip_modes"], values["flip_modes_wanted"], samples),
    }


def _joint(frequencies: NDArray[np.float64], wanted: NDArray[np.float64], samples: int) -> dict[str, float | None]:
    """Total variation of all joint outcomes of the flips [N 2^m], images together, and what exact draws would have.

    Samples that show neither side of a class that the image has are of no outcome: their share is told apart.
    """
    names = ("joint_total_variation", "joint_total_variation_of_draws", "joint_none")
    defined = ~np.isnan(frequencies[:, 0])
    f, p = (each[defined].sum(0) for each in (frequencies, wanted))
    if not f.sum() > 0:
        return dict.fromkeys(names)
    images = int(defined.sum())
    of_outcomes, probabilities = torch.from_numpy(f / f.sum())[None], torch.from_numpy(p / images)[None]
    tv = float(mode_total_variation(of_outcomes, probabilities))
    drawn = float(expected_total_variation(probabilities, images * samples))
    return dict(zip(names, (tv, drawn, 1 - float(f.sum()) / images)))


def _units(groups: NDArray[Any]) -> NDArray[Any]:
    """What intervals resample: groups, or images where all are of one."""
    return groups if len(np.unique(groups)) > 1 else np.arange(len(groups))


def _share(key: str, part: NDArray[np.float64], whole: NDArray[np.float64], units: NDArray[Any]) -> dict[str, Any]:
    """The share of sums over images, and its interval."""
    if not whole.sum() > 0:
        return {key: None, f"{key}_interval": None}
    interval = None
    if len(np.unique(units[whole > 0])) > 1:
        some = whole > 0
        totals = np.stack([part[some], whole[some]], 1)
        interval = list(bootstrap_totals_interval(totals, units[some], lambda sums: sums[:, 0] / sums[:, 1]))
    return {key: float(part.sum() / whole.sum()), f"{key}_interval": interval}


def _mean(key: str, values: NDArray[np.float64], units: NDArray[Any]) -> dict[str, Any]:
    defined = ~np.isnan(values)
    if not defined.any():
        return {key: None, f"{key}_interval": None}
    several = len(np.unique(units[defined])) > 1
    return {
        key: float(values[defined].mean()),
        f"{key}_interval": list(bootstrap_interval(values, units)) if several else None,
    }


def _mean_iou(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the classes [draws] of summed overlaps [draws k 2]; a class that a draw lacks is left out of it."""
    both, either = sums[..., 0], sums[..., 1]
    iou = np.divide(both, either, out=np.full(either.shape, np.nan), where=either > 0)
    return np.asarray(np.nanmean(iou, 1))
