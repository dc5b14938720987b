"""One grey PNG from bytes, with a clear error for everything that can be wrong with it."""

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stochseg.errors import InputError

MAX_PIXELS = 64 * 2**20
"""A PNG that says it is larger than this is refused before any memory is taken for it."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"IEND\xaeB`\x82"


def decode_grey(data: bytes, where: str, size: tuple[int, int] | None = None, kind: str = "image") -> NDArray[np.uint8]:
    """Decode a grey PNG of 8 bits or 1 bit: uint8 [h w]; a 1-bit PNG gives 0 and 1.

    Colour whose three channels are equal counts as grey. `size` is the (h, w) that is asked for, `where` and `kind`
    ("image", "mask") appear in messages. Raises InputError for another size or mode and for a truncated file.
    """
    h, w = _declared_size(data, where, kind)
    if size is not None and (h, w) != size:
        raise InputError(
            f"{where}: {kind} of {w}x{h} pixels, the images of this source have {size[1]}x{size[0]}; "
            "all images and masks must have one size: crop or pad them"
        )
    if _END not in data[-4096:]:
        raise InputError(f"{where}: the PNG is truncated (no end mark); copy or unpack it again")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            check_size(image, data)
            mode = image.mode
            pixels = np.asarray(image)
    except Exception as error:  # a decoder fails at damage in many ways
        raise InputError(f"{where}: damaged PNG ({error}); copy or unpack it again") from error
    if mode == "RGB" and (pixels == pixels[..., :1]).all():
        return np.ascontiguousarray(pixels[..., 0])
    if mode not in ("L", "1"):
        raise InputError(f"{where}: {kind} of mode '{mode}', 8-bit grey is needed; convert it")
    return pixels.astype(np.uint8, copy=False)


def check_size(image: Image.Image, data: bytes) -> None:
    """ValueError where an opened PNG has another size than its first header says: a later header may be far larger."""
    if (image.height, image.width) != _declared_size(data, "", ""):
        raise ValueError("two headers of different sizes")


def size_of(data: bytes, where: str) -> tuple[int, int]:
    """(h, w) of a PNG from its header alone."""
    return _declared_size(data, where, "image")


def binary(pixels: NDArray[np.generic], where: str) -> NDArray[np.uint8]:
    """A mask [h w] of 0 and 255, or of 0 and 1, as uint8 0 and 1. Any other value is an InputError."""
    top = 255 if pixels.size and pixels.max() > 1 else 1
    marked: NDArray[np.bool_] = pixels == top
    other = pixels[(pixels != 0) & ~marked]
    if other.size:
        raise InputError(
            f"{where}: the mask holds the value {other.flat[0]}; masks hold 0 and 255 only (or 0 and 1 only): "
            "threshold it, and do not resize masks with interpolation"
        )
    return marked.astype(np.uint8)


def _declared_size(data: bytes, where: str, kind: str) -> tuple[int, int]:
    if data[:8] != _SIGNATURE:
        raise InputError(f"{where}: {'an empty file' if not data else 'not a PNG'}; a PNG {kind} is needed here")
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise InputError(f"{where}: the PNG is truncated (no header); copy or unpack it again")
    w, h = struct.unpack(">II", data[16:24])
    if not 0 < w * h <= MAX_PIXELS:
        raise InputError(f"{where}: {kind} of {w}x{h} pixels; between 1 and {MAX_PIXELS} pixels are read")
    return h, w
