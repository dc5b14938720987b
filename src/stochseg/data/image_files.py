"""Image files of a user's own: which ones are meant, and their pixels as the models take them."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stochseg.data.map_files import suffix_of
from stochseg.data.pixel_files import (
    DICOM,
    NIFTI,
    SUFFIXES,
    Pixels,
    Window,
    Windows,
    grey_if_grey,
    read_pixels,
    to_bytes,
    window_for,
)
from stochseg.data.space import Space
from stochseg.errors import InputError

DEEPEST = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
KINDS = {1: "grey", 3: "colour"}


@dataclass(frozen=True)
class Slices:
    """An image, or all slices of a volume.

    images: float32 [s c h w] in [-1, 1]; space: where they lie; window: what became black and white, where that was asked.
    """

    images: Tensor
    space: Space
    window: Window | None = None

    @property
    def is_volume(self) -> bool:
        return len(self.images) > 1


def list_images(given: Sequence[str | Path]) -> list[Path]:
    """The files that are meant by files, folders (the images right inside, sorted) and patterns such as `scans/*.png`.

    The DICOM files of a folder are one series, for which the folder stands; named one by one they are images of their own.
    Hidden files (.NAME, such as macOS leaves beside others) are only meant where they are named. InputError for what is
    not there, a folder or pattern without images, and another kind of file.
    """
    files: list[Path] = []
    for one in given:
        path = Path(one)
        if path.is_dir():
            inside = [f for f in sorted(path.iterdir()) if suffix_of(f) in SUFFIXES and _is_seen(f)]
            found = [f for f in inside if suffix_of(f) not in DICOM]
            found += [path] if len(found) < len(inside) else []
            if not found:
                raise InputError(f"{path}: no image right inside this folder; {', '.join(SUFFIXES)} are read")
        elif path.exists():
            found = [path]
        elif glob.has_magic(str(one)):
            found = sorted(f for f in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if _is_seen(f))
            if not found:
                raise InputError(f"{one}: matches no file; give files, folders, or another pattern")
        else:
            raise InputError(f"{path}: no such image; look at its name and folder")
        for file in found:
            if suffix_of(file) not in SUFFIXES and not file.is_dir():
                raise InputError(f"{file}: {', '.join(SUFFIXES)} are read; convert it")
        files += found
    if not files:
        raise InputError("no image given; give files, folders or patterns")
    return files


def _is_seen(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(".")


def name_of(file: Path) -> str:
    """An image's name: its file's without the suffix, or that of its series' folder."""
    return file.absolute().name if file.is_dir() else file.name[: -len(suffix_of(file)) or None]


def read_image(file: Path, channels: int, windows: Windows = None) -> Tensor:
    """The image in a file that holds only one, as `read_slices` gives it: float32 [c h w] in [-1, 1]."""
    images = read_slices(file, channels, windows).images
    if len(images) > 1:
        raise InputError(f"{file}: holds {len(images)} slices; give one of them as an image of its own")
    return images[0]


def read_slices(file: Path, channels: int, windows: Windows = None, axis: int = 2) -> Slices:
    """An image or a volume as a model of this many channels takes it.

    PNG, JPEG and TIFF, grey or colour; NPY [h w] or [h w c]; NIfTI, cut into slices along an axis; DICOM, a file, or a
    folder with a series. 8 and 16 bits count from 0 to their largest value, floats from 0 to 1; colour of 16 bits is read
    with 8. windows: how the images of the model's training became bytes, where they were not; without it DICOM is seen
    through the window that it names, and NIfTI of more than 8 bits needs one. Photographs are turned as their EXIF note
    says. Colour whose channels are equal counts as grey; a grey image has c = 1, and models of three channels repeat it
    themselves.
    Raises InputError, which names the file, for damage, transparency, several pages, or channels that do not fit.
    """
    files = [f for f in sorted(file.iterdir()) if suffix_of(f) in DICOM and _is_seen(f)] if file.is_dir() else [file]
    if not files:
        raise InputError(f"{file}: no DICOM file right inside this folder")
    found = read_pixels(files, axis)
    kind = suffix_of(files[0])
    if len(found.values) > 1 and kind not in (*NIFTI, *DICOM):
        raise InputError(f"{file}: holds {len(found.values)} pages; save each as an image of its own")
    window = found.window if windows is None and kind in DICOM else window_for(found, windows)
    pixels = _checked(found, kind, file) if window is None else to_bytes(found.values, window)
    if channels == 1:
        pixels = grey_if_grey(pixels)
    if pixels.shape[3] != channels and (pixels.shape[3], channels) != (1, 3):
        has, wanted = (KINDS.get(c, f"of {c} channels") for c in (pixels.shape[3], channels))
        raise InputError(f"{file}: the image is {has}, this model takes images that are {wanted}; convert it")
    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32))
    images.div_(DEEPEST.get(pixels.dtype, 1)).mul_(2).sub_(1)
    own = tuple(files) if kind in DICOM else ()
    place = Space(found.affine, "RAS", axis) if kind in NIFTI else Space(found.affine, dicom=own)
    return Slices(images, place, window)


def _checked(found: Pixels, kind: str, file: Path) -> NDArray[Any]:
    """The same pixels where they are of 8 or 16 bits, or floats from 0 to 1."""
    pixels = found.values
    if kind in (*NIFTI, *DICOM):
        if pixels.dtype == np.uint8:
            return pixels
        raise InputError(
            f"{file}: values from {pixels.min():g} to {pixels.max():g}; say which are black and white, as in the training "
            "images: --window LOW,HIGH, such as --window=-1000,400"
        )
    if pixels.dtype in DEEPEST:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        if kind != ".npy":
            raise InputError(f"{file}: holds values from {pixels.min()} to {pixels.max()}; 8 or 16 bits are read")
        raise InputError(f"{file}: array of {pixels.dtype}; uint8, uint16, or floats in 0 to 1 are read")
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise InputError(
            f"{file}: floats from {pixels.min():g} to {pixels.max():g}; scale them to 0 to 1, 1 being white"
        )
    return pixels
