"""Folders of maps that any program wrote: which files belong to which image, and the maps of one image at a time.

`docs/score.md` describes the layouts; samples and labels are read alike. What is in a file, `map_files` reads.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stochseg.data.archives import FolderFiles
from stochseg.data.map_files import FOREIGN, SUFFIXES, Stack, read_stack, stack_shape, suffix_of
from stochseg.errors import InputError

Role = Literal["samples", "labels"]
Groups = dict[str, list[Path]]

WRITTEN_BY_SAMPLE = "samples.npz"
"""In a folder with this file, as `stochseg sample` writes them, the other files are no maps."""
SURELY_NUMBERED = 0.5
"""Loose PNGs NAME_3.png are maps of NAME where samples and labels share at most this part of their file names."""
AFFINE_TOLERANCE = 1e-3

_NUMBERED = re.compile(r"(?P<name>.+)_(?P<mark>[ls]?)(?P<number>\d+)")


@dataclass(frozen=True)
class ImageFiles:
    """Where the maps of one image lie: in all of `files`, or in one slice of the volumes that they are."""

    files: tuple[Path, ...]
    group: str
    slice: int | None = None

    @property
    def where(self) -> str:
        """What to call it in a message."""
        place = self.files[0] if len(self.files) == 1 else self.files[0].parent
        return f"{place}" if self.slice is None else f"{place}, slice {self.slice}"


@dataclass(frozen=True)
class MapSet:
    """The maps of one image, uint8 [m h w]; weights [m] and affine [4 4] where its files hold them."""

    maps: NDArray[np.uint8]
    weights: NDArray[np.float64] | None
    affine: NDArray[np.float64] | None
    where: str


class MapFolder:
    """The images of one folder, by name; `open_folders` makes it.

    images: files by name of the image; slices of a volume are images `NAME:000` on, all of the group NAME.
    """

    def __init__(self, path: Path, role: Role, classes: int, grouped: Mapping[str, list[Path]]) -> None:
        self.path, self.role, self.classes = path, role, classes
        self.images: dict[str, ImageFiles] = {}
        self._last: tuple[tuple[Path, ...], Stack] | None = None
        for name, files in grouped.items():
            self.images.update(_images_in(name, tuple(files)))

    def count(self, name: str) -> int:
        """How many maps an image has, from the headers of its files."""
        return sum(stack_shape(file)[1] for file in self.images[name].files)

    def read(self, name: str) -> MapSet:
        """The maps of one image. InputError names the file that cannot be used, the value found and the cure.

        The volume read last is kept, so that slices asked for one after another cost one reading.
        """
        image = self.images[name]
        if self._last is None or self._last[0] != image.files:
            self._last = None  # so that no two volumes are held at once
            self._last = (image.files, _read_files(image.files, self.classes, self.role))
        stack = self._last[1]
        return MapSet(stack.maps[image.slice or 0], stack.weights, stack.affine, image.where)


def open_folders(samples: Sequence[Path], labels: Path, classes: int) -> tuple[list[MapFolder], MapFolder]:
    """List the images of some folders of samples and of the folder of labels.

    InputError where a folder is not there or holds no map, where its files contradict each other, and where it cannot
    be told whether loose PNGs are images or the maps of an image.
    """
    listed = {folder: _list(folder) for folder in (labels, *samples)}
    for folder in samples:
        _refuse_doubt(folder, listed[folder], labels, listed[labels])
    *ours, theirs = _readings([listed[folder] for folder in samples], listed[labels])
    made = [
        MapFolder(folder, "samples", classes, _grouped(listed[folder], folder, plain))
        for folder, plain in zip(samples, ours)
    ]
    return made, MapFolder(labels, "labels", classes, _grouped(listed[labels], labels, theirs))


def check_agree(samples: MapSet, labels: MapSet) -> None:
    """InputError where the maps of samples and of labels do not lie on one grid of pixels."""
    _check_grid(samples.where, samples.maps, samples.affine, labels.where, labels.maps, labels.affine)


def _list(folder: Path) -> Groups:
    """The files with maps below a folder by their own folder, relative to it ("" are the loose ones)."""
    if not folder.is_dir():
        raise InputError(f"{folder}: {'is no folder' if folder.exists() else 'is not there'}; give a folder of maps")
    source = FolderFiles(folder)
    found: Groups = defaultdict(list)
    for file in (Path(source.where(name)) for name in source.names()):
        if suffix_of(file) in FOREIGN:
            raise InputError(f"{file}: {suffix_of(file)} is not read; convert it to one of {', '.join(SUFFIXES)}")
        if suffix_of(file) in SUFFIXES:
            found["/".join(file.parent.relative_to(folder).parts)].append(file)
    if not found:
        raise InputError(
            f"{folder}: no map in it ({', '.join(SUFFIXES)}); IMAGE.npy [n h w] and IMAGE/*.png are two of the layouts "
            "that are read, docs/score.md has all"
        )
    return found


def _readings(samples: Sequence[Groups], labels: Groups) -> list[bool]:
    """For each folder, that of the labels last: is each loose PNG an image (True), or NAME_3.png a map of NAME?

    The reading is taken under which samples and labels name the same images, and the latter where none is.
    """
    for labels_plain in (False, True):
        wanted = _names(labels, labels_plain)
        fit = [[plain for plain in (False, True) if _names(files, plain) == wanted] for files in samples]
        if all(fit):
            return [plain[0] for plain in fit] + [labels_plain]
    return [False] * (len(samples) + 1)


def _names(listed: Groups, plain: bool) -> set[str]:
    return {folder for folder in listed if folder} | {_image_of(file, plain) for file in listed.get("", [])}


def _image_of(file: Path, plain: bool) -> str:
    """The image that a loose file belongs to."""
    stem = file.name[: -len(suffix_of(file))]
    numbered = None if plain or suffix_of(file) != ".png" else _NUMBERED.fullmatch(stem)
    return numbered["name"] if numbered else stem


def _refuse_doubt(samples: Path, ours: Groups, labels: Path, theirs: Groups) -> None:
    """Loose PNGs of the same numbered names on both sides may be one map each of many images, or many of one."""
    numbered = [{f.stem for f in listed.get("", []) if _is_numbered(f)} for listed in (ours, theirs)]
    both = numbered[0] & numbered[1]
    if len(both) > SURELY_NUMBERED * max(map(len, numbered)):
        example = min(both, key=_natural)
        raise InputError(
            f"{samples} and {labels} both hold {example}.png: is it an image of its own, or a map of the image "
            f"{_image_of(Path(f'{example}.png'), plain=False)}? Put the maps of each image into a folder, IMAGE/*.png"
        )


def _is_numbered(file: Path) -> bool:
    """Whether the name of a loose PNG ends in a number that may be that of a map; `_l0` surely is one (a label's)."""
    match = _NUMBERED.fullmatch(file.stem)
    return suffix_of(file) == ".png" and match is not None and match["mark"] != "l"


def _grouped(listed: Groups, folder: Path, plain: bool) -> Groups:
    """The files of each image, in natural order."""
    grouped: Groups = {name: _of_one_image(files) for name, files in listed.items() if name}
    for file in sorted(listed.get("", []), key=lambda f: _natural(f.name)):
        name = _image_of(file, plain)
        others = grouped.setdefault(name, [])
        if others and not all(
            f.parent == folder and _image_of(f, plain) != _image_of(f, True) for f in (file, *others)
        ):
            raise InputError(
                f"{others[0]} and {file} are both of the image {name}; keep one, or put its maps into {folder / name}/"
            )
        others.append(file)
    return dict(sorted(grouped.items(), key=lambda item: _natural(item[0])))


def _of_one_image(files: list[Path]) -> list[Path]:
    """The files of a folder that is an image, in natural order; InputError where they look like those of several."""
    for file in files:
        if file.name == WRITTEN_BY_SAMPLE:
            return [file]
    kinds = {suffix_of(file).removesuffix(".gz"): file for file in files}
    if len(kinds) > 1:
        a, b = list(kinds.values())[:2]
        raise InputError(f"{a} and {b}: maps of one image in two formats; keep one of them")
    numbers: defaultdict[str, list[str]] = defaultdict(list)
    for file in sorted(files):
        match = _NUMBERED.fullmatch(file.name[: -len(suffix_of(file))])
        numbers[match["name"] if match else ""].append(match["number"] if match else "")
    sets = list(numbers.values())
    if len(sets) > 1 and "" not in numbers and len(sets[0]) > 1 and sets.count(sets[0]) == len(sets):
        raise InputError(
            f"{files[0].parent}: maps of several images ({', '.join(list(numbers)[:3])}) in one folder; give each image "
            "a folder of its own"
        )
    return sorted(files, key=lambda f: _natural(f.name))


def _images_in(name: str, files: tuple[Path, ...]) -> dict[str, ImageFiles]:
    """One image, or the slices of a volume."""
    depths = [stack_shape(file)[0] for file in files] if suffix_of(files[0]).startswith(".nii") else [1]
    for file, depth in zip(files, depths):
        if depth != depths[0]:
            raise InputError(
                f"{files[0]} has {depths[0]} slices and {file} {depth}; all maps of a volume must have the same"
            )
    if depths[0] == 1:
        return {name: ImageFiles(files, name)}
    width = max(3, len(str(depths[0] - 1)))
    return {f"{name}:{i:0{width}d}": ImageFiles(files, name, i) for i in range(depths[0])}


def _read_files(files: tuple[Path, ...], classes: int, role: Role) -> Stack:
    stacks = [read_stack(file, classes, missing=role == "labels") for file in files]
    first = stacks[0]
    for file, other in zip(files[1:], stacks[1:]):
        _check_grid(str(files[0]), first.maps, first.affine, str(file), other.maps, other.affine)
    for file, one in zip(files, stacks):
        if one.weights is not None and len(stacks) > 1:
            raise InputError(f"{file}: weights beside other files of the image; put all its maps into one .npz")
    return Stack(np.concatenate([s.maps for s in stacks], 1), first.weights, first.affine)


def _check_grid(
    a: str,
    ours: NDArray[np.uint8],
    our_affine: NDArray[np.float64] | None,
    b: str,
    theirs: NDArray[np.uint8],
    their_affine: NDArray[np.float64] | None,
) -> None:
    if ours.shape[-2:] != theirs.shape[-2:]:
        raise InputError(
            f"{a}: maps of {list(ours.shape[-2:])} pixels [h w], {b}: of {list(theirs.shape[-2:])}; "
            "resample one to the grid of the other, by nearest neighbour"
        )
    if our_affine is None or their_affine is None:
        return
    off = np.abs(our_affine - their_affine).max()
    if off > AFFINE_TOLERANCE:
        raise InputError(
            f"{a} and {b}: their affines differ by up to {off:.3g}, so pixels lie elsewhere in space; "
            "resample one to the grid of the other, by nearest neighbour"
        )


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sorting key under which 2 comes before 10."""
    parts = re.split(r"(\d+)", text)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
