"""An image that somebody sends: refused by size before it is decoded, and never named by where it lies here."""

import tempfile
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stochseg.data.dicom_files import open_dicom
from stochseg.data.image_files import read_image
from stochseg.data.map_files import suffix_of
from stochseg.data.picture_files import FORMATS
from stochseg.data.pixel_files import DICOM, PICTURES, Windows
from stochseg.errors import InputError

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 2**20
"""Of an image: 1024x1024."""
KINDS = (*PICTURES, ".npy", *DICOM)
NAME_SHOWN = 80
"""Characters of a name that answers repeat."""


def read_upload(content: bytes, name: str, channels: int, windows: Windows = None) -> Tensor:
    """An image as a model of this many channels takes it: float32 [c h w] in [-1, 1].

    name: what the sender calls it; only its suffix counts. windows: see `read_slices`. Raises InputError, with that name
    and no path, for other kinds of files, more than MAX_BYTES or MAX_PIXELS, and all that `read_image` refuses.
    """
    shown = PurePosixPath(name.replace("\\", "/")).name[-NAME_SHOWN:] or "image"
    suffix = suffix_of(Path(shown))
    if suffix not in KINDS:
        raise InputError(f"{shown}: files of the kinds {', '.join(KINDS)} are read; convert it")
    if not 0 < len(content) <= MAX_BYTES:
        size = f"{len(content) / 2**20:.1f} MB" if content else "empty"
        raise InputError(f"{shown}: {size}; files up to {MAX_BYTES // 2**20} MB are read")
    with tempfile.TemporaryDirectory(prefix="stochseg-") as folder:
        file = Path(folder) / f"upload{suffix}"
        file.write_bytes(content)
        try:
            h, w = _declared(file, suffix)
            if h * w > MAX_PIXELS:
                side = round(MAX_PIXELS**0.5)
                raise InputError(f"{shown}: {w}x{h} pixels; up to {side}x{side} are taken here, crop it")
            return read_image(file, channels, windows)
        except InputError as error:
            raise InputError(str(error).replace(str(file), shown)) from error


def example_image(pixels: np.ndarray) -> Tensor:
    """uint8 [c h w] as float32 in [-1, 1]."""
    return torch.from_numpy(pixels.astype(np.float32)) / 127.5 - 1


def _declared(file: Path, suffix: str) -> tuple[int, int]:
    """(h, w) that the file says, before its pixels are read; (0, 0) where it does not: reading it tells why."""
    try:
        if suffix in PICTURES:
            with Image.open(file, formats=FORMATS) as picture:
                return picture.height * getattr(picture, "n_frames", 1), picture.width
        if suffix == ".npy":
            shape = np.load(file, mmap_mode="r", allow_pickle=False).shape
            return (shape[0], int(np.prod(shape[1:]))) if len(shape) > 3 else (shape[0], shape[1])
        header = open_dicom(file, ["Rows", "Columns", "NumberOfFrames"])
        return int(header.get("Rows", 0)) * int(header.get("NumberOfFrames", 1) or 1), int(header.get("Columns", 0))
    except InputError:
        raise
    except Image.DecompressionBombError:
        return MAX_PIXELS, MAX_PIXELS
    except Exception:  # a damaged header fails in many ways
        return 0, 0
