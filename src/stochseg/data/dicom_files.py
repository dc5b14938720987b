"""DICOM through pydicom: the slices of a series with their place in space, and segmentations (SEG) of them.

Values are those that the file means: rescale slope and intercept are applied (Hounsfield units of CT), MONOCHROME1 is
turned so that more is brighter, and colour comes as RGB.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stochseg.data.images import MAX_PIXELS
from stochseg.errors import InputError

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
"""SOP class of a segmentation, DICOM PS3.3 A.51."""
DEFLATED = "1.2.840.10008.1.2.1.99"
"""Transfer syntax of files that are packed as a whole, PS3.5 A.5."""
APART = 1e-3
"""Two places in space that are farther from each other than this many millimetres are not the same."""


@dataclass(frozen=True)
class Series:
    """Slices in the order of their places in space.

    values: [s h w c]; window: what the file shows as black and white, or None; uids: the SOP instance UID of each
    slice; affine: [4 4], from (slice, row, column) to millimetres in DICOM's patient space (left, posterior, superior).
    """

    values: NDArray[Any]
    window: tuple[float, float] | None
    uids: tuple[str, ...]
    affine: NDArray[np.float64] | None


def read_series(files: Sequence[Path]) -> Series:
    """The slices of one file, or of the files of one series sorted by place.

    Raises InputError for files that are no images, of different series or sizes, or two at one place.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of every departure from the standard, which is harmless here
        try:
            return _read_series(files)
        except (ValueError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{files[0]}: its header is damaged ({error}); copy it again") from error


def _read_series(files: Sequence[Path]) -> Series:
    sets = [open_dicom(file) for file in files]
    for file, one in zip(files, sets):
        if "PixelData" not in one or one.get("SOPClassUID") == SEGMENTATION:
            what = (
                "segmentation"
                if one.get("SOPClassUID") == SEGMENTATION
                else f"file of modality {one.get('Modality', 'unknown')}"
            )
            raise InputError(f"{file}: a DICOM {what}, which is no image; leave it out of the images")
        if one.get("SeriesInstanceUID") != sets[0].get("SeriesInstanceUID"):
            raise InputError(f"{files[0]} and {file}: of two series; put each series into a folder of its own")
    if len(sets) > 1:
        files, sets = _by_place(files, sets)
        for i in range(1, len(sets)):
            if _depth(sets[i], files[i]) - _depth(sets[i - 1], files[i - 1]) < APART:
                raise InputError(f"{files[i - 1]} and {files[i]}: two slices at one place; keep one of them")
    slices = [_values(one, file) for one, file in zip(sets, files)]
    for file, one in zip(files, slices):
        if one.shape[1:] != slices[0].shape[1:]:
            raise InputError(f"{files[0]} and {file}: slices of one series differ in size; resample or part them")
    uids = tuple(str(one.get("SOPInstanceUID", "")) for one, values in zip(sets, slices) for _ in range(len(values)))
    return Series(np.concatenate(slices), _window(sets[0]), uids, _affine(sets))


def open_dicom(file: Path, tags: Sequence[str] | None = None, pixels: bool = True) -> Any:
    """The data set of a file, or only some of its tags, or all but its pixels; InputError where it is none or damaged."""
    try:
        pydicom = import_module("pydicom")
    except ImportError as error:
        raise InputError(
            f'{file}: DICOM takes pydicom, which is not installed; run `pip install "stochseg[medical]"`'
        ) from error
    try:
        meta = pydicom.filereader.read_file_meta_info(file)
        if meta.get("TransferSyntaxUID") == DEFLATED:
            raise InputError(f"{file}: a deflated DICOM file, which may unpack to any size; store it uncompressed")
        return pydicom.dcmread(file, stop_before_pixels=tags is not None or not pixels, specific_tags=tags)
    except InputError:
        raise
    except (OSError, ValueError, EOFError, KeyError, AttributeError, pydicom.errors.InvalidDicomError) as error:
        text = " ".join(str(error).split()).split(" Use force")[0]
        raise InputError(f"{file}: cannot be read as DICOM ({text}); copy it again") from error


def read_headers(files: Sequence[Path]) -> list[Any]:
    """The data sets of the files of a series without their pixels, in the order of `read_series`."""
    sets = [open_dicom(file, pixels=False) for file in files]
    return _by_place(files, sets)[1] if len(sets) > 1 else sets


def read_segmentation(file: Path, size: tuple[int, int], uids: Sequence[str]) -> NDArray[np.uint8]:
    """Segment numbers [s h w], 0 being none, of a binary SEG for the slices of these SOP instance UIDs and this size.

    Raises InputError where it is no SEG, fractional, of another size, or of slices that are not there.
    """
    seg = open_dicom(file)
    if seg.get("SOPClassUID") != SEGMENTATION:
        raise InputError(f"{file}: is no DICOM segmentation; labels of a series are a SEG, or one file a slice")
    if seg.get("SegmentationType") != "BINARY":
        raise InputError(f"{file}: segmentation of type {seg.get('SegmentationType')}; BINARY is read, convert it")
    frames = _pixels(seg, file)
    if frames.shape[1:3] != size:
        h, w = size
        raise InputError(f"{file}: segments of {frames.shape[2]}x{frames.shape[1]} pixels, the image has {w}x{h}")
    row_of = {uid: row for row, uid in enumerate(uids)}
    ids = np.zeros((len(uids), *size), np.uint8)
    try:
        for frame, facts in zip(frames[..., 0], seg.PerFrameFunctionalGroupsSequence, strict=True):
            shared = seg.get("SharedFunctionalGroupsSequence", [facts])[0]
            source = facts.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
            segment = facts if "SegmentIdentificationSequence" in facts else shared
            number = int(segment.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
            if source not in row_of:
                raise InputError(f"{file}: is of the slice {source}, which the image's series lacks; add that file")
            ids[row_of[source]][frame != 0] = number
    except (AttributeError, IndexError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{file}: does not say which segment and slice each frame is of ({error}); SEGs that name their source "
            "images frame by frame are read"
        ) from error
    return ids


def is_segmentation(file: Path) -> bool:
    """Whether a DICOM file is a SEG."""
    return bool(open_dicom(file, ["SOPClassUID"]).get("SOPClassUID") == SEGMENTATION)


def _pixels(one: Any, file: Path) -> NDArray[Any]:
    """[s h w c] as stored; colour as RGB."""
    frames = int(one.get("NumberOfFrames", 1) or 1)
    h, w, c = (int(one.get(tag, least) or 0) for tag, least in (("Rows", 0), ("Columns", 0), ("SamplesPerPixel", 1)))
    if not 0 < h * w * frames <= MAX_PIXELS * 8:
        raise InputError(f"{file}: {frames} frames of {w}x{h} pixels; from 1 to {MAX_PIXELS * 8} pixels are read")
    try:
        array = np.asarray(one.pixel_array)
        if one.PhotometricInterpretation == "PALETTE COLOR":
            array = import_module("pydicom.pixels").apply_color_lut(array, one)
            c = array.shape[-1]
    except (OSError, ValueError, KeyError, AttributeError, NotImplementedError, RuntimeError) as error:
        text = " ".join(str(error).split())
        cure = "copy it again"
        if "missing" in text or "plugin" in text or "decompress" in text:
            cure = "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg, or store it uncompressed"
        raise InputError(f"{file}: its pixels cannot be read ({text}); {cure}") from error
    return array.reshape(frames, h, w, c)


def _values(one: Any, file: Path) -> NDArray[Any]:
    """[s h w c] after slope and intercept; integers stay integers where these are whole numbers."""
    stored = _pixels(one, file)
    if stored.shape[-1] > 1:
        return stored
    slope, intercept = _rescale(one)
    whole = slope == round(slope) and intercept == round(intercept)
    values: NDArray[Any] = stored if (slope, intercept) == (1, 0) else stored * slope + intercept
    if values is not stored:
        values = values.astype(np.int32 if whole else np.float32)
    if one.get("PhotometricInterpretation") == "MONOCHROME1":
        low, high = _range(one)
        turned = slope * (low + high) + 2 * intercept - values.astype(np.float64)
        values = turned.astype(stored.dtype if values is stored else values.dtype)
    return values


def _rescale(one: Any) -> tuple[float, float]:
    """Slope and intercept, which a file of several frames has among what its frames share."""
    for shared in one.get("SharedFunctionalGroupsSequence", []):
        for transformation in shared.get("PixelValueTransformationSequence", []):
            one = transformation
    return float(one.get("RescaleSlope", 1) or 1), float(one.get("RescaleIntercept", 0) or 0)


def _range(one: Any) -> tuple[int, int]:
    """The least and greatest value that can be stored."""
    bits = int(one.get("BitsStored", 8))
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if one.get("PixelRepresentation", 0) else (0, 2**bits - 1)


def _window(one: Any) -> tuple[float, float] | None:
    """The first window that a file names, after slope and intercept."""
    centre, width = (_first(one.get(tag)) for tag in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None or width < 1:
        return None
    low, high = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2  # PS3.3 C.11.2.1.2
    if one.get("PhotometricInterpretation") == "MONOCHROME1":
        slope, intercept = _rescale(one)
        turn = slope * sum(_range(one)) + 2 * intercept
        low, high = turn - high, turn - low
    return (low, high) if high > low else None


def _first(value: Any) -> float | None:
    several = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    try:
        return float(several[0])
    except (TypeError, ValueError, IndexError):
        return None


def _axes(one: Any) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]] | None:
    """Where a file's first pixel lies, and the directions of columns (along a row) and of rows; None if it is silent."""
    position, orientation = one.get("ImagePositionPatient"), one.get("ImageOrientationPatient")
    if not position or not orientation or len(position) != 3 or len(orientation) != 6:
        return None
    axes = np.asarray(orientation, np.float64)
    return np.asarray(position, np.float64), axes[:3], axes[3:]


def _by_place(files: Sequence[Path], sets: Sequence[Any]) -> tuple[list[Path], list[Any]]:
    order = np.argsort([_depth(one, file) for one, file in zip(sets, files)], kind="stable")
    return [files[i] for i in order], [sets[i] for i in order]


def _depth(one: Any, file: Path) -> float:
    """How far along the direction of its slices a file lies."""
    axes = _axes(one)
    if axes is None:
        raise InputError(f"{file}: one of several slices that does not say where it lies; give it without the others")
    return float(np.cross(axes[1], axes[2]) @ axes[0])


def _affine(sets: Sequence[Any]) -> NDArray[np.float64] | None:
    axes, spacing = _axes(sets[0]), sets[0].get("PixelSpacing")
    if axes is None or not spacing or len(spacing) != 2:
        return None
    position, along_row, along_column = axes
    last = _axes(sets[-1])
    if len(sets) > 1 and last is not None:
        step = (last[0] - position) / (len(sets) - 1)
    else:
        step = np.cross(along_row, along_column) * float(sets[0].get("SliceThickness") or 1)
    affine = np.eye(4)
    affine[:3] = np.stack([step, along_column * float(spacing[0]), along_row * float(spacing[1]), position], 1)
    return affine
