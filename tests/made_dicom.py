"""DICOM series, segmentations and LIDC readings of known content, written as scanners and archives write them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason='needs pydicom: pip install "stochseg[medical]"')

CT = "1.2.840.10008.5.1.4.1.1.2"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
ROOT = "1.2.826.0.1.3680043.8.498."


def write_slice(file: Path, stored: np.ndarray, uid: str, series: str, z: float, **tags: Any) -> Path:
    """One CT slice: int16 or uint16 [h w] as stored, at z mm; further tags by keyword."""
    data = _data_set(CT, uid)
    data.SeriesInstanceUID, data.PatientID, data.Modality = series, "P1", "CT"
    data.ImagePositionPatient, data.ImageOrientationPatient = [-10.0, -20.0, z], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness = [0.5, 0.5], 2.0
    data.PhotometricInterpretation, data.SamplesPerPixel = "MONOCHROME2", 1
    _set_pixels(data, stored, 16)
    data.PixelRepresentation = int(stored.dtype == np.int16)
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    for name, value in tags.items():
        setattr(data, name, value)
    return _save(data, file)


def write_series(
    folder: Path, stored: np.ndarray, series: str = ROOT + "1", backwards: bool = False, **tags: Any
) -> list[str]:
    """Slices [s h w], 2 mm apart, and their UIDs in the order of z; file names count backwards where asked."""
    uids = [f"{series}.{n + 1}" for n in range(len(stored))]
    for n, (one, uid) in enumerate(zip(stored, uids, strict=True)):
        name = len(stored) - n if backwards else n
        write_slice(folder / f"{name:03d}.dcm", one, uid, series, 2.0 * n, **tags)
    return uids


def write_segmentation(file: Path, segments: np.ndarray, uids: Sequence[str]) -> Path:
    """A binary SEG of segment numbers [s h w]: a frame for each segment on each slice that has it."""
    frames = [(n, s) for n in range(1, int(segments.max()) + 1) for s in range(len(uids)) if (segments[s] == n).any()]
    data = _data_set(SEG, ROOT + "9")
    data.Modality, data.SegmentationType, data.SeriesInstanceUID = "SEG", "BINARY", ROOT + "8"
    data.NumberOfFrames, data.PhotometricInterpretation, data.SamplesPerPixel = len(frames), "MONOCHROME2", 1
    data.Rows, data.Columns = segments.shape[1:]
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 1, 1, 0, 0
    masks = np.stack([segments[s] == n for n, s in frames])
    packed = np.packbits(masks.ravel(), bitorder="little").tobytes()
    data.PixelData = packed + b"\0" * (len(packed) % 2)
    groups = []
    for n, s in frames:
        group, derived, source, number = (pydicom.Dataset() for _ in range(4))
        source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = CT, uids[s]
        derived.SourceImageSequence = [source]
        number.ReferencedSegmentNumber = n
        group.DerivationImageSequence, group.SegmentIdentificationSequence = [derived], [number]
        groups.append(group)
    data.PerFrameFunctionalGroupsSequence = groups
    return _save(data, file)


def _data_set(kind: str, uid: str) -> Any:
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = kind, uid
    return data


def _set_pixels(data: Any, stored: np.ndarray, bits: int) -> None:
    data.Rows, data.Columns = stored.shape
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelData = stored.tobytes()


def _save(data: Any, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(file, enforce_file_format=True)
    return file


# -------------------------------------------------------------------------------------------------- LIDC readings

Roi = tuple[str, float, bool, Sequence[tuple[int, int]]]
"""SOP instance UID, z, inclusion, points (x, y)."""


def nodule(name: str, rois: Sequence[Roi], rated: str = "3") -> str:
    """A reading of one nodule; rated "" leaves the characteristics out, as of nodules below 3 mm."""
    parts = [f"<noduleID>{name}</noduleID>"]
    if rated:
        parts.append(f"<characteristics><subtlety>{rated}</subtlety><malignancy>{rated}</malignancy></characteristics>")
    for uid, z, include, points in rois:
        edges = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in points)
        parts.append(
            f"<roi><imageZposition>{z:.6f}</imageZposition><imageSOP_UID>{uid}</imageSOP_UID>"
            f"<inclusion>{str(include).upper()}</inclusion>{edges}</roi>"
        )
    return f"<unblindedReadNodule>{''.join(parts)}</unblindedReadNodule>"


def write_readings(file: Path, series: str, sessions: Sequence[Sequence[str]]) -> Path:
    """The XML of one scan: the nodules of each reader."""
    readers = "".join(
        f"<readingSession><annotationVersion>3.12</annotationVersion>{''.join(nodules)}"
        "<nonNodule><nonNoduleID>9</nonNoduleID></nonNodule></readingSession>"
        for nodules in sessions
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        '<?xml version="1.0" encoding="UTF-8"?><LidcReadMessage xmlns="http://www.nih.gov" uid="1.3.6">'
        f"<ResponseHeader><SeriesInstanceUid>{series}</SeriesInstanceUid></ResponseHeader>{readers}</LidcReadMessage>"
    )
    return file
