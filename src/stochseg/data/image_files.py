"""Image files of a user's own: which ones are meant, and their pixels as the models take them."""

import glob
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from stochseg.data.images import MAX_PIXELS
from stochseg.errors import InputError

FORMATS = ("PNG", "JPEG", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")
DEEPEST = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
CHANNELS = 16
"""An array whose last axis is longer than this is no image of [h w c]."""


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
    pixels = _read_npy(file) if file.suffix.lower() == ".npy" else _read_picture(file)
    if pixels.shape[2] == 3 and channels == 1 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., :1]
    if pixels.shape[2] != channels and (pixels.shape[2], channels) != (1, 3):
        kinds = {1: "grey", 3: "colour"}
        found, wanted = (kinds.get(c, f"of {c} channels") for c in (pixels.shape[2], channels))
        raise InputError(f"{file}: the image is {found}, this model takes images that are {wanted}; convert it")
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32))
    return image.div_(DEEPEST.get(pixels.dtype, 1)).mul_(2).sub_(1)


def _read_picture(file: Path) -> NDArray[Any]:
    """uint8 or uint16 [h w c] with c 1 or 3."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a size that PIL would warn of is refused below
            opened = Image.open(file, formats=FORMATS)
        with opened as picture:
            if not 0 < picture.width * picture.height <= MAX_PIXELS:
                raise InputError(
                    f"{file}: {picture.width}x{picture.height} pixels; up to {MAX_PIXELS} are read, cut it into parts"
                )
            if (pages := getattr(picture, "n_frames", 1)) > 1:
                raise InputError(f"{file}: holds {pages} pages; save each as an image of its own")
            picture.load()
            return _as_array(ImageOps.exif_transpose(picture), file)
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{file}: not readable as {', '.join(FORMATS)} ({error}); copy it again, or convert it"
        ) from error


def _as_array(picture: Image.Image, file: Path) -> NDArray[Any]:
    if picture.mode == "P" or picture.mode == "1":
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB" if picture.mode == "P" else "L")
    if picture.mode in ("RGBA", "LA"):
        alpha = np.asarray(picture.getchannel("A"))
        if (alpha < 255).any():
            raise InputError(f"{file}: is transparent in places; put it on a background and save it without alpha")
        picture = picture.convert(picture.mode[:-1])
    pixels = np.asarray(picture)
    if picture.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        if pixels.size and (pixels.min() < 0 or pixels.max() > 65535):
            raise InputError(f"{file}: holds values from {pixels.min()} to {pixels.max()}; 8 or 16 bits are read")
        return pixels.astype(np.uint16)[..., None]
    if picture.mode not in ("L", "RGB"):
        raise InputError(
            f"{file}: image of mode '{picture.mode}'; grey or RGB of 8 or 16 bits, floats in NPY, are read, convert it"
        )
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _read_npy(file: Path) -> NDArray[Any]:
    try:
        pixels = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file}: not readable as an array ({error}); save it with numpy.save") from error
    if not isinstance(pixels, np.ndarray) or pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise InputError(f"{file}: array of shape {list(np.shape(pixels))}; an image is [h w] or [h w c]")
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    if pixels.shape[2] > CHANNELS:
        raise InputError(f"{file}: array of shape {list(pixels.shape)}; an image is [h w] or [h w c], channels last")
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        raise InputError(f"{file}: {pixels.shape[1]}x{pixels.shape[0]} pixels; up to {MAX_PIXELS} are read, cut it")
    if pixels.dtype in DEEPEST:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise InputError(f"{file}: array of {pixels.dtype}; uint8, uint16, or floats in 0 to 1 are read")
    if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
        raise InputError(
            f"{file}: floats from {pixels.min():g} to {pixels.max():g}; scale them to 0 to 1, 1 being white"
        )
    return pixels
