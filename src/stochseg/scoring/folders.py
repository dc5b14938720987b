"""Predictions of any program, in folders, against labels: the scores of `evaluate` without a model or a store."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stochseg.data.groups import groups_of
from stochseg.data.predictions import MapFolder, MapSet, check_agree, example_of, images_of_all, open_folders
from stochseg.data.store import MISSING_RATER
from stochseg.errors import InputError, OnError
from stochseg.metrics.conventions import Convention, Flip
from stochseg.metrics.intervals import bootstrap_totals_interval, paired_test
from stochseg.metrics.marginals import class_frequencies
from stochseg.metrics.reliability import reliability_counts
from stochseg.progress import say, track
from stochseg.scoring.options import check_options
from stochseg.scoring.output import checked_out, write_scores
from stochseg.scoring.scores import averages, calibration_errors, more_scores, score_maps
from stochseg.wording import counted

Floats = NDArray[np.float64]

BATCH = 32
BYTES_AT_ONCE = 2**28
"""Most bytes of maps that wait for a batch of their size."""
OF_LABELS = ("raters_diversity",)
"""Scores of the labels alone, the same for every method."""


@dataclass(frozen=True)
class Scored:
    """One folder of samples: how many samples an image has, its scores [N] by name, nan where one is undefined, and
    bins [N 3 bins], what each image adds to the sums of the calibration error (None where that is not scored)."""

    folder: Path
    samples: int
    values: dict[str, Floats]
    bins: Floats | None


class Row(NamedTuple):
    """One image in wait for its batch: number, labels, and the samples of each folder."""

    number: int
    labels: MapSet
    samples: list[MapSet]


def score(
    samples: str | Path | Sequence[str | Path],
    labels: str | Path,
    classes: int,
    convention: str = "car",
    out: str | Path | None = None,
    ignore: int | None = None,
    flips: list[tuple[int, int, float]] | None = None,
    groups: str | Path | None = None,
    on_missing: Literal["error", "skip"] = "error",
    on_error: OnError = "stop",
) -> dict[str, Any]:
    """Score folders of samples against a folder of labels; returns what it writes to OUT, per-image values beside it.

    Two folders of samples are compared on the same images. docs/score.md describes the layouts that are read. Raises
    InputError for files that cannot be scored, naming them.

    Args:
        samples: folder of samples, IMAGE.npy [n h w], IMAGE/*.png, ...; two folders are compared.
        labels: folder of labels, IMAGE.npy [r h w], IMAGE/*.png, ...
        classes: number of classes, the background 0 included.
        convention: how scores are counted: car, car-cityscapes, kohl, phiseg, ssn, ccdm, mose, mose-cityscapes,
            flow-ssn, d-persona or values.
        out: JSON file to write; values of every image go beside it as .npz. Only files of `score` are replaced.
        ignore: class id whose pixels, where a label holds it, are left out.
        flips: [[from, to, probability], ...], classes of the labels that flip independently of each other; car then
            counts as car-cityscapes, mose as mose-cityscapes.
        groups: CSV file with the columns image and group (such as patients), to draw whole groups for intervals.
        on_missing: images that have samples or labels only: error, or skip, which counts them and ends with exit code 3
        on_error: at an image whose files cannot be used: stop, or skip, which lists each with its reason and ends with
            exit code 3.
    """
    start = time.monotonic()
    folders = [_path("--samples", one) for one in ([samples] if isinstance(samples, str | Path) else samples)]
    if len(folders) not in (1, 2):
        raise InputError(f"{len(folders)} folders of samples; give one --samples, or two to compare them")
    labels = _path("--labels", labels)
    groups = None if groups is None else _path("--groups", groups)
    rule, flips = check_options(classes, convention, ignore, flips)
    file = None if out is None else checked_out(_path("--out", out), [*folders, labels])
    ours, theirs = open_folders(folders, labels, classes, on_error)
    names, skipped = images_of_all([*ours, theirs], on_missing)
    faults = {name: text for folder in (*ours, theirs) for name, text in folder.unreadable.items()}
    raters = _most_raters(names, theirs, on_error, faults)
    names = _without(names, faults)
    say(example_of(names[0], [*ours, theirs]))
    scored, missing = _score_all(names, ours, theirs, raters, rule, ignore, flips, on_error, faults)
    names = _without(names, faults)
    for text in faults.values():
        say(f"left out: {text}")
    of_image, group_name = groups_of(names, theirs, groups)
    result: dict[str, Any] = {
        "images": len(names),
        "groups": len(np.unique(of_image)),
        "group_name": group_name,
        "skipped": len(skipped) + len(faults),
        "skipped_images": skipped,
        "faulty_images": faults,
        "labels_folder": str(labels),
        "raters_per_image": raters,
        "missing_raters": missing,
        "convention": rule.name,
        "classes": classes,
        "ignore": ignore,
        "flips": None if flips is None else [[*flip] for flip in flips],
    }
    arrays: dict[str, NDArray[Any]] = {"ids": np.array(names), "groups": of_image}
    if len(scored) == 1:
        result = _summary(scored[0], of_image) | result
        arrays |= scored[0].values
    else:
        for letter, one in zip("ab", scored):
            result[letter] = _summary(one, of_image)
            arrays |= {f"{letter}_{key}": values for key, values in one.values.items()}
        result["difference"] = _differences(scored[0], scored[1], of_image)
    result["seconds"] = time.monotonic() - start
    if file is not None:
        say(f"scores written: {file}, and the values of every image: {write_scores(file, result, arrays)}")
    return result


def _path(flag: str, given: str | Path) -> Path:
    """InputError for an empty one, which would be the current folder."""
    if not str(given):
        raise InputError(f"{flag} is empty; give a path (. is the current folder)")
    return Path(given)


def _most_raters(names: Sequence[str], theirs: MapFolder, on_error: OnError, faults: dict[str, str]) -> int:
    """The most label maps that an image has; images whose maps cannot be counted go to the faults."""
    most = 0
    for name in names:
        try:
            most = max(most, theirs.count(name))
        except InputError as error:
            if on_error == "stop":
                raise
            faults[name] = str(error)
    return most


def _without(names: Sequence[str], faults: dict[str, str]) -> list[str]:
    """The images that nothing is wrong with; InputError where there are none."""
    left = [name for name in names if name not in faults]
    if not left:
        raise InputError(next(iter(faults.values())))
    return left


def _score_all(
    names: Sequence[str],
    ours: Sequence[MapFolder],
    theirs: MapFolder,
    raters: int,
    rule: Convention,
    ignore: int | None,
    flips: Sequence[Flip] | None,
    on_error: OnError,
    faults: dict[str, str],
) -> tuple[list[Scored], int]:
    """What each folder scores, and how many label maps are missing of `raters` for every image.

    Images that cannot be read go to the faults where they are skipped, and have no row in the scores.
    """
    found: list[defaultdict[str, Floats]] = [defaultdict(lambda: np.full(len(names), np.nan)) for _ in ours]
    bins: list[dict[int, Floats]] = [{} for _ in ours]
    sizes = [0 for _ in ours]
    missing = 0
    reading = _read(names, ours, theirs, flips is not None, on_error, faults)
    for rows in _batches(track(reading, len(names), "scoring")):
        numbers = [row.number for row in rows]
        labels = torch.from_numpy(np.stack([_padded(row.labels.maps, raters) for row in rows]))
        missing += int((labels.flatten(2).amin(2) == MISSING_RATER).sum())
        for m, sets in enumerate(zip(*(row.samples for row in rows), strict=True)):
            maps = torch.from_numpy(np.stack([one.maps for one in sets]))
            weights = _weights(sets)
            try:
                values = score_maps(maps, labels, theirs.classes, rule, ignore, flips, weights)
            except InputError as error:
                raise InputError(f"{sets[0].where} with --convention {rule.name}: {error}") from error
            if weights is None:  # the others count every map once
                values |= more_scores(maps, labels, theirs.classes, ignore, flips)
                bins[m].update(zip(numbers, _calibration_sums(maps, labels, theirs.classes, ignore, flips)))
            for key, value in values.items():
                found[m][key][numbers] = value.double().cpu().numpy()
            sizes[m] = maps.shape[1]
    left = [i for i, name in enumerate(names) if name not in faults]
    scored = [
        Scored(
            folder.path,
            n,
            {key: column[left] for key, column in values.items()},
            np.stack([sums[i] for i in left]) if sums else None,
        )
        for folder, n, values, sums in zip(ours, sizes, found, bins)
    ]
    return scored, missing


def _read(
    names: Sequence[str],
    ours: Sequence[MapFolder],
    theirs: MapFolder,
    flip: bool,
    on_error: OnError,
    faults: dict[str, str],
) -> Iterator[Row]:
    """Every image with its maps; where files are damaged or do not fit together InputError, or a fault."""
    first: list[MapSet] = []
    for number, name in enumerate(names):
        try:
            row = _row(number, name, ours, theirs, flip, first)
        except InputError as error:
            if on_error == "stop":
                raise
            faults[name] = str(error)
            continue
        first = first or row.samples
        yield row


def _row(
    number: int, name: str, ours: Sequence[MapFolder], theirs: MapFolder, flip: bool, first: Sequence[MapSet]
) -> Row:
    """One image. first: the samples of the image read first, which all must be like."""
    labels = theirs.read(name)
    samples = [folder.read(name) for folder in ours]
    first = first or samples
    if labels.weights is not None:
        raise InputError(
            f"{labels.where}: weights of labels are not counted; leave them out, or repeat maps that weigh more"
        )
    if (labels.maps == MISSING_RATER).all():
        raise InputError(f"{labels.where}: every map is of a missing rater; leave the image out")
    if flip and len(labels.maps) != 1:
        raise InputError(f"{labels.where}: {len(labels.maps)} labels; with --flips give one, that is not flipped")
    for one, other in zip(samples, first):
        check_agree(one, labels)
        if len(one.maps) != len(other.maps):
            raise InputError(
                f"{one.where}: {counted(len(one.maps), 'sample')}, {other.where} has {len(other.maps)}; scores "
                "compare only for one number of samples an image: draw as many for each"
            )
        if (one.weights is None) != (other.weights is None):
            raise InputError(f"one of {one.where} and {other.where} has weights; give them for all images, or none")
    return Row(number, labels, samples)


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Rows whose maps have one size together; never more in wait than one batch, whatever sizes come."""
    waiting: defaultdict[tuple[int, ...], list[Row]] = defaultdict(list)
    held = size = 0
    for row in rows:
        waiting[row.labels.maps.shape[1:]].append(row)
        held += 1
        size += sum(one.maps.nbytes for one in (row.labels, *row.samples))
        if held >= BATCH or size >= BYTES_AT_ONCE:
            full = waiting.pop(max(waiting, key=lambda shape: len(waiting[shape])))
            held -= len(full)
            size -= sum(one.maps.nbytes for row in full for one in (row.labels, *row.samples))
            yield full
    yield from waiting.values()


def _padded(maps: NDArray[np.uint8], raters: int) -> NDArray[np.uint8]:
    return np.concatenate([maps, np.full((raters - len(maps), *maps.shape[1:]), MISSING_RATER, np.uint8)])


def _weights(sets: Sequence[MapSet]) -> Tensor | None:
    """Weights [b n] where the files of any image hold some; without, all maps of an image weigh the same."""
    if all(one.weights is None for one in sets):
        return None
    return torch.from_numpy(np.stack([np.ones(len(s.maps)) if s.weights is None else s.weights for s in sets]))


def _calibration_sums(
    maps: Tensor, labels: Tensor, classes: int, ignore: int | None, flips: Sequence[Flip] | None
) -> Floats:
    sums = reliability_counts(class_frequencies(maps, classes), labels, ignore=ignore, per_image=True, flips=flips)
    return torch.stack([sums.counts, sums.confidence, sums.accuracy], 1).double().cpu().numpy()  # [b 3 bins]


def _summary(scored: Scored, groups: NDArray[Any]) -> dict[str, Any]:
    """Means, intervals over groups, and how many images have no value, as plain numbers."""
    result: dict[str, Any] = {"samples_folder": str(scored.folder), "samples": scored.samples}
    result |= averages(scored.values, groups)
    if scored.bins is not None:
        error = _calibration_error(scored.bins)
        several = len(np.unique(groups)) > 1 and error is not None
        interval = bootstrap_totals_interval(scored.bins, groups, calibration_errors) if several else None
        result |= {"ece_mean": error, "ece_mean_interval": interval and list(interval)}
    return result


def _differences(a: Scored, b: Scored, groups: NDArray[Any]) -> dict[str, dict[str, Any]]:
    """For each score both means over the images where both have a value, a minus b, its interval and p-value."""
    result: dict[str, dict[str, Any]] = {}
    for name in [name for name in a.values if name in b.values and name not in OF_LABELS]:
        ours, theirs = a.values[name], b.values[name]
        both = ~np.isnan(ours - theirs)
        entry: dict[str, Any] = {"images": int(both.sum()), "undefined": int((~both).sum())}
        if both.any():
            entry |= _two(float(ours[both].mean()), float(theirs[both].mean()))
        if len(np.unique(groups[both])) > 1:
            test = paired_test(ours, theirs, groups)
            entry |= {"interval": [test.low, test.high], "p_value": test.p_value}
        result[name] = entry
    if a.bins is not None and b.bins is not None:
        first, second = _calibration_error(a.bins), _calibration_error(b.bins)
        entry = {"images": len(groups), "undefined": 0}
        if first is not None and second is not None:
            entry |= _two(first, second)
            if len(np.unique(groups)) > 1:
                low, high = bootstrap_totals_interval(np.stack([a.bins, b.bins], 1), groups, _difference_of_errors)
                entry |= {"interval": [low, high]}
        result["ece_mean"] = entry
    return result


def _two(a: float, b: float) -> dict[str, float]:
    return {"a": a, "b": b, "difference": a - b}


def _calibration_error(bins: Floats) -> float | None:
    """Of all images, from their bins [N 3 bins]; None where no pixel counts."""
    total = bins.sum(0)
    return float(calibration_errors(total[None])[0]) if total[0].any() else None


def _difference_of_errors(sums: Floats) -> Floats:
    """Of summed bins [draws 2 3 bins] the first's calibration error minus the second's, [draws]."""
    return calibration_errors(sums[:, 0]) - calibration_errors(sums[:, 1])
