"""LIDC-IDRI slices as arrays in one file: the pickle that many projects share, and .npz."""

import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stochseg.data.images import binary
from stochseg.data.reading import open_zip, reads
from stochseg.data.restricted_pickle import load_numeric_pickle
from stochseg.data.splits import SPLIT_NAMES
from stochseg.data.store import MISSING_RATER, Split
from stochseg.errors import InputError
from stochseg.progress import say, track

_PATIENT = re.compile(r"LIDC-IDRI-\d{4}")


@dataclass(frozen=True)
class ArraySlice:
    """One slice: image uint8 [h w c], masks uint8 [r h w] of 0 and 1, or 255 for a missing rater."""

    id: str
    patient: str
    split: str | None
    image: NDArray[np.uint8]
    masks: NDArray[np.uint8]


class ArraySource:
    """Slices held in memory."""

    left_out = ()

    def __init__(self, kind: str, slices: list[ArraySlice]) -> None:
        self.kind = kind
        self.slices = slices
        first = slices[0]
        h, w, c = first.image.shape
        self.image_shape = (h, w, c)
        self.raters = len(first.masks)

    def fill(self, split: Split, chosen: Sequence[int]) -> None:
        """Copy the `chosen` slices into the rows of `split`."""
        for row, n in enumerate(chosen):
            split.images[row], split.labels[row] = self.slices[n].image, self.slices[n].masks


MAX_BYTES = 32 * 2**30
"""The largest .npz, unpacked, that is read."""


def read_pickle(file: Path, raters: int) -> ArraySource:
    """`data_lidc.pickle`: {key: {'image' float [h w] 0 to 1, 'masks' list of [h w] 0/1, 'series_uid' str, ...}}.

    Patients are told apart by the LIDC-IDRI number in the keys where every key has one (a few patients have two
    series), else by series_uid.
    """
    say(f"{file}: loading")
    data = load_numeric_pickle(file)
    if not isinstance(data, dict) or not data:
        raise InputError(f"{file}: holds a {type(data).__name__}; a dict of slices is needed, as in data_lidc.pickle")
    patients = _patients_of(file, data)
    slices = list(track(_pickle_slices(file, data, patients, raters), len(data), "converting"))
    return ArraySource("the pickle data_lidc.pickle", slices)


def _patients_of(file: Path, data: dict[Any, Any]) -> dict[Any, str]:
    series: dict[Any, str] = {}
    for key, entry in data.items():
        uid = entry.get("series_uid") if isinstance(entry, dict) else None
        if not isinstance(uid, str) or not uid:
            raise InputError(f"{file}: entry {key!r} has no series_uid, so patients cannot be kept in one split")
        series[key] = uid
    numbers = {key: match[0] for key in data if (match := _PATIENT.search(str(key)))}
    owners = {(uid, numbers.get(key)) for key, uid in series.items()}
    one_owner_each = len(owners) == len({uid for uid, _ in owners})
    return numbers if len(numbers) == len(data) and one_owner_each else series


def _pickle_slices(file: Path, data: dict[Any, Any], patients: dict[Any, str], raters: int) -> Iterator[ArraySlice]:
    size: tuple[int, ...] | None = None
    for key in list(data):
        entry = data.pop(key)  # each entry is freed once converted: the floats are many times what is kept
        where = f"{file}: entry {key!r}"
        pixels = _numbers(entry.get("image"), f"{where}, image")
        masks = entry.get("masks")
        if not isinstance(masks, list | tuple) or not 1 <= len(masks) <= raters:
            raise InputError(f"{where}: 'masks' must be a list of 1 to {raters} masks")
        if pixels.ndim != 2:
            raise InputError(f"{where}: image of shape {list(pixels.shape)}; [h w] is needed")
        size = size or pixels.shape
        labels = np.full((raters, *size), MISSING_RATER, np.uint8)
        _same_size(where, "image", pixels, size)
        for rater, mask in enumerate(masks):
            values = _numbers(mask, f"{where}, mask {rater}")
            _same_size(where, f"mask {rater}", values, size)
            labels[rater] = binary(values, f"{where}, mask {rater}")
        yield ArraySlice(str(key), patients[key], None, _to_bytes(pixels, where)[..., None], labels)


@reads
def read_npz(file: Path) -> ArraySource:
    """`images` [N h w] or [N h w c], uint8 or float 0 to 1; `labels` [N r h w] 0/1, a whole map of 255 being a missing
    rater; and optionally `patients`, `ids` and `split` (train, val, test), each [N]."""
    try:
        with open_zip(file) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_BYTES:
            raise InputError(f"{file}: holds {size} bytes unpacked; up to {MAX_BYTES} are read: split it")
        with np.load(file, allow_pickle=False) as opened:
            arrays = {name: opened[name] for name in opened.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{file}: cannot be read as .npz without pickled objects ({error})") from error
    missing = [name for name in ("images", "labels") if name not in arrays]
    if missing:
        raise InputError(f"{file}: no array {' and '.join(missing)}; it holds {', '.join(sorted(arrays)) or 'nothing'}")
    images, labels = arrays["images"], arrays["labels"]
    if images.ndim == 3:
        images = images[..., None]
    n = len(images) if images.ndim else 0
    if (
        images.ndim != 4
        or labels.ndim != 4
        or images.shape[:3] != (len(labels), *labels.shape[2:])
        or 0 in (images.size, labels.size)
    ):
        raise InputError(
            f"{file}: images {list(arrays['images'].shape)} and labels {list(labels.shape)} do not fit together; "
            "[N h w] or [N h w c] and [N r h w] are needed"
        )
    ids = _texts(file, arrays, "ids", n) or [f"image-{row}" for row in range(n)]
    patients = _texts(file, arrays, "patients", n)
    splits = _texts(file, arrays, "split", n)
    if unknown := sorted(set(splits or ()) - set(SPLIT_NAMES)):
        raise InputError(f"{file}: split '{unknown[0]}'; only {', '.join(SPLIT_NAMES)} are known")
    if not patients:
        say(f"{file}: no array 'patients': each image counts as a patient of its own")
    slices = [
        ArraySlice(
            ids[row],
            patients[row] if patients else ids[row],
            splits[row] if splits else None,
            _to_bytes(images[row], f"{file}: image {ids[row]}"),
            _npz_labels(labels[row], f"{file}: labels of {ids[row]}"),
        )
        for row in track(range(n), n, "converting")
    ]
    return ArraySource(".npz", slices)


def _npz_labels(labels: NDArray[Any], where: str) -> NDArray[np.uint8]:
    maps = np.full(labels.shape, MISSING_RATER, np.uint8)
    for rater, values in enumerate(labels):
        if not (values == MISSING_RATER).all():
            maps[rater] = binary(_numbers(values, where), where)
    if (maps == MISSING_RATER).all():
        raise InputError(f"{where}: every rater is missing; remove the image")
    return maps


def _texts(file: Path, arrays: dict[str, NDArray[Any]], name: str, count: int) -> list[str] | None:
    if name not in arrays:
        return None
    if arrays[name].shape != (count,):
        raise InputError(f"{file}: '{name}' has shape {list(arrays[name].shape)}; {[count]}, one per image, is needed")
    return [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in arrays[name].tolist()]


def _numbers(value: Any, where: str) -> NDArray[Any]:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{where}: not an array of numbers")
    return array


def _same_size(where: str, what: str, array: NDArray[Any], size: tuple[int, ...]) -> None:
    if array.shape != size:
        raise InputError(f"{where}: {what} of shape {list(array.shape)}, the source has images of {list(size)}")


def _to_bytes(image: NDArray[Any], where: str) -> NDArray[np.uint8]:
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind != "f" or not (image.min() >= 0 and image.max() <= 1):
        raise InputError(
            f"{where}: {image.dtype} values {image.min():g} to {image.max():g}; uint8, or float from 0 to 1, is needed"
        )
    scaled: NDArray[np.uint8] = np.rint(image * 255).astype(np.uint8)
    return scaled
