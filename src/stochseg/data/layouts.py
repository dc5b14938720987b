"""Which files of a folder of maps belong to which image: the layouts of docs/score.md.

A file name alone does not say whether `P1/a.npy` is the image `P1/a` or one map of the image `P1`. The reading is taken
under which samples and labels name the same images; where that leaves two, it is an error and no guess.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stochseg.data.archives import FolderFiles
from stochseg.data.map_files import FOREIGN, SUFFIXES, stack_shape, suffix_of
from stochseg.errors import InputError

Groups = dict[str, list[Path]]

WRITTEN_BY_SAMPLE = "samples.npz"
"""In a folder with this file, as `stochseg sample` writes them, the other files are no maps."""
MOSTLY = 0.5
"""Where samples and labels share a greater part of their file names, these may be names of images."""

_NUMBERED = re.compile(r"(?P<name>.+)_(?P<mark>[ls]?)(?P<number>\d+)")
_ONLY_A_NUMBER = re.compile(r"l?\d+")
_NOT_RATER_MAJOR = "folders are images: IMAGE/RATER.png, not RATER/IMAGE.png"


@dataclass
class Listing:
    """The files with maps below a folder; `split`: sub-folders whose files are images of their own."""

    path: Path
    folders: Groups
    """By their folder, relative to `path`."""
    loose: list[Path]
    split: set[str] = field(default_factory=set)

    def stems(self, folder: str) -> dict[str, Path]:
        """The names in a sub-folder without suffix; none where the folder surely is one image, or is not there."""
        files = self.folders.get(folder, [])
        return {} if any(f.name == WRITTEN_BY_SAMPLE for f in files) else {_stem(f): f for f in files}

    def files(self) -> set[str]:
        """The names of all files below the folder, without suffix."""
        inner = {f"{folder}/{_stem(file)}" for folder, files in self.folders.items() for file in files}
        return inner | {_stem(file) for file in self.loose}

    def names(self, plain: bool) -> set[str]:
        """The images; plain: each loose PNG is one, otherwise NAME_3.png is a map of NAME."""
        inner = {f"{folder}/{stem}" for folder in self.split for stem in self.stems(folder)}
        return inner | (self.folders.keys() - self.split) | {_image_of(file, plain) for file in self.loose}

    def grouped(self, plain: bool) -> Groups:
        """The files of each image, in natural order; InputError where they contradict each other."""
        grouped = {name: _of_one_image(files) for name, files in self.folders.items() if name not in self.split}
        alone = [(f"{folder}/{_stem(f)}", f) for folder in self.split for f in self.folders[folder]]
        loose = [(_image_of(f, plain), f) for f in self.loose]
        for name, file in sorted(alone + loose, key=lambda each: _natural(each[1].name)):
            others = grouped.setdefault(name, [])
            if others and not all(f.parent == self.path and _stem(f) != name for f in (file, *others)):
                raise InputError(
                    f"{others[0]} and {file} are both of the image {name}; keep one, or put its maps into "
                    f"{self.path / name}/"
                )
            others.append(file)
        return dict(sorted(grouped.items(), key=lambda item: _natural(item[0])))


def list_maps(folder: Path) -> Listing:
    """List a folder; InputError where it is not there, holds no map, or holds some in a format that is not read."""
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
    loose = found.pop("", [])
    return Listing(folder, dict(found), loose)


def group_by_image(samples: Sequence[Listing], labels: Listing) -> list[Groups]:
    """The files of each image, for each folder of samples and last the labels; InputError where that is in doubt."""
    for one in samples:
        _split_folders(one, labels)
        _refuse_doubt_of_loose(one, labels)
    plain = _readings(samples, labels)
    return [one.grouped(each) for one, each in zip([*samples, labels], plain, strict=True)]


def cure_of_names(a: Listing, b: Listing) -> str:
    """What to do where two folders share no image."""
    for ours, theirs in ((a, b), (b, a)):
        inner = _in_every_folder(ours)
        names = {name for name in _in_every_folder(theirs) if not _ONLY_A_NUMBER.fullmatch(name)}
        if inner & (names | theirs.names(plain=True)):
            return _NOT_RATER_MAJOR
        numbered = {m["name"]: f for f in ours.loose if (m := _NUMBERED.fullmatch(_stem(f))) and suffix_of(f) != ".png"}
        others = {m["name"] for f in theirs.loose if (m := _NUMBERED.fullmatch(_stem(f)))} | theirs.names(plain=False)
        for name in sorted(numbered.keys() & others):
            return f"put the maps of each image into a folder on both sides, {name}/{numbered[name].name}"
    return "name both alike"


def _split_folders(samples: Listing, labels: Listing) -> None:
    """Find the sub-folders, such as those of patients, whose files are images of their own."""
    sides = samples, labels
    files = samples.files() | labels.files()
    follow = []
    for folder in sorted({*samples.folders, *labels.folders}, key=_natural):
        match _kind(folder, samples, labels, files):
            case "images":
                _split(folder, sides)
            case "as others":
                follow.append(folder)
    if samples.split | labels.split:
        for folder in follow:
            _split(folder, sides)


def _kind(
    folder: str, samples: Listing, labels: Listing, all_files: set[str]
) -> Literal["images", "one image", "as others"]:
    """What the files of a sub-folder are; "as others": one image, unless other sub-folders hold several.

    all_files: names of the files on both sides, without suffix.
    """
    ours, theirs = samples.stems(folder), labels.stems(folder)
    if any(f"{folder}/{stem}" in {*samples.folders, *labels.folders} for stem in {*ours, *theirs}):
        return "images"
    if not (ours and theirs):
        known = folder in samples.folders.keys() & labels.folders.keys()
        return "one image" if known or folder in all_files else "as others"
    files = max(len(ours), len(theirs))
    if files == 1:
        return "as others"
    shared = sorted(ours.keys() & theirs.keys(), key=_natural)
    sets = [sum(stack_shape(file)[1] > 1 for file in stems.values()) for stems in (ours, theirs)]
    if shared and any(sets):
        return "images"
    if len(shared) > MOSTLY * files and not all(map(_ONLY_A_NUMBER.fullmatch, shared)):
        example = ours[shared[0]].name
        raise InputError(
            f"{samples.path} and {labels.path} both hold {folder}/{example}: is it an image of its own, or a map of "
            f"the image {folder}? Give each image a folder, {folder}/{shared[0]}/{example}; or, if these are maps of "
            f"{folder}, number them, {folder}/0{suffix_of(ours[shared[0]])} ({_NOT_RATER_MAJOR})"
        )
    if max(sets) > 1 and (min(sets) > 1 or len(ours) == len(theirs)):
        a, b = (min(stems.values(), key=lambda f: _natural(f.name)) for stems in (ours, theirs))
        raise InputError(
            f"{a} and {b}: is each file of the folder {folder} an image of its own? Then name its samples and its "
            f"labels alike, {folder}/{b.name}; if all are of the image {folder}, put its maps into one file a side"
        )
    return "as others" if any(sets) else "one image"


def _split(folder: str, sides: Sequence[Listing]) -> None:
    for side in sides:
        if side.stems(folder):
            side.split.add(folder)


def _in_every_folder(one: Listing) -> set[str]:
    """Names of files that all of several sub-folders hold."""
    stems = [set(one.stems(folder)) for folder in one.folders]
    return set.intersection(*stems) if len(stems) > 1 else set()


def _readings(samples: Sequence[Listing], labels: Listing) -> list[bool]:
    """For each folder, that of the labels last: is each loose PNG an image (True), or NAME_3.png a map of NAME?

    The reading is taken under which samples and labels name the same images, and the latter where none is.
    """
    for labels_plain in (False, True):
        wanted = labels.names(labels_plain)
        fit = [[plain for plain in (False, True) if one.names(plain) == wanted] for one in samples]
        if all(fit):
            return [plain[0] for plain in fit] + [labels_plain]
    return [False] * (len(samples) + 1)


def _image_of(file: Path, plain: bool) -> str:
    """The image that a loose file belongs to."""
    numbered = None if plain or suffix_of(file) != ".png" else _NUMBERED.fullmatch(_stem(file))
    return numbered["name"] if numbered else _stem(file)


def _stem(file: Path) -> str:
    return file.name[: -len(suffix_of(file))]


def _refuse_doubt_of_loose(samples: Listing, labels: Listing) -> None:
    """Loose PNGs of the same numbered names on both sides may be one map each of many images, or many of one."""
    numbered = [{f.stem for f in one.loose if _is_numbered(f)} for one in (samples, labels)]
    both = numbered[0] & numbered[1]
    if len(both) > MOSTLY * max(map(len, numbered)):
        example = min(both, key=_natural)
        raise InputError(
            f"{samples.path} and {labels.path} both hold {example}.png: is it an image of its own, or a map of the "
            f"image {_image_of(Path(f'{example}.png'), False)}? Put the maps of each image into a folder, IMAGE/*.png"
        )


def _is_numbered(file: Path) -> bool:
    """Whether the name of a loose PNG ends in a number that may be that of a map; `_l0` surely is one (a label's)."""
    match = _NUMBERED.fullmatch(file.stem)
    return suffix_of(file) == ".png" and match is not None and match["mark"] != "l"


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
        match = _NUMBERED.fullmatch(_stem(file))
        numbers[match["name"] if match else ""].append(match["number"] if match else "")
    sets = list(numbers.values())
    if len(sets) > 1 and "" not in numbers and len(sets[0]) > 1 and sets.count(sets[0]) == len(sets):
        raise InputError(
            f"{files[0].parent}: maps of several images ({', '.join(list(numbers)[:3])}) in one folder; give each "
            "image a folder of its own"
        )
    return sorted(files, key=lambda f: _natural(f.name))


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sorting key under which 2 comes before 10."""
    parts = re.split(r"(\d+)", text)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
