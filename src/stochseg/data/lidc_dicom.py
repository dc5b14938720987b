"""LIDC-IDRI as The Cancer Imaging Archive gives it: CT series in DICOM and the XML readings of four radiologists.

A row of the store is a square around one nodule on one slice, at the pixels of the scan, with the mask of each reader;
a reader who outlined nothing of this nodule there has an empty mask. Other nodules in the square are not marked.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stochseg.data.dicom_files import open_dicom, read_series
from stochseg.data.lidc_files import natural
from stochseg.data.lidc_readings import READERS, Reading, Readings, mask_of, read_readings, same_nodule
from stochseg.data.pixel_files import DICOM, Window, to_bytes
from stochseg.data.store import MISSING_RATER, Split
from stochseg.data.workers import FEW_FILES, Workers, cores
from stochseg.errors import InputError
from stochseg.progress import say, track
from stochseg.wording import counted

Z_APART = 1e-3

_TAGS = ["SOPInstanceUID", "SeriesInstanceUID", "PatientID", "Modality", "Rows", "Columns", "PixelSpacing"]
_TAGS += ["ImagePositionPatient"]


@dataclass(frozen=True)
class DicomSlice:
    """One nodule on one slice: the place (top, left) of its square, and who was there to outline it."""

    id: str
    patient: str
    split: str | None
    file: Path
    place: tuple[int, int]
    readings: tuple[Reading, ...]
    sessions: int


@dataclass(frozen=True)
class _Header:
    file: Path
    uid: str
    series: str
    patient: str
    z: float
    size: tuple[int, int]
    spacing: tuple[float, float]


class DicomSource:
    """Nodule slices of all series below a folder that have readings."""

    kind = "DICOM series with XML readings"
    raters = READERS

    def __init__(self, slices: list[DicomSlice], size: int, window: Window, left_out: Sequence[str]) -> None:
        self.slices, self._window, self.left_out = slices, window, left_out
        self.image_shape = (size, size, 1)

    def fill(self, split: Split, chosen: Sequence[int]) -> None:
        """Read the scans of the `chosen` slices and draw their masks."""
        size = self.image_shape[0]
        tasks = [self.slices[n] for n in chosen]
        draw = partial(_draw, size=size, window=self._window)
        with Workers(_workers(len(tasks))) as pool:
            rows = track(pool.each(draw, tasks), len(tasks), f"reading {split.name}", unit="slices")
            for row, (image, masks) in enumerate(rows):
                split.images[row, :, :, 0], split.labels[row] = image, masks


def find_dicom(folder: Path, size: int, window: Window) -> DicomSource:
    """The nodules of all series below a folder with their XML readings, wherever below it these lie.

    Series without readings (and X-rays) are passed over and counted. A series whose readings do not fit it is named and
    left out. Raises InputError where nothing is left.
    """
    if not folder.is_dir():
        raise InputError(f"--dicom {folder}: no such folder")
    xml, places = _list(folder)
    readings, failed = _all_readings(xml)
    wanted = frozenset(readings)
    folders = [(files, wanted) for files in places.values()]
    series: defaultdict[str, list[_Header]] = defaultdict(list)
    slices: list[DicomSlice] = []
    with Workers(_workers(sum(map(len, places.values())))) as pool:
        for headers, problems in track(pool.each(_headers, folders), len(places), "listing", unit="folders"):
            failed += problems
            for header in headers:
                series[header.series].append(header)
        tasks = [(readings[uid], headers, size) for uid, headers in series.items()]
        for found in track(pool.each(_nodules, tasks), len(tasks), "outlining", unit="series"):
            if isinstance(found, str):
                failed.append(found)
            else:
                slices += found
    for message in failed:
        say(f"left out: {message}")
    without = len(readings) - len(series)
    if without:
        say(f"{folder}: {counted(without, 'XML file')} of series that are not there")
    if not slices:
        raise InputError(
            f"--dicom {folder}: {counted(len(places), 'folder')} of DICOM and {counted(len(xml), 'XML file')} below it give "
            "no nodule of 3 mm or more; the folder must hold CT series of LIDC-IDRI and their XML readings"
        )
    scans = len({item.id.rpartition("/nodule-")[0] for item in slices})
    say(f"{folder}: {counted(scans, 'scan')} with nodules of 3 mm or more, squares of {size} pixels")
    return DicomSource(sorted(slices, key=lambda item: natural(item.id)), size, window, failed)


def _workers(files: int) -> int:
    return cores() if files > FEW_FILES else 1


def _list(folder: Path) -> tuple[list[Path], dict[Path, list[Path]]]:
    """The XML files, and the DICOM files by folder."""
    xml: list[Path] = []
    places: defaultdict[Path, list[Path]] = defaultdict(list)
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() == ".xml" and not file.name.startswith("."):
            xml.append(file)
        elif file.suffix.lower() in DICOM and not file.name.startswith("."):
            places[file.parent].append(file)
    return xml, dict(places)


def _all_readings(files: Iterable[Path]) -> tuple[dict[str, Readings], list[str]]:
    """The readings by series, and what cannot be read."""
    readings: dict[str, Readings] = {}
    failed: list[str] = []
    for file in files:
        try:
            found = read_readings(file)
        except InputError as error:
            failed.append(str(error))
            continue
        if found and found.series in readings and found != readings[found.series]:
            failed.append(f"{file}: a second reading of series {found.series}, which differs; the first is taken")
        elif found:
            readings[found.series] = found
    return readings, failed


def _headers(task: tuple[list[Path], frozenset[str]]) -> tuple[list[_Header], list[str]]:
    """The headers of the files of wanted series, and what is wrong with the others."""
    files, wanted = task
    headers, problems = [], []
    for file in files:
        try:
            if header := _header(file, wanted):
                headers.append(header)
        except InputError as error:
            problems.append(str(error))
    return headers, problems


def _nodules(task: tuple[Readings, list[_Header], int]) -> list[DicomSlice] | str:
    """The rows of one series, or what is wrong with it."""
    try:
        return _slices(*task)
    except InputError as error:
        return str(error)


def _header(file: Path, wanted: frozenset[str]) -> _Header | None:
    one = open_dicom(file, _TAGS)
    if one.get("SeriesInstanceUID") not in wanted:
        return None
    try:
        spacing = one.get("PixelSpacing") or (1.0, 1.0)
        return _Header(
            file,
            str(one.SOPInstanceUID),
            str(one.SeriesInstanceUID),
            str(one.PatientID),
            float(one.ImagePositionPatient[2]),
            (int(one.Rows), int(one.Columns)),
            (float(spacing[0]), float(spacing[1])),
        )
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{file}: lacks what a CT slice of LIDC-IDRI has ({error}); copy it again") from error


def _slices(readings: Readings, headers: Sequence[_Header], size: int) -> list[DicomSlice]:
    by_uid = {header.uid: header for header in headers}
    first = headers[0]
    if min(first.size) < size:
        raise InputError(f"{first.file}: {first.size[1]}x{first.size[0]} pixels, smaller than --size {size}; lower it")
    rows = []
    for number, group in enumerate(same_nodule(readings.nodules, first.spacing)):
        outlines = [outline for reading in group for outline in reading.outlines]
        shown = {(o.uid, o.z): _slice_of(o.uid, o.z, by_uid, headers) for o in outlines}
        corners = np.concatenate([o.points for o in outlines])
        middle = (corners.min(0) + corners.max(0) + 1) // 2
        top, left = (
            int(np.clip(centre - size // 2, 0, length - size)) for centre, length in zip(middle[::-1], first.size)
        )
        for header in sorted(set(shown.values()), key=lambda header: header.z):
            here = {key for key, other in shown.items() if other == header}
            drawn = [
                Reading(reading.reader, reading.id, tuple(o for o in reading.outlines if (o.uid, o.z) in here))
                for reading in group
            ]
            if not any(mask_of(reading.outlines, header.size).any() for reading in drawn):
                continue
            id = f"{header.patient}/{readings.series[-8:]}/nodule-{number}/slice-{_rank(header, headers):03d}"
            rows.append(DicomSlice(id, header.patient, None, header.file, (top, left), tuple(drawn), readings.sessions))
    return rows


def _slice_of(uid: str, z: float, by_uid: dict[str, _Header], headers: Sequence[_Header]) -> _Header:
    """The slice that an outline was drawn on: of its SOP instance UID, or where there is none, of its z."""
    if uid in by_uid:
        return by_uid[uid]
    near = [header for header in headers if abs(header.z - z) < Z_APART]
    if not near:
        raise InputError(
            f"{headers[0].file.parent}: the slice {uid or 'without UID'} at z = {z:g}, which its XML outlines, is not "
            "there; download the series again"
        )
    return near[0]


def _rank(header: _Header, headers: Sequence[_Header]) -> int:
    return sum(other.z < header.z for other in headers)


def _draw(item: DicomSlice, size: int, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The square of a slice, uint8 [h w], and its masks, uint8 [r h w]; sessions that are not there are missing raters."""
    values = read_series([item.file]).values[0, :, :, 0]
    top, left = item.place
    part = slice(top, top + size), slice(left, left + size)
    masks = np.zeros((READERS, size, size), np.uint8)
    masks[item.sessions :] = MISSING_RATER
    for reading in item.readings:
        shape = values.shape[0], values.shape[1]
        masks[reading.reader] |= mask_of(reading.outlines, shape)[part].astype(np.uint8)
    return to_bytes(values[part], window), masks
