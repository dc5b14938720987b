"""LIDC-IDRI slices as PNG files: the layouts that are in use, and filling a split from them.

    crops:   SPLIT/images/PATIENT/NAME.png       and SPLIT/gt/PATIENT/NAME_l0.png to _l3.png (or _l1 to _l4)
    slices:  PATIENT/nodule-N/images/slice-K.png and PATIENT/nodule-N/mask-0 to mask-3/slice-K.png

The crops are those of the Hierarchical Probabilistic U-Net (Kohl et al. 2019, arXiv 1905.13077), whose archives are
train.tar.gz, val.tar.gz and test.tar.gz; SPLIT may be called lidc_crops_SPLIT, and one more folder may lie between
it and images.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stochseg.data.archives import ArchiveFiles, Files, FolderFiles, SeveralFiles, is_archive
from stochseg.data.images import binary, decode_grey, size_of
from stochseg.data.store import MISSING_RATER, Split
from stochseg.data.workers import FEW_FILES, Workers, cores
from stochseg.errors import InputError
from stochseg.progress import say, track

RATERS = 4
PART = 64
"""Files that a worker decodes at a time: enough that handing them over costs little."""

_CROP = re.compile(
    r"(?:^|.*/)(?:lidc_crops_)?(?P<split>train|val|test)/(?:[^/]+/)?(?P<kind>images|gt)/(?P<patient>[^/]+)/(?P<name>[^/]+)\.png"
)
_CROP_MASK = re.compile(r"(?P<name>.+)_l(?P<rater>\d+)")
_SLICE = re.compile(
    r"(?:^|.*/)(?P<patient>[^/]+)/(?P<nodule>nodule-[^/]+)/(?:images|mask-(?P<rater>\d+))/(?P<name>slice-[^/]+)\.png"
)


@dataclass
class FileSlice:
    """One slice: the name of its image and those of its masks by rater."""

    id: str
    patient: str
    split: str | None
    image: str = ""
    masks: dict[int, str] = field(default_factory=dict)


class FileSource:
    """Slices as PNG files in a folder or in archives.

    slices: in natural order; image_shape: (h, w, 1), that of the first image, which all others must have.
    """

    raters = RATERS
    left_out = ()

    def __init__(self, files: Files, kind: str, slices: list[FileSlice]) -> None:
        self._files = files
        self.kind = kind
        self.slices = slices
        _count_raters_from_zero(slices)
        self._check_complete()
        name, first = next(files.read_each([item.image for item in slices]))
        self._size = size_of(first, files.where(name))
        self.image_shape = (*self._size, 1)

    def _check_complete(self) -> None:
        for item in self.slices:
            if not item.image:
                mask = self._files.where(next(iter(item.masks.values())))
                raise InputError(f"{mask}: a mask without its image; add the image or remove the mask")
            if not item.masks:
                raise InputError(
                    f"{self._files.where(item.image)}: an image without masks; add at least one mask or remove it"
                )
            if max(item.masks) >= self.raters:
                mask = self._files.where(item.masks[max(item.masks)])
                raise InputError(f"{mask}: rater {max(item.masks)}, but raters 0 to {self.raters - 1} are read")

    def fill(self, split: Split, chosen: Sequence[int]) -> None:
        """Decode the files of the `chosen` slices into the rows of `split`, on all cores where they are many.

        Processes rather than threads: for PNGs this small PIL holds the interpreter lock most of the time.
        """
        targets: dict[str, tuple[int, int | None]] = {}
        for row, item in enumerate(self.slices[n] for n in chosen):
            targets[item.image] = (row, None)
            targets.update((name, (row, rater)) for rater, name in item.masks.items())
            for missing in set(range(self.raters)) - item.masks.keys():
                split.labels[row, missing] = MISSING_RATER

        coded = (
            CodedFile(*targets[name], data, self._files.where(name), self._size)
            for name, data in self._files.read_each(targets)
        )
        with Workers(cores() if len(targets) > FEW_FILES else 1) as pool:
            decoded = (one for part in pool.each(decode, _in_parts(coded)) for one in part)
            for row, rater, pixels in track(decoded, len(targets), f"reading {split.name}", unit="files"):
                if rater is None:
                    split.images[row, :, :, 0] = pixels
                else:
                    split.labels[row, rater] = pixels


class CodedFile(NamedTuple):
    """A file as read, and the row and rater (None: the image) that it belongs to."""

    row: int
    rater: int | None
    data: bytes
    where: str
    size: tuple[int, int]


def decode(files: list[CodedFile]) -> list[tuple[int, int | None, NDArray[np.uint8]]]:
    """Row, rater and pixels [h w] of each; InputError names the first that cannot be read."""
    found: list[tuple[int, int | None, NDArray[np.uint8]]] = []
    for row, rater, data, where, size in files:
        pixels = decode_grey(data, where, size, "image" if rater is None else "mask")
        found.append((row, rater, pixels if rater is None else binary(pixels, where)))
    return found


def _in_parts(files: Iterator[CodedFile]) -> Iterator[list[CodedFile]]:
    while part := list(islice(files, PART)):
        yield part


def _count_raters_from_zero(slices: list[FileSlice]) -> None:
    # The readme of the crops numbers the raters 1 to 4, code that reads them 0 to 3; both are understood.
    raters = {rater for item in slices for rater in item.masks}
    if raters and min(raters) == 1 and max(raters) == RATERS:
        for item in slices:
            item.masks = {rater - 1: name for rater, name in item.masks.items()}


def find_files(source: Path) -> FileSource | None:
    """The PNG slices below a folder or in an archive, or None where no known layout is found."""
    if is_archive(source):
        return _recognise(ArchiveFiles(source), "an archive")
    if not source.is_dir():
        return None
    archives = sorted(path for path in source.iterdir() if is_archive(path))
    found = _recognise(FolderFiles(source), "folders")
    if found and archives:
        say(f"{source}: its folders are read; not read: {', '.join(path.name for path in archives)}")
    if not found and archives:
        return _recognise(SeveralFiles([ArchiveFiles(path) for path in archives]), "archives")
    return found


def _recognise(files: Files, container: str) -> FileSource | None:
    names = files.names()
    for layout, place in (("HPU-Net crops", _place_crop), ("slices by nodule", _place_slice)):
        slices: dict[tuple[str | None, str], FileSlice] = {}
        for name in names:
            if placed := place(name):
                item, rater = placed
                known = slices.setdefault((item.split, item.id), item)
                other = known.image if rater is None else known.masks.get(rater, "")
                if other:
                    raise InputError(f"{files.where(other)} and {files.where(name)}: the same file twice; keep one")
                if rater is None:
                    known.image = name
                else:
                    known.masks[rater] = name
        if slices:
            ordered = sorted(slices.values(), key=lambda item: natural(item.id))
            return FileSource(files, f"{layout} in {container}", ordered)
    return None


def _place_crop(name: str) -> tuple[FileSlice, int | None] | None:
    match = _CROP.fullmatch(name)
    if not match:
        return None
    split, patient, stem = match["split"], match["patient"], match["name"]
    if match["kind"] == "images":
        return FileSlice(f"{patient}/{stem}", patient, split), None
    mask = _CROP_MASK.fullmatch(stem)
    return mask and (FileSlice(f"{patient}/{mask['name']}", patient, split), int(mask["rater"]))


def _place_slice(name: str) -> tuple[FileSlice, int | None] | None:
    match = _SLICE.fullmatch(name)
    if not match:
        return None
    item = FileSlice(f"{match['patient']}/{match['nodule']}/{match['name']}", match["patient"], None)
    return item, None if match["rater"] is None else int(match["rater"])


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key that puts slice-2 before slice-10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", text)]
