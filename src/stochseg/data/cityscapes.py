"""Cityscapes, and any street data in its layout, made into a store.

    ROOT/leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png
    ROOT/gtFine/SPLIT/CITY/NAME_gtFine_labelTrainIds.png, or NAME_gtFine_labelIds.png

The data: Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016. Labels are stored as
they are; which classes flip, and how likely, stands in the store's index (Kohl et al. 2018, arXiv 1806.05034).
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from stochseg.data.cityscapes_classes import (
    OUTSIDE,
    PAPER_FLIPS,
    STREET_CLASSES,
    classes_with_flips,
    train_id_table,
)
from stochseg.data.class_flips import parse_flips
from stochseg.data.images import decode_grey, size_of
from stochseg.data.picture_files import read_picture
from stochseg.data.splits import SPLIT_NAMES
from stochseg.data.store import Split
from stochseg.data.store_writer import StoreWriter
from stochseg.errors import InputError
from stochseg.progress import say, track
from stochseg.wording import counted, some

IMAGE_MARK, LABEL_MARK = "_leftImg8bit", "_gtFine_"
LABEL_KINDS = ("labelTrainIds", "labelIds")
PAPER_VAL_CITIES = ("darmstadt", "monchengladbach", "ulm")
"""The training cities that the paper validates on; it tests on the official val, as the official test is unlabelled."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
SMALLEST = 16


@dataclass(frozen=True)
class Scene:
    """One image with its label; split and city are those of the source, group is what must not be in two splits."""

    id: str
    split: str
    city: str
    image: Path
    label: Path
    kind: str


def prepare_cityscapes(
    out: Path,
    source: Path,
    scale: float = 0.25,
    splits: Path | None = None,
    flips: str = PAPER_FLIPS,
    limit: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Make a store of Cityscapes, or of any street scenes in its layout.

    Reads leftImg8bit and gtFine below the source. Where the three cities are there that the paper validates on
    (Darmstadt, Moenchengladbach, Ulm), they are val and the official val is test; else the source's own splits stay.

    Args:
        out: The store to make.
        source: The folder that holds leftImg8bit and gtFine.
        scale: Size of the store's images as a share of the source's; bilinear for images, nearest for labels.
        splits: YAML or JSON file that maps train, val and test to lists of cities (CITY or SPLIT/CITY), in place of both.
        flips: Classes that flip in the whole image, as CLASS=PROBABILITY or CLASS:OTHER=PROBABILITY; or none.
        limit: Take only the first so many images of each split, for a try.
        overwrite: Replace a store that is there already.
    """
    out, source = Path(out), Path(source)
    if not 0 < scale <= 1:
        raise InputError(f"--scale {scale:g}: must be above 0, up to 1")
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit}: at least 1 is needed")
    classes, table, unlabelled = classes_with_flips(parse_flips(flips, [c.name for c in STREET_CLASSES]))
    # Made here only for its check that `out` may be written, before long work begins.
    StoreWriter(out, classes=classes, raters=1, overwrite=overwrite)
    scenes = find_scenes(source)
    chosen, rule = _chosen(scenes, splits)
    say(f"{source}: {counted(len(scenes), 'image')} of {counted(len({s.city for s in scenes}), 'city')}, split {rule}")
    full = _size_of(scenes[0].image)
    size = (round(full[0] * scale), round(full[1] * scale))
    if min(size) < SMALLEST:
        raise InputError(
            f"--scale {scale:g}: makes images of {size[1]}x{size[0]} pixels of {full[1]}x{full[0]}; raise it"
        )
    twice = _in_two_splits(scenes)
    with StoreWriter(
        out,
        classes=classes,
        raters=1,
        ignore=unlabelled,
        flips=table,
        convention="car-cityscapes" if table else "ccdm",
        group_name="city",
        notes={"source": "Cityscapes layout", "split": rule, "scale": scale, "limit": limit},
        overwrite=overwrite,
    ) as writer:
        for name in SPLIT_NAMES:
            rows = chosen.get(name, [])[:limit]
            if rows and not _is_labelled(rows[0], unlabelled):
                say(f"{name}: left out, its labels hold no class that is scored ({rows[0].label})")
            elif rows:
                groups = [f"{s.split}/{s.city}" if s.city in twice else s.city for s in rows]
                split = writer.add_split(name, [s.id for s in rows], groups, (*size, 3), f"{source.name}, {rule}")
                _fill(split, rows, full, unlabelled)
                share = float((split.labels != unlabelled).mean())
                say(
                    f"{name}: {counted(len(rows), 'image')} of {size[1]}x{size[0]} pixels, {share:.0%} of them labelled"
                )
    say(f"{out}: done")
    return out


def find_scenes(source: Path) -> list[Scene]:
    """All images of a source with their labels, by split, city and name; splits without any label are left out."""
    images = source / "leftImg8bit"
    if not images.is_dir() or not (source / "gtFine").is_dir():
        raise InputError(
            f"--source {source}: must hold leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png and "
            "gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png (or labelTrainIds); unpack the archives there"
        )
    found: list[Scene] = []
    for split in SPLIT_NAMES:
        labels = _labels_of(source / "gtFine" / split)
        files = {_stem(f, IMAGE_MARK): f for f in _files(images / split, IMAGE_SUFFIXES) if IMAGE_MARK in f.name}
        alone = sorted(files.keys() - labels.keys())
        if files and not labels:
            say(f"{images / split}: left out, it has no labels")
            continue
        if alone:
            raise InputError(
                f"{files[alone[0]]}: an image without its label in gtFine/{split} ({counted(len(alone), 'image')} in all); "
                "add the labels or remove the images"
            )
        if unseen := sorted(labels.keys() - files.keys()):
            raise InputError(
                f"{next(iter(labels[unseen[0]].values()))}: a label without its image in leftImg8bit/{split}; "
                "add the image or remove the label"
            )
        for key in sorted(files):
            kind = next(k for k in LABEL_KINDS if k in labels[key])
            city, name = key
            found.append(Scene(f"{city}/{name}", split, city, files[key], labels[key][kind], kind))
    if not found:
        raise InputError(f"--source {source}: no image NAME_leftImg8bit.png with its label in train, val or test")
    return found


def _labels_of(folder: Path) -> dict[tuple[str, str], dict[str, Path]]:
    """(city, name) -> kind -> file."""
    found: dict[tuple[str, str], dict[str, Path]] = {}
    for file in _files(folder, (".png",)):
        for kind in LABEL_KINDS:
            if file.stem.endswith(LABEL_MARK + kind):
                found.setdefault(_stem(file, LABEL_MARK), {})[kind] = file
    return found


def _files(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    for city in sorted(folder.iterdir()) if folder.is_dir() else ():
        if city.is_dir() and not city.name.startswith("."):
            yield from (f for f in sorted(city.iterdir()) if f.suffix in suffixes and not f.name.startswith("."))


def _stem(file: Path, mark: str) -> tuple[str, str]:
    return file.parent.name, file.name[: file.name.rindex(mark)]


def _chosen(scenes: list[Scene], file: Path | None) -> tuple[dict[str, list[Scene]], str]:
    """The scenes of each split, and how they were chosen."""
    if file is not None:
        return _splits_of_file(scenes, Path(file)), f"as in {Path(file).name}"
    by_split = {name: [s for s in scenes if s.split == name] for name in SPLIT_NAMES}
    theirs = set(PAPER_VAL_CITIES)
    if theirs <= {s.city for s in by_split["train"]} and by_split["val"]:
        train = [s for s in by_split["train"] if s.city not in theirs]
        val = [s for s in by_split["train"] if s.city in theirs]
        return {"train": train, "val": val, "test": by_split["val"]}, "as in the paper: official val is test"
    if shared := sorted(_in_two_splits(scenes)):
        say(
            f"the source has {some(shared)} in two splits: frames alike may make scores too good; --splits makes others"
        )
    return by_split, "as in the source"


def _splits_of_file(scenes: list[Scene], file: Path) -> dict[str, list[Scene]]:
    try:
        wanted = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--splits {file}: not readable as YAML or JSON ({' '.join(str(error).split())})") from error
    form = "map train, val and test to lists of cities, such as {train: [aachen], val: [ulm]}"
    if not isinstance(wanted, dict) or not wanted or not set(wanted) <= set(SPLIT_NAMES):
        raise InputError(f"--splits {file}: must {form}")
    chosen: dict[str, list[Scene]] = {}
    taken: dict[str, str] = {}
    for name, cities in wanted.items():
        if not isinstance(cities, list) or not cities:
            raise InputError(f"--splits {file}: '{name}' is no list of cities; {form}")
        for city in map(str, cities):
            rows = [s for s in scenes if city in (s.city, f"{s.split}/{s.city}")]
            if not rows:
                known = sorted({f"{s.split}/{s.city}" for s in scenes})
                raise InputError(f"--splits {file}: no city '{city}' in the source; there are {', '.join(known)}")
            if len({s.split for s in rows}) > 1:
                raise InputError(f"--splits {file}: '{city}' is in two splits of the source; write SPLIT/{city}")
            group = f"{rows[0].split}/{rows[0].city}"
            if group in taken:
                raise InputError(f"--splits {file}: '{city}' is named twice ({taken[group]} and {name}); name it once")
            taken[group] = name
            chosen.setdefault(name, []).extend(rows)
    return chosen


def _in_two_splits(scenes: list[Scene]) -> set[str]:
    """Cities that the source has in several splits; a group is then the part that lies in one."""
    splits: dict[str, set[str]] = {}
    for scene in scenes:
        splits.setdefault(scene.city, set()).add(scene.split)
    return {city for city, of in splits.items() if len(of) > 1}


def _is_labelled(scene: Scene, unlabelled: int) -> bool:
    return bool((_class_ids(scene, None, unlabelled) != unlabelled).any())


def _size_of(image: Path) -> tuple[int, int]:
    h, w = read_picture(image).shape[1:3]
    return h, w


def _fill(split: Split, scenes: list[Scene], full: tuple[int, int], unlabelled: int) -> None:
    """Read, shrink and write the rows of a split, on all cores: decoding and resizing leave the interpreter free."""
    h, w = split.images.shape[1:3]

    def one(row: int) -> None:
        scene = scenes[row]
        split.images[row] = _shrunk(_colours(scene.image, full), (w, h), Image.Resampling.BILINEAR)
        split.labels[row, 0] = _shrunk(_class_ids(scene, full, unlabelled), (w, h), Image.Resampling.NEAREST)

    for _ in track(_on_all_cores(one, range(len(scenes))), len(scenes), f"reading {split.name}"):
        pass


def _on_all_cores(work: Callable[[int], None], rows: Iterable[int]) -> Iterator[None]:
    """The results as they come in order; after a failure nothing more is begun."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pool = ThreadPoolExecutor(cores)
    try:
        yield from pool.map(work, rows)
    finally:
        pool.shutdown(cancel_futures=True)


def _colours(file: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    pixels = read_picture(file)[0]
    if pixels.dtype != np.uint8 or pixels.shape[2] not in (1, 3):
        raise InputError(
            f"{file}: {pixels.dtype} of {pixels.shape[2]} channels; colour of 8 bits is needed, convert it"
        )
    if pixels.shape[:2] != size:
        raise InputError(
            f"{file}: image of {pixels.shape[1]}x{pixels.shape[0]} pixels, the first has {size[1]}x{size[0]}; all images of "
            "a store have one size: crop or pad them"
        )
    return np.ascontiguousarray(np.broadcast_to(pixels, (*size, 3)))


def _class_ids(scene: Scene, size: tuple[int, int] | None, unlabelled: int) -> NDArray[np.uint8]:
    """Class ids [h w] of a label file; InputError for another size than its image's, and an id outside the table."""
    data = scene.label.read_bytes()
    where = str(scene.label)
    if size is not None and size_of(data, where) != size:
        h, w = size_of(data, where)
        raise InputError(f"{where}: label of {w}x{h} pixels, its image has {size[1]}x{size[0]}; they must be alike")
    values = decode_grey(data, where, kind="label")
    ids: NDArray[np.uint8] = train_id_table(scene.kind, unlabelled)[values]
    if (ids == OUTSIDE).any():
        raise InputError(
            f"{where}: holds the value {values[ids == OUTSIDE][0]}, which is none of {scene.kind}; "
            "give labels of Cityscapes' own ids, unlabelled pixels 0 (labelIds) or 255 (labelTrainIds)"
        )
    return ids


def _shrunk(pixels: NDArray[np.uint8], size: tuple[int, int], how: Image.Resampling) -> NDArray[np.uint8]:
    """The picture at this (w, h)."""
    image = Image.fromarray(pixels)
    return np.asarray(image if image.size == size else image.resize(size, how))
