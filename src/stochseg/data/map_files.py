"""One file of class maps, whatever program wrote it: NPY, NPZ, PNG or NIfTI, checked down to the class ids.

A file gives a stack [s m h w]: m maps of each of s images. Only a NIfTI volume has more than one image: its slices.
"""

import io
import zipfile
import zlib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from stochseg.data.images import binary, check_size, decode_grey, size_of
from stochseg.data.reading import open_zip, reads
from stochseg.data.store import MISSING_RATER
from stochseg.errors import InputError

Array = NDArray[Any]

SUFFIXES = (".npy", ".npz", ".png", ".nii", ".nii.gz")
FOREIGN = (".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".mat", ".pkl", ".pt", ".nrrd", ".mha", ".mhd")
"""Formats in which maps may lie that are not read: left out in silence they would be missing raters."""
MAX_BYTES = 8 * 2**30
"""A file that says that it holds more is refused before any memory is taken for it."""
SUM_TOLERANCE = 0.02
"""How far from 1 the probabilities of a pixel may add up: what rounding to bfloat16 does."""

GREY_STEPS = {2: 85, 4: 17}
"""PIL spreads greys of 2 and 4 bits over 0 to 255; this is the step from one value to the next."""
DAMAGE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError)
"""What reading a damaged file may raise."""

_PALETTE = 3


@dataclass(frozen=True)
class Stack:
    """maps: uint8 [s m h w]; weights: float64 [m] where the file holds some; affine: float64 [4 4] of a NIfTI file."""

    maps: NDArray[np.uint8]
    weights: NDArray[np.float64] | None = None
    affine: NDArray[np.float64] | None = None


def suffix_of(file: Path) -> str:
    """The suffix in small letters, `.nii.gz` in one."""
    return ".nii.gz" if file.name.lower().endswith(".nii.gz") else file.suffix.lower()


@reads
def read_stack(file: Path, classes: int, missing: bool = False) -> Stack:
    """The maps of a file as class ids below `classes`; with `missing` a whole map of 255 may be among them.

    InputError of one line for anything else, for probabilities without a class axis, for damaged files, and for
    arrays that only a pickle can hold.
    """
    match suffix_of(file):
        case ".png":
            return Stack(_checked(_read_png(file, classes)[None, None], file, classes, missing))
        case ".npy":
            return Stack(_checked(_as_ids(_read_npy(file), file, classes)[None], file, classes, missing))
        case ".npz":
            maps, weights = _read_npz(file)
            ids = _as_ids(maps, file, classes)
            return Stack(_checked(ids[None], file, classes, missing), _as_weights(weights, len(ids), file))
        case ".nii" | ".nii.gz":
            volume, affine = _read_nifti(file)
            ids = _whole_numbers(volume, file)
            return Stack(
                _checked(np.ascontiguousarray(ids.transpose(2, 3, 0, 1)), file, classes, missing), None, affine
            )
    raise InputError(f"{file}: not a file of maps; {', '.join(SUFFIXES)} are read")


@reads
def stack_shape(file: Path) -> tuple[int, int]:
    """(s, m) of a file from its header alone; what is wrong with the file, `read_stack` says."""
    match suffix_of(file):
        case ".npy":
            shape = _read_npy(file).shape
        case ".npz":
            with _opened(file) as archive:
                shape = _npz_header(archive, _maps_name(archive, file), file)
        case ".nii" | ".nii.gz":
            return _nifti_shape(load_nifti(file), file)[2:]
        case _:
            return 1, 1
    return 1, shape[0] if len(shape) > 2 else 1


def _read_png(file: Path, classes: int) -> Array:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    return png_values(data, str(file), classes)


def png_values(data: bytes, where: str, classes: int) -> Array:
    """The grey values or palette indices [h w] of a PNG; with two classes 0 and 255 are 0 and 1."""
    size_of(data, where)
    depth, colours = data[24], data[25]
    if colours == _PALETTE:
        try:
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                check_size(image, data)
                pixels: Array = np.asarray(image)
        except UnidentifiedImageError as error:  # whose text is the stream's address
            raise InputError(f"{where}: the PNG is damaged or cut short; copy or unpack it again") from error
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"{where}: damaged PNG ({error}); copy or unpack it again") from error
    else:
        pixels = decode_grey(data, where, kind="map of class ids (grey values or palette indices)")
        if colours == 0 and depth in GREY_STEPS:
            pixels = pixels // GREY_STEPS[depth]
    return binary(pixels, where) if classes == 2 else pixels


def _read_npy(file: Path) -> Array:
    try:
        opened: Array = np.load(file, mmap_mode="r", allow_pickle=False)
    except DAMAGE as error:
        raise damaged(file, "NPY", error) from error
    if not isinstance(opened, np.ndarray):
        raise InputError(f"{file}: its content is not that of an .npy; give it the suffix .npz")
    return opened


def _read_npz(file: Path) -> tuple[Array, Array | None]:
    with _opened(file) as archive:
        names = {"maps": _maps_name(archive, file)} | ({"weights": "weights"} if _holds(archive, "weights") else {})
        for name in names.values():
            _npz_header(archive, name, file)
    try:
        with np.load(file, allow_pickle=False) as opened:
            arrays = {what: opened[name] for what, name in names.items()}
    except DAMAGE as error:
        raise damaged(file, "NPZ", error) from error
    return arrays["maps"], arrays.get("weights")


def _opened(file: Path) -> zipfile.ZipFile:
    try:
        return open_zip(file)
    except DAMAGE as error:
        raise damaged(file, "NPZ", error) from error


def _holds(archive: zipfile.ZipFile, name: str) -> bool:
    return f"{name}.npy" in archive.namelist()


def _maps_name(archive: zipfile.ZipFile, file: Path) -> str:
    """`maps`, or the only array there is beside `weights`."""
    names = [name.removesuffix(".npy") for name in archive.namelist()]
    others = [name for name in names if name != "weights"]
    if "maps" in names:
        return "maps"
    if not others:
        raise InputError(f"{file}: holds no maps; save an array named 'maps', [n h w]")
    if len(others) > 1:
        raise InputError(f"{file}: holds the arrays {', '.join(names)}; one array is read, or the one named 'maps'")
    return others[0]


def _npz_header(archive: zipfile.ZipFile, name: str, file: Path) -> tuple[int, ...]:
    """The shape that an array declares; InputError where it does not fit the bytes that are there."""
    info = archive.getinfo(f"{name}.npy") if _holds(archive, name) else archive.getinfo(name)
    try:
        with archive.open(info) as stream:
            version = np.lib.format.read_magic(stream)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = reader(stream)
    except (*DAMAGE, RuntimeError) as error:
        raise damaged(file, "NPZ", error) from error
    if not dtype.hasobject:
        check_bytes(int(np.prod(shape, dtype=object)) * dtype.itemsize, file, info.file_size)
    return tuple(shape)


def check_bytes(needed: int, file: Path, there: int = MAX_BYTES) -> None:
    """InputError where a file declares more bytes than it holds, or than are read."""
    if needed > there:
        raise InputError(f"{file}: damaged: it declares {needed} bytes and holds {there}; write it again")
    if needed > MAX_BYTES:
        raise InputError(f"{file}: declares {needed} bytes; up to {MAX_BYTES} are read: split the file")


def damaged(file: Path, kind: str, error: Exception) -> InputError:
    """The error of a file that cannot be read, in words."""
    if "Python objects" in str(error) or "Object arrays" in str(error):
        return InputError(
            f"{file}: holds an array of Python objects, which only a pickle can hold and which is never loaded; "
            "save one array of integers (np.stack the maps)"
        )
    text = " ".join(str(error).split()) or type(error).__name__
    if "allow_pickle" in text:  # numpy takes whatever it does not know for a pickle
        text = "it is none"
    elif "mmap length" in text:
        text = "it is cut short"
    return InputError(f"{file}: cannot be read as {kind} ({text}); write or copy it again")


def load_nifti(file: Path) -> Any:
    """The file as nibabel opens it, its voxels still unread."""
    try:
        nibabel = import_module("nibabel")
    except ImportError as error:
        raise InputError(
            f'{file}: NIfTI takes nibabel, which is not installed; run `pip install "stochseg[medical]"`'
        ) from error
    try:
        return nibabel.load(file)
    except (*DAMAGE, nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError) as error:
        raise damaged(file, "NIfTI", error) from error


def nifti_bytes(image: Any) -> int:
    """What the voxels of a NIfTI file take in memory: those with a slope become float64."""
    plain = (image.dataobj.slope, image.dataobj.inter) == (1, 0)
    return int(np.prod(image.shape, dtype=object)) * (image.get_data_dtype().itemsize if plain else 8)


def _nifti_shape(image: Any, file: Path) -> tuple[int, int, int, int]:
    """(h, w, s, m): the third axis of a NIfTI file is that of slices, the fourth that of maps."""
    shape = tuple(image.shape)
    if not 2 <= len(shape) <= 4 or 0 in shape or image.get_data_dtype().kind not in "biuf":
        raise InputError(
            f"{file}: NIfTI of {image.get_data_dtype()} and shape {list(shape)}; "
            "class ids as [h w], [h w slices] or [h w slices maps] are read"
        )
    check_bytes(nifti_bytes(image), file)
    h, w, s, m = shape + (1,) * (4 - len(shape))
    return h, w, s, m


def _read_nifti(file: Path) -> tuple[Array, NDArray[np.float64]]:
    image = load_nifti(file)
    shape = _nifti_shape(image, file)
    try:
        return np.asanyarray(image.dataobj).reshape(shape), np.asarray(image.affine, np.float64)
    except DAMAGE as error:
        raise damaged(file, "NIfTI", error) from error


def _as_ids(array: Array, file: Path, classes: int) -> NDArray[Any]:
    """Class ids [m h w] of an array [h w], [m h w], or [m k h w] that is one-hot or holds probabilities."""
    if array.dtype.kind not in "biuf":
        raise InputError(f"{file}: array of {array.dtype}; save class ids as integers")
    if 0 in array.shape:
        raise InputError(f"{file}: shape {list(array.shape)} holds no pixel; save maps [n h w], or leave the image out")
    if not 2 <= array.ndim <= 4:
        raise InputError(
            f"{file}: shape {list(array.shape)}; maps of one image are [n h w], one file an image: split it"
        )
    if array.ndim == 4:
        return _likeliest(array, file, classes)
    ids = _whole_numbers(array, file)
    if array.ndim == 3 and array.dtype.kind == "f" and len(array) == classes and (array.sum(0) == 1).all():
        raise InputError(
            f"{file}: {array.dtype} of shape {list(array.shape)} may be one map, one-hot, or {classes} maps; "
            f"save class ids [n h w] as integers, or [1 {classes} h w]"
        )
    return ids if array.ndim == 3 else ids[None]


def _likeliest(array: Array, file: Path, classes: int) -> NDArray[Any]:
    shape = list(array.shape)
    if array.shape[1] != classes:
        raise InputError(
            f"{file}: shape {shape}; class ids are [n h w], and probabilities [n k h w] with k = {classes} classes"
        )
    total = array.sum(1, dtype=np.float32 if array.dtype.kind == "f" else np.int64)
    nobody = ~array.any((1, 2, 3))  # one-hot without any class is a missing rater
    off = np.abs(total[~nobody] - 1).max(initial=0)
    if not (array.min() >= 0 and off <= SUM_TOLERANCE):
        raise InputError(
            f"{file}: shape {shape} with values {array.min():g} to {array.max():g} that do not add up to 1 over the "
            "classes; save the softmax, or its argmax [n h w]"
        )
    ids: NDArray[Any] = array.argmax(1)
    ids[nobody] = MISSING_RATER
    return ids


def _whole_numbers(array: Array, file: Path) -> NDArray[Any]:
    """The same array where it holds whole numbers, in whatever type."""
    if array.dtype.kind == "f" and not (array == np.rint(array)).all():
        odd = array[array != np.rint(array)].flat[0]
        raise InputError(
            f"{file}: holds the value {odd:g}; class ids are whole numbers: threshold or argmax probabilities, or save "
            "them as an array [n k h w] that adds up to 1 over the k classes"
        )
    return array


def _checked(ids: NDArray[Any], file: Path, classes: int, missing: bool) -> NDArray[np.uint8]:
    """Ids [s m h w] as uint8, all below `classes` but in whole maps of 255, where those may be."""
    low, high = ids.min(), ids.max()
    if low < 0 or (high >= classes and high != MISSING_RATER):
        raise InputError(
            f"{file}: holds class {low if low < 0 else high:g}, --classes {classes} takes 0 to {classes - 1}; "
            "raise --classes or renumber the map"
        )
    maps = ids.astype(np.uint8)
    if high == MISSING_RATER:
        lows, highs = maps.min((2, 3)), maps.max((2, 3))
        if ((highs == MISSING_RATER) & (lows != MISSING_RATER)).any():
            raise InputError(
                f"{file}: holds 255 in a part of a map; only a whole map of 255 has a meaning, a missing rater: "
                "renumber masks 0/255 to 0/1, and give pixels to ignore a class id of their own (--ignore)"
            )
        if not missing:
            raise InputError(
                f"{file}: holds a map of 255 throughout, a missing rater, which only labels may have; renumber masks "
                "0/255 to 0/1"
            )
        present = np.where(highs == MISSING_RATER, 0, highs)
        if int(present.max()) >= classes:
            raise InputError(
                f"{file}: holds class {int(present.max())}, --classes {classes} takes 0 to {classes - 1}; "
                "raise --classes or renumber the map"
            )
    return maps


def _as_weights(weights: Array | None, maps: int, file: Path) -> NDArray[np.float64] | None:
    if weights is None:
        return None
    if weights.shape != (maps,) or weights.dtype.kind not in "biuf":
        raise InputError(
            f"{file}: weights are {weights.dtype} of shape {list(weights.shape)}; give one number a map, {maps} in all"
        )
    bad = weights[~((weights >= 0) & (weights < np.inf))]
    if bad.size:
        raise InputError(f"{file}: weights hold {bad[0]:g}; give numbers from 0 up")
    if not weights.any():
        raise InputError(f"{file}: weights are all 0; give at least one map a weight above 0")
    return weights.astype(np.float64)
