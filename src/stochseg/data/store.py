"""The store: images and all their annotations as memory-mapped arrays beside one index.json.

    STORE/index.json          format, classes, raters, and per split: ids, groups, source, arrays with their sha256
    STORE/SPLIT.images.npy    uint8 [N h w c]
    STORE/SPLIT.labels.npy    uint8 [N r h w]; class ids, the ignore class among them; a missing rater is a map of 255
    STORE/SPLIT.blackbox.npy  optional, what a given segmenter says: uint8 [N h w], class ids, 255 where unknown; or soft,
                              uint8 [N j h w], probabilities of the first j classes in steps of 1/255
    STORE/SPLIT.NAME.npy      optional further arrays, one row an image (modes, mode_probabilities)

One writer fills a temporary folder beside the target, which is moved there when whole, so a store that can be
opened is a store that was finished.
"""

import hashlib
import mmap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stochseg.data.reading import check_regular, parse_json
from stochseg.errors import InputError, RunError

FORMAT = "stochseg-store"
VERSION = 1
MISSING_RATER = 255
"""A label map filled with this value says that this rater did not annotate this image."""
UNKNOWN = 255
"""In a black box's map: a pixel whose class it does not tell, or one that the store does not know."""
SOFT_STEPS = 255
"""Steps in which a black box's probabilities are stored, from 0 to 1."""

Array = NDArray[Any]


@dataclass(frozen=True)
class ClassInfo:
    """One class: what people call it and how figures paint it (RGB, 0 to 255)."""

    name: str
    color: tuple[int, int, int]


LESION_CLASSES = (ClassInfo("background", (0, 0, 0)), ClassInfo("lesion", (230, 85, 50)))


@dataclass(frozen=True)
class Split:
    """One split of a store, memory-mapped.

    images: uint8 [N h w c]; labels: uint8 [N r h w]; ids, groups: N strings, a group being what must never be
    in two splits (a patient, a city); extras: further arrays [N ...] by name.
    """

    name: str
    images: Array
    labels: Array
    ids: list[str]
    groups: list[str]
    source: str
    extras: dict[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Store:
    """An opened store. Make one with `open_store`. group_name: what a group is, "patient" or "city".

    fingerprint: sha256 of the index, which holds those of all arrays.
    """

    path: Path
    classes: list[ClassInfo]
    raters: int
    ignore: int | None
    flips: list[tuple[int, int, float]]
    convention: str
    group_name: str
    splits: dict[str, Split]
    fingerprint: str
    notes: dict[str, Any]
    stamps: dict[Path, tuple[int, int, int]]
    """What the file system said of each file when the store was opened."""

    def split(self, name: str) -> Split:
        """The split of this name; InputError lists those present."""
        if name not in self.splits:
            raise InputError(f"{self.path}: no split '{name}'; this store holds {', '.join(sorted(self.splits))}")
        return self.splits[name]

    def check_unchanged(self) -> None:
        """RunError where a file was replaced, changed or removed since the store was opened."""
        for file, stamp in self.stamps.items():
            try:
                same = _stamp(file) == stamp
            except OSError:
                same = False
            if not same:
                raise RunError(
                    f"{file}: changed while it was in use; what came of it was not kept. Put the store back as it was and "
                    "go on (a training with --resume), or start anew on this one"
                )


def open_store(path: str | Path, verify: bool = False, every_label: bool = False, some_labels: bool = True) -> Store:
    """Open a store, checking shapes, dtypes and label values against its index.

    Label values are checked on a spread of up to 256 images a split, on every one, or (some_labels false) on none;
    `verify` checks every one and compares sha256 too. Raises InputError with the file, what was found and the cure.
    """
    path = Path(path)
    index = _read_index(path)
    try:
        classes = [ClassInfo(c["name"], tuple(c["color"])) for c in index["classes"]]
        splits = {name: _open_split(path, name, entry) for name, entry in index["splits"].items()}
        store = Store(
            path,
            classes,
            index["raters"],
            index["ignore"],
            [(int(a), int(b), float(p)) for a, b, p in index["flips"]],
            index["convention"],
            index.get("group_name", "group"),
            splits,
            sha256_of(path / "index.json"),
            index.get("notes", {}),
            {file: _stamp(file) for file in sorted(_files(path, index))},
        )
        _check_index(path, index, len(classes))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path / 'index.json'}: damaged ({type(error).__name__}: {error}); prepare it again"
        ) from error
    for split in splits.values():
        if split.labels.shape[1] != store.raters:
            raise InputError(
                f"{path}/{split.name}.labels.npy: {split.labels.shape[1]} raters, index.json says {store.raters}"
            )
        if verify or every_label or some_labels:
            _check_labels(path, split, len(classes), every=verify or every_label)
        check_blackbox_array(path, split, len(classes), every=verify or every_label)
        if verify:
            for name, entry in index["splits"][split.name]["arrays"].items():
                file = path / entry["file"]
                if sha256_of(file) != entry["sha256"]:
                    raise InputError(f"{file}: sha256 of '{name}' differs from index.json; prepare the store again")
    return store


def _files(path: Path, index: Mapping[str, Any]) -> set[Path]:
    arrays = {path / facts["file"] for entry in index["splits"].values() for facts in entry["arrays"].values()}
    return {path / "index.json", *arrays}


def _stamp(file: Path) -> tuple[int, int, int]:
    facts = file.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def _read_index(path: Path) -> dict[str, Any]:
    file = path / "index.json"
    if not path.is_dir():
        raise InputError(f"{path}: no such store; make one with `stochseg prepare ... --out {path}`")
    if not file.is_file():
        raise InputError(f"{path}: not a store (no index.json); make one with `stochseg prepare`")
    try:
        index = parse_json(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not readable as JSON ({error}); prepare the store again") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise InputError(f"{file}: not the index of a store (its format is not '{FORMAT}')")
    if not isinstance(index.get("version"), int) or index["version"] > VERSION:
        raise InputError(
            f"{file}: store of format {index.get('version')}, this stochseg reads up to {VERSION}; update stochseg"
        )
    return index


def _check_index(path: Path, index: Mapping[str, Any], classes: int) -> None:
    file = path / "index.json"
    if index["ignore"] is not None and index["ignore"] not in range(classes):
        raise InputError(f"{file}: ignore is {index['ignore']}, the classes are 0 to {classes - 1}; prepare it again")
    for source, target, p in index["flips"]:
        if source not in range(classes) or target not in range(classes) or not 0 <= p <= 1:
            raise InputError(
                f"{file}: flip {[source, target, p]} needs two classes of 0 to {classes - 1} and a probability"
            )


def _open_split(path: Path, name: str, entry: Mapping[str, Any]) -> Split:
    arrays: dict[str, Array] = {}
    count = len(entry["ids"])
    for given in (name, *(facts["file"] for facts in entry["arrays"].values())):
        if given in ("", ".", "..") or "/" in given or "\\" in given:
            raise InputError(
                f"{path / 'index.json'}: '{given}' leads out of the store; this store is not to be trusted"
            )
    if not all(isinstance(text, str) for text in (*entry["ids"], *entry["groups"], entry["source"])):
        raise TypeError("ids, groups and source are texts")
    for array, facts in entry["arrays"].items():
        file = path / facts["file"]
        try:
            check_regular(file)
            opened: Array = np.load(file, mmap_mode="r", allow_pickle=False)
        except InputError:
            raise
        except Exception as error:  # a damaged header fails in many ways
            text = " ".join(str(error).split())
            raise InputError(f"{file}: cannot be opened as an array ({text}); prepare the store again") from error
        found = (list(opened.shape), str(opened.dtype))
        wanted = (list(facts["shape"]), facts["dtype"])
        if found != wanted:
            raise InputError(f"{file}: holds {found[1]} {found[0]}, index.json says {wanted[1]} {wanted[0]}")
        _read_rows_alone(opened)
        if len(opened) != count:
            raise InputError(f"{file}: {len(opened)} rows for {count} ids in index.json")
        arrays[array] = opened
    images, labels = arrays.pop("images"), arrays.pop("labels")
    if images.ndim != 4 or labels.ndim != 4 or images.dtype != np.uint8 or labels.dtype != np.uint8:
        raise InputError(f"{path}: split '{name}' needs uint8 images [N h w c] and labels [N r h w]")
    if images.shape[1:3] != labels.shape[2:]:
        raise InputError(
            f"{path}: split '{name}' has images of {images.shape[1:3]} and labels of {labels.shape[2:]} pixels"
        )
    if len(entry["groups"]) != count:
        raise InputError(f"{path}: split '{name}' has {count} ids and {len(entry['groups'])} groups")
    return Split(name, images, labels, entry["ids"], entry["groups"], entry["source"], arrays)


def _read_rows_alone(mapped: Array) -> None:
    """Rows come at random: without this the kernel reads the neighbours of each, many times what is needed."""
    if isinstance(mapped, np.memmap) and hasattr(mmap, "MADV_RANDOM"):
        mapped._mmap.madvise(mmap.MADV_RANDOM)  # type: ignore[attr-defined]


def read_ahead(mapped: Array, rows: Iterable[int]) -> None:
    """Let the kernel read rows of a memory-mapped array together, before they are touched page by page."""
    if not isinstance(mapped, np.memmap) or not hasattr(mmap, "MADV_WILLNEED"):
        return
    first, size = mapped.offset % mmap.ALLOCATIONGRANULARITY, mapped.strides[0]
    for row in rows:
        start = first + int(row) * size
        page = start - start % mmap.PAGESIZE
        mapped._mmap.madvise(mmap.MADV_WILLNEED, page, start + size - page)  # type: ignore[attr-defined]


def _check_labels(path: Path, split: Split, classes: int, every: bool) -> None:
    for row in _rows_to_check(split, every):
        if fault := label_fault(split.labels[row], classes):
            raise InputError(f"{path}: split '{split.name}', image '{split.ids[row]}' {fault}")


def label_fault(labels: Array, classes: int) -> str | None:
    """What is wrong with the labels [r h w] of an image; None where nothing is."""
    missing = labels == MISSING_RATER
    whole = missing.all((1, 2))
    if whole.all():
        return "has no rater at all; leave it out"
    if (missing.any((1, 2)) & ~whole).any():
        return f"has a map partly {MISSING_RATER}; that value marks a whole missing rater"
    if (highest := labels[~whole].max()) >= classes:
        return f"has label {highest}, the store has classes 0 to {classes - 1}"
    return None


def check_blackbox_array(path: Path, split: Split, classes: int, every: bool) -> None:
    """InputError where a split's black box is not what the store's format says; every: look at all of its maps."""
    array = split.extras.get("blackbox")
    if array is None:
        return
    soft = array.ndim == 4
    where = f"{path}/{split.name}.blackbox.npy"
    fits = array.dtype == np.uint8 and array.ndim in (3, 4) and array.shape[-2:] == split.images.shape[1:3]
    if not fits or (soft and not 2 <= array.shape[1] <= classes):
        h, w = split.images.shape[1:3]
        raise InputError(
            f"{where}: {array.dtype} {list(array.shape)}; class ids are uint8 {[len(split), h, w]}, probabilities uint8 "
            f"{[len(split), classes, h, w]} or of fewer classes; add them again"
        )
    for row in _rows_to_check(split, every) if not soft else ():
        known = array[row][array[row] != UNKNOWN]
        if known.size and known.max() >= classes:
            raise InputError(
                f"{where}: image '{split.ids[row]}' has class {known.max()}, the store has 0 to {classes - 1}; add it again"
            )


def _rows_to_check(split: Split, every: bool) -> Sequence[int]:
    count = len(split)
    return [int(i) for i in np.unique(np.linspace(0, count - 1, count if every else min(count, 256)).astype(int))]


def sha256_of(file: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
