"""Samples as DICOM segmentations: read back they are the maps, on the grid and in the study of the series they are of."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stochseg.data.dicom_files import read_segmentation, read_series
from stochseg.data.dicom_seg import write_segmentations
from stochseg.data.store import ClassInfo
from stochseg.errors import InputError
from stochseg.sample_files import sample_files

from .test_tiles import small

highdicom = pytest.importorskip("highdicom.seg", reason='needs highdicom: pip install "stochseg[medical]"')
pydicom = pytest.importorskip("pydicom")

CLASSES = (ClassInfo("nothing", (0, 0, 0)), ClassInfo("Läsion", (230, 85, 50)), ClassInfo("halo", (0, 90, 200)))
STUDY: dict[str, Any] = {
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.70",
    "FrameOfReferenceUID": "1.2.826.0.1.3680043.8.498.71",
    "PatientName": "Doe^Jane",
    "WindowCenter": 0,
    "WindowWidth": 2000,
}
TURNED = {"PixelSpacing": [0.7, 0.5], "ImageOrientationPatient": [0.8, 0.6, 0, -0.6, 0.8, 0]}


def series(folder: Path, slices: int = 4, **tags: Any) -> list[Path]:
    """A series of 20x24 pixels, the files' names in the opposite order of their places."""
    from .made_dicom import write_series

    stored = np.random.default_rng(0).integers(0, 2000, (slices, 20, 24)).astype(np.int16)
    write_series(folder, stored, backwards=True, **STUDY | tags)
    return sorted(folder.iterdir())


def test_segmentations_are_the_maps_where_the_series_lies(tmp_path: Path) -> None:
    files = series(tmp_path / "ct", **TURNED)
    source = read_series(files)
    maps = np.zeros((3, 4, 20, 24), np.uint8)  # the last sample is empty
    maps[0, 1, 3:6, 4:9], maps[0, 2, 8:12, 2:5], maps[0, 3, 0, 0] = 1, 2, 1
    maps[1, 2, 5:9, 5:9] = 2
    mean = np.stack([(maps == c).mean(0) for c in range(3)])
    write_segmentations(tmp_path, maps, mean, CLASSES, files)
    names = [f"samples/{n:04d}.dcm" for n in (1, 2, 3)]
    assert sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*.dcm") if "ct" not in f.parts) == [
        "mean.dcm",
        *names,
    ]
    sets = [pydicom.dcmread(tmp_path / name) for name in [*names, "mean.dcm"]]
    for name, one in zip(names, maps):
        assert np.array_equal(read_segmentation(tmp_path / name, (20, 24), source.uids), one)

    first = sets[0]
    assert (first.Modality, first.SegmentationType) == ("SEG", "BINARY")
    assert (first.StudyInstanceUID, first.FrameOfReferenceUID) == tuple(STUDY.values())[:2]
    assert (str(first.PatientName), first.PatientID) == ("Doe^Jane", "P1")
    assert [s.SegmentLabel for s in first.SegmentSequence] == ["Läsion", "halo"]
    shared = first.SharedFunctionalGroupsSequence[0]
    assert list(shared.PixelMeasuresSequence[0].PixelSpacing) == TURNED["PixelSpacing"]
    assert list(shared.PlaneOrientationSequence[0].ImageOrientationPatient) == TURNED["ImageOrientationPatient"]
    frames = [
        (
            int(facts.SegmentIdentificationSequence[0].ReferencedSegmentNumber),
            [float(x) for x in facts.PlanePositionSequence[0].ImagePositionPatient],
        )
        for facts in first.PerFrameFunctionalGroupsSequence
    ]
    assert sorted(frames) == [(1, [-10, -20, 2]), (1, [-10, -20, 6]), (2, [-10, -20, 4])]

    assert len({str(s.SeriesInstanceUID) for s in sets}) == 1
    assert len({str(s.SOPInstanceUID) for s in sets}) == 4
    assert [int(s.InstanceNumber) for s in sets] == [1, 2, 3, 4]
    (tmp_path / "again").mkdir()
    write_segmentations(tmp_path / "again", maps, mean, CLASSES, files)
    assert pydicom.dcmread(tmp_path / "again" / names[0]).SOPInstanceUID == first.SOPInstanceUID


def test_another_reader_finds_the_same_volume(tmp_path: Path) -> None:
    files = series(tmp_path / "ct", **TURNED)
    maps = np.random.default_rng(1).integers(0, 3, (2, 4, 20, 24), np.uint8)
    mean = np.stack([(maps == c).mean(0) for c in range(3)])
    write_segmentations(tmp_path, maps, mean, CLASSES, files)
    affine = read_series(files).affine
    volume = highdicom.segread(tmp_path / "samples/0002.dcm").get_volume(combine_segments=True)
    steps = np.linalg.inv(affine) @ volume.affine  # from voxels of the reader's volume to slice, row, column of ours
    for index in np.random.default_rng(2).integers(0, volume.array.shape, (50, 3)):
        at = np.rint(steps @ [*index, 1])[:3].astype(int)
        assert volume.array[tuple(index)] == maps[(1, *at)]
    shares = highdicom.segread(tmp_path / "mean.dcm")
    assert (shares.SegmentationType, shares.SegmentationFractionalType) == ("FRACTIONAL", "PROBABILITY")
    values = shares.get_volume(rescale_fractional=True)
    assert np.allclose(np.unique(np.round(values.array, 2)), [0, 0.5, 1])
    assert np.isclose(values.array.sum(), (maps > 0).mean(0).sum(), rtol=0.01)


def test_the_command_writes_them_for_a_series_and_for_one_slice(tmp_path: Path) -> None:
    small().save(tmp_path / "model")
    files = series(tmp_path / "ct", PatientSex="U")  # what the standard does not know
    written = sample_files(
        tmp_path / "model", [tmp_path / "ct", files[1]], tmp_path / "out", samples=2, format="dicom-seg"
    ).written
    for folder, uids in zip(written, (read_series(files).uids, read_series(files[1:2]).uids)):
        maps = np.load(folder / "samples.npz")["maps"].reshape(2, -1, 20, 24)
        assert 0 < maps.mean() < 1
        for n in range(2):
            found = read_segmentation(folder / "samples" / f"{n + 1:04d}.dcm", (20, 24), uids)
            assert np.array_equal(found, maps[n])
    assert json.loads((written[0] / "summary.json").read_text())["format"] == "dicom-seg"


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"FrameOfReferenceUID": None}, "lacks FrameOfReferenceUID, to which a SEG refers; take --format nifti"),
        ({"StudyInstanceUID": None}, "lacks StudyInstanceUID"),
    ],
)
def test_a_series_that_a_seg_cannot_refer_to(tags: dict[str, Any], message: str, tmp_path: Path) -> None:
    small().save(tmp_path / "model")
    files = series(tmp_path / "ct", slices=1)
    for file in files:
        data = pydicom.dcmread(file)
        for tag in tags:
            del data[tag]
        data.save_as(file)
    with pytest.raises(InputError, match=message):
        sample_files(tmp_path / "model", [tmp_path / "ct"], tmp_path / "out", format="dicom-seg")
    assert not (tmp_path / "out" / "ct").exists()


def test_other_images_have_no_series_to_refer_to(tmp_path: Path) -> None:
    small().save(tmp_path / "model")
    np.save(tmp_path / "a.npy", np.zeros((20, 24), np.uint8))
    with pytest.raises(InputError, match="a.npy: --format dicom-seg is for DICOM images.*nifti or png"):
        sample_files(tmp_path / "model", [tmp_path / "a.npy"], tmp_path / "out", format="dicom-seg")
