"""One image or label file in any format as an array with its place in space; nothing is scaled, guessed or cropped.

PNG, JPEG, TIFF, NPY    picture_files.py
NIfTI                   slices along an axis of choice        needs the extra `medical`
DICOM                   dicom_files.py, one file or a series   needs the extra `medical`
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stochseg.data.dicom_files import is_segmentation, read_segmentation, read_series
from stochseg.data.map_files import DAMAGE, check_bytes, damaged, load_nifti, nifti_bytes, suffix_of
from stochseg.data.picture_files import read_npy, read_picture
from stochseg.data.reading import reads
from stochseg.errors import InputError

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
NIFTI = (".nii", ".nii.gz")
DICOM = (".dcm", ".dicom")
SUFFIXES = (*PICTURES, ".npy", *NIFTI, *DICOM)
LOSSY = (".jpg", ".jpeg")
COLOURS = 3

Window = tuple[float, float]
Windows = Window | Literal["image", "file"] | None
"""How values become bytes: by one window for all images, or each by its own; None where all are bytes already."""
QUANTILES = (0.005, 0.995)
"""What lies beyond these in an image is left out of a window that is found automatically: a few pixels may be far off."""
LOOKED_AT = 2**20
"""Values of an image from which its quantiles are taken."""


@dataclass(frozen=True)
class Pixels:
    """An image, or all slices of a volume.

    values: [s h w c], finite numbers of any type; s is 1 but in volumes and files of several pages. affine: [4 4], from
    (slice, row, column) to millimetres, None where the file does not say. window: what a DICOM file shows as black and
    white. uids: the SOP instance UID of each slice of a DICOM series.
    """

    values: NDArray[Any]
    affine: NDArray[np.float64] | None = None
    window: Window | None = None
    uids: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        return self.values.shape[1], self.values.shape[2]


@reads
def read_pixels(files: Sequence[Path], axis: int = 2) -> Pixels:
    """The image in a file, or in the files of one DICOM series. axis: of NIfTI, along which its slices lie.

    Raises InputError of one line, which names the file, what was found there and the cure.
    """
    file = files[0]
    match suffix_of(file):
        case suffix if suffix in PICTURES:
            return Pixels(read_picture(file))
        case ".npy":
            return Pixels(_finite(read_npy(file), file))
        case suffix if suffix in NIFTI:
            values, affine = _read_nifti(file, axis)
            return Pixels(_finite(values[..., None], file), affine)
        case suffix if suffix in DICOM:
            series = read_series(files)
            return Pixels(_finite(series.values, file), series.affine, series.window, series.uids)
    raise InputError(f"{file}: {', '.join(SUFFIXES)} are read; convert it")


@reads
def read_label(files: Sequence[Path], image: Pixels, axis: int = 2) -> NDArray[Any]:
    """The values of a label file, integer [s h w], or uint8 [s h w 3] where it holds colours; what they mean is open.

    image: what it is of, whose grid it must share. Raises InputError for another size, another place in space,
    formats that change values (JPEG), and values that are no whole numbers.
    """
    file = files[0]
    suffix = suffix_of(file)
    if suffix in LOSSY:
        raise InputError(f"{file}: JPEG changes values, so it cannot hold class ids; save labels as PNG")
    if suffix in DICOM and is_segmentation(file):
        if not any(image.uids):
            raise InputError(f"{file}: a DICOM segmentation belongs to a DICOM image; convert it to what the image is")
        return read_segmentation(file, image.size, image.uids)
    found = Pixels(read_picture(file, indices=True)) if suffix in PICTURES else read_pixels(files, axis)
    values = found.values
    if values.shape[:3] != image.values.shape[:3]:
        raise InputError(
            f"{file}: {_shape_of(values)}, its image has {_shape_of(image.values)}; label the image as it is"
        )
    if suffix in NIFTI and image.uids:
        raise InputError(f"{file}: a NIfTI label of a DICOM image, whose axes differ; convert both to one format")
    if found.affine is not None and image.affine is not None and np.abs(found.affine - image.affine).max() > 1e-3:
        off = np.abs(found.affine - image.affine).max()
        raise InputError(
            f"{file}: its affine differs from that of the image by up to {off:.3g}, so pixels lie elsewhere in space; "
            "resample it to the image's grid, by nearest neighbour"
        )
    if values.shape[3] not in (1, COLOURS):
        raise InputError(f"{file}: a label of {values.shape[3]} channels; save one map of class ids a rater")
    if values.shape[3] == COLOURS and not (values == values[..., :1]).all():
        return values
    values = values[..., 0]
    if values.dtype.kind == "f":
        if not (values == np.rint(values)).all():
            odd = values[values != np.rint(values)].flat[0]
            raise InputError(f"{file}: holds the value {odd:g}; class ids are whole numbers: threshold or argmax it")
        values = values.astype(np.int64)
    return values.astype(np.uint8) if values.dtype == bool else values


def grey_if_grey(values: NDArray[Any]) -> NDArray[Any]:
    """Colour whose channels are equal as grey: [... 3] to [... 1]."""
    return values[..., :1] if values.shape[-1] == COLOURS and (values == values[..., :1]).all() else values


def to_bytes(values: NDArray[Any], window: Window | None) -> NDArray[np.uint8]:
    """uint8 of values of any type: the window's ends become 0 and 255, what lies beyond is clipped. None keeps bytes.

    >>> to_bytes(np.array([-2000, -1000, -300, 400, 3000]), (-1000, 400)).tolist()
    [0, 0, 128, 255, 255]
    """
    if window is None:
        return values.astype(np.uint8)
    low, high = window
    scaled = values.astype(np.float32)
    scaled -= low
    scaled *= 255 / (high - low)
    return np.rint(scaled.clip(0, 255, out=scaled), out=scaled).astype(np.uint8)


def spread(values: NDArray[Any]) -> Window:
    """What nearly all values of an image lie in, of a spread of them."""
    low, high = np.quantile(values.reshape(-1)[:: max(1, values.size // LOOKED_AT)], QUANTILES)
    return float(low), float(high)


def window_for(pixels: Pixels, windows: Windows) -> Window | None:
    """The window of one image, for `to_bytes`; None where its bytes are kept.

    Bytes are kept too where the window reaches beyond what a byte can hold, since it cannot be meant for them.
    """
    if windows is None:
        return None
    if isinstance(windows, str):
        low, high = (pixels.window if windows == "file" else None) or spread(pixels.values)
        return low, high if high > low else low + 1
    beyond = windows[0] < 0 or windows[1] > 255
    return None if beyond and pixels.values.dtype == np.uint8 else windows


def as_windows(noted: Any) -> Windows:
    """Windows as they are noted in JSON; InputError for anything else."""
    if isinstance(noted, list | tuple) and len(noted) == 2 and noted[0] < noted[1]:
        return float(noted[0]), float(noted[1])
    if noted in ("image", "file", None):
        return noted  # type: ignore[no-any-return]
    raise InputError(f"window {noted}: two numbers, image, file or none are known; prepare the store again")


def parse_window(text: str, others: str = "") -> Window:
    """LOW,HIGH as numbers; InputError names the flag --window, and what else it takes."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = 0.0
    if not low < high < float("inf"):
        raise InputError(f"--window {text}: give LOW,HIGH such as -1000,400{others}")
    return low, high


def _read_nifti(file: Path, axis: int) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """[s h w], and the affine from (slice, row, column): the two axes left, in their order, are rows and columns."""
    image = load_nifti(file)
    shape = tuple(image.shape)
    if len(shape) == 4 and shape[3] == 1:
        shape = shape[:3]
    if not 2 <= len(shape) <= 3 or 0 in shape or image.get_data_dtype().kind not in "biuf":
        raise InputError(
            f"{file}: NIfTI of {image.get_data_dtype()} and shape {list(image.shape)}; [h w slices] is read"
        )
    check_bytes(nifti_bytes(image), file)
    try:
        array = np.asanyarray(image.dataobj).reshape(shape + (1,) * (3 - len(shape)))
    except DAMAGE as error:
        raise damaged(file, "NIfTI", error) from error
    order = [axis, *(a for a in range(3) if a != axis)]
    affine = np.asarray(image.affine, np.float64)
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    return array.transpose(order), affine[:, [*order, 3]]


def _finite(values: NDArray[Any], file: Path) -> NDArray[Any]:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"{file}: holds values that are not finite; replace them before you scale them")
    return values


def _shape_of(values: NDArray[Any]) -> str:
    s, h, w = values.shape[:3]
    return f"{w}x{h} pixels" + (f" in {s} slices" if s > 1 else "")
