"""Image files of a user's own: which ones are meant, and their pixels as the models take them."""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stochseg.data.pixel_files import grey_if_grey, read_pixels
from stochseg.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")
DEEPEST = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}


def list_images(given: Sequence[str | Path]) -> list[Path]:
    """The files that are meant by files, folders (the images right inside, sorted) and patterns such as `scans/*.png`.

    Hidden files (.NAME, such as macOS leaves beside others) are only meant where they are named. InputError for what is
    not there, a folder or pattern without images, and another kind of file.
    """
    files: list[Path] = []
    for one in given:
        path = Path(one)
        if path.is_dir():
            found = [f for f in sorted(path.iterdir()) if f.suffix.lower() in SUFFIXES and _is_seen(f)]
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
            if file.suffix.lower() not in SUFFIXES:
                raise InputError(f"{file}: {', '.join(SUFFIXES)} are read; convert it")
        files += found
    if not files:
        raise InputError("no image given; give files, folders or patterns")
    return files


def _is_seen(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(".")


def read_image(file: Path, channels: int) -> Tensor:
    """An image as a model of this many channels takes it: float32 [c h w] in [-1, 1].

    PNG, JPEG and TIFF, grey or colour; NPY [h w] or [h w c]. 8 and 16 bits count from 0 to their largest value, floats
    (NPY) from 0 to 1; colour of 16 bits is read with 8. Photographs are turned as their EXIF note says. Colour whose
    channels are equal counts as grey; a grey image has c = 1, and models of three channels repeat it themselves.
    Raises InputError, which names the file, for damage, transparency, several pages, or channels that do not fit.
    """
    pages = read_pixels([file]).values
    if len(pages) > 1:
        raise InputError(f"{file}: holds {len(pages)} pages; save each as an image of its own")
    pixels = _checked(pages[0], file)
    if channels == 1:
        pixels = grey_if_grey(pixels)
    if pixels.shape[2] != channels and (pixels.shape[2], channels) != (1, 3):
        kinds = {1: "grey", 3: "colour"}
        found, wanted = (kinds.get(c, f"of {c} channels") for c in (pixels.shape[2], channels))
        raise InputError(f"{file}: the image is {found}, this model takes images that are {wanted}; convert it")
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32))
    return image.div_(DEEPEST.get(pixels.dtype, 1)).mul_(2).sub_(1)


def _checked(pixels: NDArray[Any], file: Path) -> NDArray[Any]:
    """The same pixels where they are of 8 or 16 bits, or floats from 0 to 1."""
    if pixels.dtype in DEEPEST:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        if file.suffix.lower() != ".npy":
            raise InputError(f"{file}: holds values from {pixels.min()} to {pixels.max()}; 8 or 16 bits are read")
        raise InputError(f"{file}: array of {pixels.dtype}; uint8, uint16, or floats in 0 to 1 are read")
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise InputError(
            f"{file}: floats from {pixels.min():g} to {pixels.max():g}; scale them to 0 to 1, 1 being white"
        )
    return pixels
