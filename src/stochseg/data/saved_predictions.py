"""Predictions that any segmenter saved: a folder or archive of PNG or NPY files, one an image, matched by name.

A file holds a map of ids [h w] ([1 h w] too), or probabilities [j h w] as floats that add up to 1 over the j ids. The
published predictions for Cityscapes, SET/CITY/bb_preds/NAME...prior_preds_trainIds....npy, are such files; despite their
name they hold label ids.
"""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from stochseg.data.archives import ArchiveFiles, Files, FolderFiles, is_archive
from stochseg.data.cityscapes_classes import LABEL_IDS, VOID_LABEL_IDS
from stochseg.data.map_files import png_values
from stochseg.data.store import UNKNOWN
from stochseg.errors import InputError

SUFFIXES = (".png", ".npy")
PUBLISHED = "prior_preds"
"""In the names of the published predictions; other files in a tree that holds some are images and labels."""
OTHER_LABEL_IDS = (-1, *VOID_LABEL_IDS, 255)
"""What files of label ids hold beside the 19 classes."""
UNLABELLED = "unlabelled"
"""What the class of pixels that Cityscapes does not score is called where there is one."""
SUM_TOLERANCE = 0.02
"""How far from 1 the probabilities of a pixel may add up."""

Answer = NDArray[Any]
"""uint8 [h w], class ids with 255 where they are unknown; or float32 [k h w], probabilities."""


@dataclass(frozen=True)
class Ids:
    """What the ids in files mean.

    classes: how many there are; table: id -> class, None for ids that are classes already; name: what to call the table.
    """

    classes: int
    table: Mapping[int, int] | None
    name: str


def read_ids(ids: str, names: list[str], ignore: int | None, published: bool) -> Ids:
    """The table that `--ids` asks for.

    "auto" takes published predictions for label ids and anything else for class ids, with 255 where the class is
    unknown. "labelIds" are those of Cityscapes; what it does not score is the ignore class, or the class named
    "unlabelled" where that is not known, or unknown.
    Otherwise a YAML or JSON file of id: class, the class by number or name, null for unknown.
    """
    k = len(names)
    ids = ("labelIds" if published else "classes") if ids == "auto" else ids
    if ids == "classes":
        return Ids(k, None, "class ids")
    if ids == "labelIds":
        if k < len(LABEL_IDS):
            raise InputError(f"--ids labelIds: gives {len(LABEL_IDS)} classes, there are {k}; give a file of id: class")
        named = names.index(UNLABELLED) if UNLABELLED in names else UNKNOWN
        other = named if ignore is None else ignore
        return Ids(k, dict.fromkeys(OTHER_LABEL_IDS, other) | {id: i for i, id in enumerate(LABEL_IDS)}, ids)
    file = Path(ids)
    form = "a YAML or JSON file of id: class (by number or name, null for unknown) is needed"
    if not file.is_file():
        raise InputError(f"--ids {ids}: neither auto, classes, labelIds nor a file; {form}")
    try:
        found = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--ids {file}: not readable ({' '.join(str(error).split())}); {form}") from error
    if not isinstance(found, dict) or not found:
        raise InputError(f"--ids {file}: no mapping; {form}")
    table: dict[int, int] = {}
    for key, value in found.items():
        number = names.index(value) if value in names else UNKNOWN if value is None else value
        if not isinstance(number, int) or (number not in range(k) and number != UNKNOWN):
            raise InputError(f"--ids {file}: {key}: {value} is no class; there are 0 to {k - 1}, {', '.join(names)}")
        try:
            table[int(key)] = number
        except (TypeError, ValueError) as error:
            raise InputError(f"--ids {file}: '{key}' is no id; ids are whole numbers") from error
    return Ids(k, table, file.name)


class Predictions:
    """The prediction files of a folder or archive. InputError where there are none."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise InputError(f"{path}: is not there; give a folder or archive of predictions")
        if not path.is_dir() and not is_archive(path):
            raise InputError(f"{path}: is neither a folder nor an archive (.tar, .tar.gz, .tgz, .zip)")
        self.path = path
        self.files: Files = FolderFiles(path) if path.is_dir() else ArchiveFiles(path)
        names = [name for name in self.files.names() if PurePosixPath(name).suffix.lower() in SUFFIXES]
        published = [name for name in names if PUBLISHED in PurePosixPath(name).name]
        self.published = bool(published)
        self.names = published or names
        if not self.names:
            raise InputError(f"{path}: no prediction in it; {' and '.join(SUFFIXES)} are read, one file an image")

    def match(self, images: Iterable[tuple[str, str]]) -> dict[tuple[str, str], list[str]]:
        """The files of each image (split, id), those without any left out.

        A file is of an image if its path, without suffix, ends in SPLIT/ID, in ID, or in the last part of ID, whichever
        is the image's alone; what its name goes on with after a mark such as _ or - does not matter.
        """
        alias: dict[str, set[tuple[str, str]]] = {}
        for split, name in images:
            for called in {f"{split}/{name}", name, PurePosixPath(name).name}:
                alias.setdefault(called, set()).add((split, name))
        found: dict[tuple[str, str], list[str]] = {}
        for file in self.names:
            owner = _owner(file, alias)
            if owner:
                found.setdefault(owner, []).append(file)
        return found


def _owner(file: str, alias: Mapping[str, set[tuple[str, str]]]) -> tuple[str, str] | None:
    *folders, name = PurePosixPath(file).with_suffix("").parts
    stem = name.split(PUBLISHED)[0].rstrip("_-. ")
    for called in (stem, *(stem[:i] for i in reversed(range(1, len(stem))) if not stem[i].isalnum())):
        for start in range(len(folders) + 1):
            owners = alias.get("/".join([*folders[start:], called]), set())
            if len(owners) == 1:
                return next(iter(owners))
    return None


def decode_answer(data: bytes, where: str, ids: Ids, size: tuple[int, int], resize: bool = False) -> Answer:
    """The prediction in a file of these bytes, for an image of size (h, w).

    resize: bring one of the same proportions to that size, ids by the nearest pixel and probabilities by the mean.
    Raises InputError for another size, an id outside the table, values that are no probabilities, and damage.
    """
    png = where.lower().endswith(".png")
    values = png_values(data, where, 0 if ids.table else ids.classes) if png else _npy(data, where)
    if values.ndim == 2:
        values = _whole_numbers(values, where)
    if values.shape[-2:] != size:
        values = _resized(values, where, size, resize)
    return _class_ids(values, where, ids) if values.ndim == 2 else _probabilities(values, where, ids)


def _whole_numbers(values: Answer, where: str) -> Answer:
    if values.dtype.kind != "f":
        return values
    if not (values == np.rint(values)).all():
        odd = values[values != np.rint(values)].flat[0]
        raise InputError(f"{where}: holds {odd:g} in a map [h w]; save ids, or probabilities as [k h w]")
    return values.astype(np.int64)


def _npy(data: bytes, where: str) -> Answer:
    try:
        values: Answer = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # a damaged header fails in many ways
        text = " ".join(str(error).split())
        raise InputError(f"{where}: not readable as an array ({text}); save it with numpy.save") from error
    if not isinstance(values, np.ndarray):
        raise InputError(f"{where}: an archive of arrays; save one array with numpy.save")
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if values.ndim not in (2, 3) or 0 in values.shape or values.dtype.kind not in "biuf":
        raise InputError(
            f"{where}: {values.dtype} {list(values.shape)}; a map of ids is [h w], probabilities are [k h w]"
        )
    return values


def _resized(values: Answer, where: str, size: tuple[int, int], resize: bool) -> Answer:
    (h, w), (found_h, found_w) = size, values.shape[-2:]
    if abs(found_h * w - found_w * h) > max(h, w):
        raise InputError(f"{where}: {found_w}x{found_h} pixels, other proportions than its image, which has {w}x{h}")
    if not resize:
        raise InputError(f"{where}: {found_w}x{found_h} pixels, its image has {w}x{h}; --resize brings it to that size")
    if values.ndim == 3:
        planes = [Image.fromarray(plane.astype(np.float32)).resize((w, h), Image.Resampling.BOX) for plane in values]
        return np.stack([np.asarray(plane) for plane in planes])
    return np.asarray(Image.fromarray(values.astype(np.int32)).resize((w, h), Image.Resampling.NEAREST))


def _class_ids(values: Answer, where: str, ids: Ids) -> NDArray[np.uint8]:
    known = dict.fromkeys([*range(ids.classes), UNKNOWN]) if ids.table is None else ids.table
    present = [int(v) for v in np.unique(values)]
    for value in present:
        if value not in known:
            allowed = f"0 to {ids.classes - 1} and {UNKNOWN}" if ids.table is None else "others"
            raise InputError(
                f"{where}: holds the id {value}; {ids.name} are {allowed}: --ids says which id is which class"
            )
    answer = np.empty(values.shape, np.uint8)
    for value in present:
        answer[values == value] = value if ids.table is None else ids.table[value]
    return answer


def _probabilities(values: Answer, where: str, ids: Ids) -> NDArray[np.float32]:
    """Probabilities [j h w] of ids 0 to j - 1 as those of classes, [j h w] without a table and [k h w] with one."""
    if values.dtype.kind != "f":
        raise InputError(
            f"{where}: {values.dtype} {list(values.shape)}; probabilities are floats [k h w], ids are [h w]"
        )
    off = np.abs(values.sum(0, dtype=np.float32) - 1).max()
    if not (values.min() >= 0 and off <= SUM_TOLERANCE):
        raise InputError(
            f"{where}: values from {values.min():g} to {values.max():g} that do not add up to 1 over the classes; save the "
            "softmax"
        )
    soft = values.astype(np.float32, copy=False)
    if ids.table is None:
        if len(soft) > ids.classes:
            raise InputError(
                f"{where}: {len(soft)} classes, there are {ids.classes}; --ids says which id is which class"
            )
        return soft
    answer = np.zeros((ids.classes, *soft.shape[1:]), np.float32)
    for id, plane in enumerate(soft):
        if id not in ids.table:
            raise InputError(f"{where}: holds the id {id} of {len(soft)}; {ids.name} has no such id")
        if ids.table[id] != UNKNOWN:
            answer[ids.table[id]] += plane
    return answer
