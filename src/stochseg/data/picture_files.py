"""Pictures as arrays, nothing scaled: PNG, JPEG, TIFF (pages too) and NPY."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence

from stochseg.data.images import MAX_PIXELS
from stochseg.data.map_files import GREY_STEPS
from stochseg.errors import InputError

FORMATS = ("PNG", "JPEG", "TIFF")
CHANNELS = 16
"""An array whose last axis is longer than this is no image of [h w c]."""

_DIFFER = "its pages differ in size or colour; save each as an image of its own"
_PNG_DEPTH = 24
"""Where a PNG says how many bits a value has."""


def read_picture(file: Path, indices: bool = False) -> NDArray[Any]:
    """The pages of a picture [s h w c], c 1 or 3: uint8 or uint16, int32 or float32 where a TIFF holds such greys.

    Photographs are turned as their EXIF note says; colour of 16 bits comes with 8. indices: a picture is a map of class
    ids: palette indices are kept, and greys of 1, 2 and 4 bits are counted from 0 in steps of 1.
    Raises InputError, which names the file, for damage, transparency, and other kinds of pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a size that PIL would warn of is refused below
            opened = Image.open(file, formats=FORMATS)
        with opened as picture:
            count = getattr(picture, "n_frames", 1)
            if not 0 < picture.width * picture.height * count <= MAX_PIXELS:
                where = f" on {count} pages" if count > 1 else ""
                raise InputError(
                    f"{file}: {picture.width}x{picture.height} pixels{where}; up to {MAX_PIXELS} are read, "
                    "cut it into parts"
                )
            step = _grey_step(file, picture) if indices else 1
            size = picture.size
            read = [_page(page, file, indices, size) for page in ImageSequence.Iterator(picture)]
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{file}: not readable as {', '.join(FORMATS)} ({error}); copy it again, or convert it"
        ) from error
    if any(page.shape != read[0].shape for page in read):
        raise InputError(f"{file}: {_DIFFER}")
    pages = np.stack(read)
    return pages // step if step > 1 else pages


def _grey_step(file: Path, picture: Image.Image) -> int:
    if picture.format != "PNG" or picture.mode != "L":
        return 1
    with file.open("rb") as stream:
        return GREY_STEPS.get(stream.read(_PNG_DEPTH + 1)[_PNG_DEPTH], 1)


def _page(picture: Image.Image, file: Path, indices: bool, size: tuple[int, int]) -> NDArray[Any]:
    """[h w c] of a page, which must have the size of the first before memory is taken for it."""
    if picture.size != size:
        raise InputError(f"{file}: {_DIFFER}")
    picture.load()
    pixels = _as_array(ImageOps.exif_transpose(picture), file, indices)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _as_array(picture: Image.Image, file: Path, indices: bool) -> NDArray[Any]:
    if indices and picture.mode in ("P", "1"):
        return np.asarray(picture).astype(np.uint8)
    if picture.mode == "P" or picture.mode == "1":
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB" if picture.mode == "P" else "L")
    if picture.mode in ("RGBA", "LA"):
        alpha = np.asarray(picture.getchannel("A"))
        if (alpha < 255).any():
            raise InputError(f"{file}: is transparent in places; put it on a background and save it without alpha")
        picture = picture.convert(picture.mode[:-1])
    pixels = np.asarray(picture)
    if picture.mode.startswith("I"):
        fits = pixels.size == 0 or (pixels.min() >= 0 and pixels.max() <= 65535)
        return pixels.astype(np.uint16 if fits else np.int32)
    if picture.mode not in ("L", "RGB", "F"):
        raise InputError(
            f"{file}: image of mode '{picture.mode}'; grey or RGB of 8 or 16 bits, floats in NPY, are read, convert it"
        )
    return pixels


def read_npy(file: Path) -> NDArray[Any]:
    """An array [h w] or [h w c] of numbers as [1 h w c], in this machine's byte order; InputError for any other."""
    try:
        pixels = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file}: not readable as an array ({error}); save it with numpy.save") from error
    if not isinstance(pixels, np.ndarray) or pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise InputError(f"{file}: array of shape {list(np.shape(pixels))}; an image is [h w] or [h w c]")
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    if pixels.shape[2] > CHANNELS:
        raise InputError(f"{file}: array of shape {list(pixels.shape)}; an image is [h w] or [h w c], channels last")
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        raise InputError(f"{file}: {pixels.shape[1]}x{pixels.shape[0]} pixels; up to {MAX_PIXELS} are read, cut it")
    if pixels.dtype.kind not in "biuf":
        raise InputError(f"{file}: array of {pixels.dtype}; uint8, uint16, or floats in 0 to 1 are read")
    return np.array(pixels, dtype=pixels.dtype.newbyteorder("="))[None]
