"""What `stochseg sample` leaves of one image: a folder that appears when it is whole.

    samples.npz     maps uint8 [n h w]; chosen int [m], the numbers of those that stand for all, where asked for
    samples/        the same as PNG, NIfTI or DICOM-SEG, where asked for: maps.py
    marginals.npz   q, mean float32 [k h w]: of the calibration network, and of the samples; coverage bool [k h w]
    mean.png        P(not background), white for 1; for more than two classes their colours mixed by probability
    entropy.png     of the mean, white where all classes are alike
    coverage.png    the coverage sets (calibrated models)
    sheet.png       all of it in one picture, with words
    summary.json    areas, P(present), seed, samples, model

Pictures have the image's own size, the sheet aside. Arrays of a volume have its slices as an axis, [n s h w] and [k s h w];
its pictures show the slice where most is marked.
"""

import glob
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stochseg.data.space import Space
from stochseg.data.store import ClassInfo
from stochseg.report.panels import normalised_entropy, overlay
from stochseg.report.sheet import possible, save_sheet
from stochseg.sampling.maps import MapFormat, write_maps

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SUMMARY = "summary.json"
NOWHERE = Space()


@dataclass(frozen=True)
class Sampled:
    """All there is of one image.

    image: uint8 [s c h w], s above 1 for a volume; maps: uint8 [n s h w]; q, mean: float [k s h w]; coverage: bool
    [k s h w], None where the model is not calibrated; space: where the slices lie; coverage_name: what the sets are called
    in pictures; notes: lines of text on the sheet.
    chosen: the numbers of the maps that the sheet shows, None for the first ones.
    """

    image: NDArray[np.uint8]
    maps: NDArray[np.uint8]
    q: NDArray[np.floating]
    mean: NDArray[np.floating]
    coverage: NDArray[np.bool_] | None
    coverage_name: str
    space: Space = NOWHERE
    notes: Sequence[str] = ()
    chosen: NDArray[np.int64] | None = None

    @property
    def shown(self) -> int:
        """The slice where most is marked."""
        return int(self.mean[1:].sum((0, 2, 3)).argmax())


def write_sampled(
    folder: Path,
    sampled: Sampled,
    classes: Sequence[ClassInfo],
    title: str,
    facts: Mapping[str, Any],
    format: MapFormat = "npz",
) -> None:
    """Write the folder, in place of an earlier one of this kind; facts: what summary.json holds beside areas."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    try:
        _fill(partial, sampled, classes, title, facts)
        write_maps(partial, sampled.maps, sampled.mean, classes, sampled.space, format)
        partial.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_partial(folder: Path) -> None:
    """Remove what a process left that was killed while it wrote this folder."""
    for partial in folder.parent.glob(f".{glob.escape(folder.name)}.partial-*"):
        shutil.rmtree(partial, ignore_errors=True)


def is_written(folder: Path) -> bool:
    """Whether a folder is one of these, so that it may be replaced."""
    return (folder / SUMMARY).is_file() and (folder / "samples.npz").is_file()


def area_facts(maps: NDArray[np.uint8], classes: Sequence[ClassInfo], space: Space | None = None) -> dict[str, Any]:
    """For each class: P(present), the part of samples that hold it, and quantiles of its size over samples.

    maps: [n h w], or [n s h w] of a volume. The size of an image is its area in pixels, and in mm2 where their size is
    known; that of a volume its voxels, and mm3.
    """
    volume = maps.ndim == 4 and maps.shape[1] > 1
    name, unit = ("voxels", "volume_mm3") if volume else ("area", "area_mm2")
    scale = space and (space.voxel_mm3 if volume else space.pixel_mm2)
    facts: dict[str, Any] = {}
    for number, info in enumerate(classes):
        sizes = np.stack([(one == number).sum() for one in maps])
        facts[info.name] = {"present": float((sizes > 0).mean()), f"{name}_mean": float(sizes.mean())}
        facts[info.name][f"{name}_quantiles"] = _quantiles(sizes)
        if scale:
            facts[info.name][f"{unit}_quantiles"] = _quantiles(sizes * scale)
    return facts


def _quantiles(sizes: NDArray[Any]) -> dict[str, float]:
    return {f"{q:g}": float(v) for q, v in zip(QUANTILES, np.quantile(sizes, QUANTILES))}


def _fill(folder: Path, sampled: Sampled, classes: Sequence[ClassInfo], title: str, facts: Mapping[str, Any]) -> None:
    s = sampled
    volume = len(s.image) > 1

    def kept(array: NDArray[Any]) -> NDArray[Any]:
        return array if volume else array[:, 0]

    i = s.shown
    mean, maps, notes = s.mean[:, i], s.maps[:, i], list(s.notes)
    coverage = None if s.coverage is None else s.coverage[:, i]
    if volume:
        notes.insert(0, f"slice {i + 1} of {len(s.image)}, where most is marked")
    arrays: dict[str, NDArray[Any]] = {"maps": kept(s.maps)} | ({} if s.chosen is None else {"chosen": s.chosen})
    np.savez_compressed(folder / "samples.npz", **arrays)  # type: ignore[arg-type]
    marginals: dict[str, NDArray[Any]] = {"q": kept(s.q).astype(np.float32), "mean": kept(s.mean).astype(np.float32)}
    if s.coverage is not None and coverage is not None:
        marginals["coverage"] = kept(s.coverage)
        Image.fromarray(_coverage_picture(s.image[i], coverage, classes)).save(folder / "coverage.png")
    np.savez_compressed(folder / "marginals.npz", **marginals)  # type: ignore[arg-type]
    Image.fromarray(_mean_picture(mean, classes)).save(folder / "mean.png")
    Image.fromarray((255 * normalised_entropy(mean)).round().astype(np.uint8)).save(folder / "entropy.png")
    save_sheet(folder / "sheet.png", title, s.image[i], maps, coverage, s.coverage_name, classes, notes, s.chosen)
    areas: dict[str, Any] = {"classes": area_facts(s.maps, classes, s.space)}
    if s.coverage is not None:
        areas["coverage_area"] = {info.name: int(rows.sum()) for info, rows in zip(classes, s.coverage)}
    (folder / SUMMARY).write_text(json.dumps({**facts, **areas}, indent=1))


def _mean_picture(mean: NDArray[np.floating], classes: Sequence[ClassInfo]) -> NDArray[np.uint8]:
    if len(classes) == 2:
        shown = 255 * (1 - mean[0].astype(np.float64))
    else:
        shown = np.einsum("khw,kc->hwc", mean.astype(np.float64), np.array([c.color for c in classes], np.float64))
    return np.asarray(shown.clip(0, 255).round(), np.uint8)


def _coverage_picture(
    image: NDArray[np.uint8], sets: NDArray[np.bool_], classes: Sequence[ClassInfo]
) -> NDArray[np.uint8]:
    """For two classes the set over the image; for more the colours of the classes that may be there, mixed."""
    if len(classes) == 2:
        return overlay(image.transpose(1, 2, 0), sets[1].astype(np.uint8), classes, opacity=0.3)
    return _mean_picture(possible(sets), classes)
