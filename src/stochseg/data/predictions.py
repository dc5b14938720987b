"""Folders of maps that any program wrote, the maps of one image at a time.

Which files belong to which image, `layouts` tells; what is in a file, `map_files` reads. Samples and labels alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stochseg.data.layouts import Groups, Listing, cure_of_names, group_by_image, list_maps
from stochseg.data.map_files import Stack, read_stack, stack_shape, suffix_of
from stochseg.errors import InputError, OnError
from stochseg.wording import counted, some

Role = Literal["samples", "labels"]

AFFINE_TOLERANCE = 1e-3


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
    unreadable: what is wrong with the volumes whose slices cannot be counted, by NAME.
    """

    def __init__(self, listing: Listing, role: Role, classes: int, grouped: Groups, on_error: OnError) -> None:
        self.listing, self.path, self.role, self.classes = listing, listing.path, role, classes
        self.images: dict[str, ImageFiles] = {}
        self.unreadable: dict[str, str] = {}
        self._last: tuple[tuple[Path, ...], Stack] | None = None
        for name, files in grouped.items():
            try:
                self.images.update(_images_in(name, tuple(files)))
            except InputError as error:
                if on_error == "stop":
                    raise
                self.unreadable[name] = str(error)

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


def open_folders(
    samples: Sequence[Path], labels: Path, classes: int, on_error: OnError = "stop"
) -> tuple[list[MapFolder], MapFolder]:
    """List the images of some folders of samples and of the folder of labels. on_error: at a volume that is damaged.

    InputError where a folder is not there or holds no map, where its files contradict each other, and where it cannot
    be told whether loose PNGs are images or the maps of an image.
    """
    truth = list_maps(labels)
    listed = [list_maps(folder) for folder in samples]
    *ours, theirs = group_by_image(listed, truth)
    made = [MapFolder(one, "samples", classes, grouped, on_error) for one, grouped in zip(listed, ours)]
    return made, MapFolder(truth, "labels", classes, theirs, on_error)


def images_of_all(folders: Sequence[MapFolder], on_missing: str) -> tuple[list[str], list[str]]:
    """Images that all folders hold, and those that only some do; the latter are an error unless they may be skipped."""
    if on_missing not in ("error", "skip"):
        raise InputError(f"--on_missing {on_missing}: choose error or skip")
    unreadable = {name for folder in folders for name in folder.unreadable}
    everywhere = {
        name: None for folder in folders for name, image in folder.images.items() if image.group not in unreadable
    }
    skipped = [name for name in everywhere if not all(name in folder.images for folder in folders)]
    names = [name for name in everywhere if all(name in folder.images for folder in folders)]
    if skipped and (on_missing == "error" or not names):
        lacking = next(folder for folder in folders if any(name not in folder.images for name in skipped))
        images = [name for name in skipped if name not in lacking.images]
        holder = next(folder for folder in folders if images[0] in folder.images)
        cure = "add them, or leave these images out with --on_missing skip"
        if not names:
            cure = cure_of_names(lacking.listing, holder.listing)
        if any(
            folder.images[name].slice is not None for folder in folders for name in skipped if name in folder.images
        ):
            cure += " (NIfTI: the third axis is slices, NAME:000 on; n maps of one image are [h w 1 n])"
        raise InputError(
            f"{lacking.path}: no {lacking.role} of {some(images)}, which {holder.path} has, in all {len(images)} of "
            f"{counted(len(everywhere), 'image')}; {cure}"
        )
    return names, skipped


def example_of(name: str, folders: Sequence[MapFolder]) -> str:
    """One line that shows which files were read as the maps of an image."""
    each = []
    for folder in folders:
        files = folder.images[name].files
        where = f"{files[0]}" if len(files) == 1 else f"{files[0].parent}: {some([file.name for file in files])}"
        each.append(f"{counted(folder.count(name), folder.role.rstrip('s'))} in {where}")
    return f"maps of the image {name}: {'; '.join(each)}"


def check_agree(samples: MapSet, labels: MapSet) -> None:
    """InputError where the maps of samples and of labels do not lie on one grid of pixels."""
    _check_grid(samples.where, samples.maps, samples.affine, labels.where, labels.maps, labels.affine)


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
