"""Samples as DICOM segmentations (SEG, PS3.3 A.51) of the series that they are of, through highdicom.

One file a sample, BINARY, a segment for each class but 0 with the class's name and colour; and the mean of all samples,
FRACTIONAL. All are one series of the same study, on the grid and in the frame of reference of the source, and each frame
names the source image that it lies on. A class name is no coded concept, so segments are typed by codes of a scheme of our
own (99STOCHSEG, as PS3.16 section 8 provides for), within a category of the standard that promises nothing about the class.
"""

import warnings
from collections.abc import Sequence
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stochseg.data.dicom_files import read_headers
from stochseg.data.store import ClassInfo
from stochseg.errors import InputError

NEEDED = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
)
"""What the source must say of itself; a file of several frames has the last three among what its frames share."""
EMPTY_IF_UNKNOWN = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
)
"""Type 2: a SEG must have them and may leave them empty; files without names often lack them."""
SERIES_NUMBER = 9900
"""Of the segmentations; far from the small numbers of scanners."""
STEPS = 255
"""Steps from 0 to 1 of probabilities."""


def check_source(file: Path, files: Sequence[Path]) -> None:
    """InputError unless `write_segmentations` can refer to these files; file: the image that they are, for the message."""
    _highdicom()
    if not files:
        raise InputError(f"{file}: --format dicom-seg is for DICOM images, to which a SEG refers; take nifti or png")
    for source in read_headers(files):
        lacking = [tag for tag in NEEDED if tag not in source and "SharedFunctionalGroupsSequence" not in source]
        if lacking:
            raise InputError(
                f"{source.filename}: lacks {', '.join(lacking)}, to which a SEG refers; take --format nifti"
            )


def write_segmentations(
    folder: Path,
    maps: NDArray[np.uint8],
    mean: NDArray[np.floating],
    classes: Sequence[ClassInfo],
    files: Sequence[Path],
) -> None:
    """Write samples/0001.dcm, ... and mean.dcm below a folder.

    maps: [n s h w]; mean: [k s h w]; files: of the source series, of s slices. Identifiers depend on the source and the
    maps alone: the same samples have the same ones. Raises InputError where the source is not as the standard wants it.
    """
    sources = [_completed(one) for one in read_headers(files)]
    digest = sha256(b"".join([sources[0].SeriesInstanceUID.encode(), maps.tobytes(), mean.tobytes()])).hexdigest()
    described = _descriptions(classes)

    def write(file: Path, values: NDArray[Any], number: int, said: str, kind: str) -> None:
        hd, uid = _highdicom(), import_module("pydicom.uid").generate_uid
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of names that are not "family^given"
                seg = hd.seg.Segmentation(
                    sources,
                    values,
                    kind,
                    described,
                    series_instance_uid=uid(entropy_srcs=[digest]),
                    series_number=SERIES_NUMBER,
                    sop_instance_uid=uid(entropy_srcs=[digest, str(number)]),
                    instance_number=number,
                    manufacturer="stochseg",
                    manufacturer_model_name="stochseg",
                    software_versions=_version(),
                    device_serial_number="0",
                    content_description=said,
                    series_description=f"stochseg: {len(maps)} samples",
                    max_fractional_value=STEPS,
                    omit_empty_frames=bool(values.any()),
                    specific_character_set="ISO_IR 192",
                )
                seg.save_as(file)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise InputError(f"{files[0]}: no SEG can refer to it ({error}); take --format nifti") from error

    (folder / "samples").mkdir()
    for number, one in enumerate(maps, 1):
        write(folder / "samples" / f"{number:04d}.dcm", one, number, f"sample {number} of {len(maps)}", "BINARY")
    shares = np.moveaxis(mean[1:], 0, -1).astype(np.float32)
    write(folder / "mean.dcm", shares, len(maps) + 1, f"mean of {len(maps)} samples", "FRACTIONAL")


def _highdicom() -> Any:
    try:
        import_module("highdicom.seg")
        return import_module("highdicom")
    except ImportError as error:
        raise InputError(
            '--format dicom-seg: takes highdicom, which is not installed; run `pip install "stochseg[medical]"`'
        ) from error


def _version() -> str:
    from stochseg import __version__

    return __version__


def _completed(source: Any) -> Any:
    """The header with what a SEG copies from it: empty where it is unknown, and no sex that the standard does not know."""
    for tag in EMPTY_IF_UNKNOWN:
        if tag not in source:
            setattr(source, tag, "")
    if source.get("PatientSex") not in ("M", "F", "O"):
        source.PatientSex = ""
    return source


def _descriptions(classes: Sequence[ClassInfo]) -> list[Any]:
    """The segments: classes 1 to k - 1."""
    hd, codes = _highdicom(), import_module("pydicom.sr.codedict").codes
    algorithm = hd.AlgorithmIdentificationSequence("stochseg", codes.DCM.ArtificialIntelligence, _version())
    code = import_module("pydicom.sr.coding").Code
    names = [info.name.replace("\\", "/")[:64] for info in classes]
    return [
        hd.seg.SegmentDescription(
            number,
            names[number],
            codes.cid7150.SpatialAndRelationalConcept,
            code(str(number), "99STOCHSEG", names[number]),
            "AUTOMATIC",
            algorithm,
            display_color=hd.color.CIELabColor.from_rgb(*classes[number].color),
        )
        for number in range(1, len(classes))
    ]
