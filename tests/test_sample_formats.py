"""`sample` of NIfTI and DICOM, and its maps as PNG and NIfTI: values, geometry, sizes in millimetres."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stochseg.data.image_files import list_images, name_of, read_image, read_slices
from stochseg.data.space import Space, write_nifti
from stochseg.errors import InputError
from stochseg.sample_files import sample_files
from stochseg.sampling.write import area_facts

from .test_tiles import small

nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")

WINDOW = (-1000.0, 400.0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    small().save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def volume() -> np.ndarray:
    """Three slices [s h w] of 20x24 in Hounsfield units."""
    rows, columns = np.mgrid[:20, :24]
    ball = np.hypot(rows - 9, columns - 12)
    return np.stack([np.where(ball < radius, -100, -900) + 7 * rows for radius in (4, 7, 5)]).astype(np.int16)


def save_nifti(file: Path, volume: np.ndarray, axis: int) -> np.ndarray:
    """The volume [s h w] with its slices along an axis; returns its affine, oblique and of different spacings."""
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn * [0.5, 0.7, 2.5]
    affine[:3, 3] = [3, -4, 5]
    nibabel.save(nibabel.Nifti1Image(np.moveaxis(volume, 0, axis), affine), file)
    return affine


def save_series(folder: Path, volume: np.ndarray) -> None:
    """One file a slice, the files' names in another order than their places."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir()
    series = generate_uid()
    for i, pixels in enumerate(volume):
        one = Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.SOPClassUID, one.SOPInstanceUID, one.SeriesInstanceUID = CTImageStorage, generate_uid(), series
        one.Modality, one.PhotometricInterpretation = "CT", "MONOCHROME2"
        one.Rows, one.Columns = pixels.shape
        one.SamplesPerPixel, one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 1, 16, 16, 15, 1
        one.RescaleSlope, one.RescaleIntercept = 1, -1024
        one.WindowCenter, one.WindowWidth = -299.5, 1401
        one.PixelSpacing, one.SliceThickness = [0.7, 0.5], 2.5
        one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        one.ImagePositionPatient = [-30, -40, 2.5 * i]
        one.PixelData = (pixels.astype(np.int16) + 1024).tobytes()
        one.save_as(folder / f"{9 - i}.dcm", enforce_file_format=True)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_volume_comes_back_on_its_own_grid(axis: int, model: Path, volume: np.ndarray, tmp_path: Path) -> None:
    affine = save_nifti(tmp_path / "scan.nii.gz", volume, axis)
    (folder,) = sample_files(
        model, [tmp_path / "scan.nii.gz"], tmp_path / "out", samples=4, format="nifti", window="-1000,400", axis=axis
    ).written
    assert folder.name == "scan"
    maps = np.load(folder / "samples.npz")["maps"]
    assert maps.shape == (4, 3, 20, 24)
    files = sorted((folder / "samples").iterdir())
    assert [f.name for f in files] == [f"{i:04d}.nii.gz" for i in range(1, 5)]
    for one, file in zip(maps, files):
        written = nibabel.load(file)
        assert np.allclose(written.affine, affine, atol=1e-5)
        assert np.array_equal(np.moveaxis(np.asanyarray(written.dataobj), axis, 0), one)
    mean = np.asanyarray(nibabel.load(folder / "mean.nii.gz").dataobj)
    assert np.allclose(np.moveaxis(mean, axis, 0), (maps == 1).mean(0), atol=1e-6)
    facts = json.loads((folder / "summary.json").read_text())
    lesion = facts["classes"]["class 1"]
    voxels = (maps == 1).sum((1, 2, 3))
    assert lesion["voxels_quantiles"]["0.5"] == np.median(voxels)
    assert lesion["volume_mm3_quantiles"]["0.5"] == pytest.approx(np.median(voxels) * 0.5 * 0.7 * 2.5, rel=1e-5)
    assert facts["slices"] == 3
    assert facts["window"] == [-1000, 400]
    assert Image.open(folder / "mean.png").size == (24, 20)


def test_slices_of_a_volume_share_their_noise(model: Path, volume: np.ndarray, tmp_path: Path) -> None:
    save_nifti(tmp_path / "same.nii", np.stack([volume[1]] * 3), 2)
    (folder,) = sample_files(model, [tmp_path / "same.nii"], tmp_path / "out", samples=3, window="-1000,400").written
    maps = np.load(folder / "samples.npz")["maps"]
    assert np.array_equal(maps[:, 0], maps[:, 2])
    assert not np.array_equal(maps[0], maps[1])


def test_dicom_series_keep_their_place_and_the_window_of_the_file(
    model: Path, volume: np.ndarray, tmp_path: Path
) -> None:
    save_series(tmp_path / "series", volume)
    assert list_images([tmp_path / "series"]) == [tmp_path / "series"]
    found = read_slices(tmp_path / "series", 1)
    assert np.allclose(found.window or 0, WINDOW)
    expected = np.rint((volume.astype(np.float64) - WINDOW[0]).clip(0, 1400) / 1400 * 255) / 127.5 - 1
    assert np.abs(found.images[:, 0].numpy() - expected).max() < 0.009
    wide = read_slices(tmp_path / "series", 1, (-2000, 2000)).images
    assert wide.max() - wide.min() < 0.6 * (found.images.max() - found.images.min())
    (folder,) = sample_files(model, [tmp_path / "series"], tmp_path / "out", samples=2, format="nifti").written
    assert folder.name == "series"
    written = nibabel.load(folder / "samples" / "0001.nii.gz")
    maps = np.load(folder / "samples.npz")["maps"]
    assert np.array_equal(np.asanyarray(written.dataobj), maps[0].transpose(2, 1, 0))
    # column 3, row 5 of slice 2: right is -x of DICOM, 0.5 mm a column and 0.7 mm a row
    assert np.allclose(written.affine @ [3, 5, 2, 1], [30 - 1.5, 40 - 3.5, 5, 1])
    (one,) = sample_files(model, [tmp_path / "series" / "8.dcm"], tmp_path / "one", samples=2).written
    assert np.load(one / "samples.npz")["maps"].shape == (2, 20, 24)
    facts = json.loads((one / "summary.json").read_text())
    assert facts["pixel_mm2"] == pytest.approx(0.35)
    lesion = facts["classes"]["class 1"]
    assert lesion["area_mm2_quantiles"]["0.95"] == pytest.approx(0.35 * lesion["area_quantiles"]["0.95"])


def test_maps_as_png_are_class_ids_in_the_colours_of_the_classes(
    model: Path, volume: np.ndarray, tmp_path: Path
) -> None:
    Image.fromarray(((volume[0] + 1000) // 6).astype(np.uint8)).save(tmp_path / "a.png")
    save_nifti(tmp_path / "b.nii", volume, 2)
    one, several = sample_files(
        model, [tmp_path / "a.png", tmp_path / "b.nii"], tmp_path / "out", samples=2, format="png", window="-1000,400"
    ).written
    picture = Image.open(one / "samples" / "0002.png")
    maps = np.load(one / "samples.npz")["maps"]
    assert np.array_equal(np.asarray(picture), maps[1])
    color = small().classes[1].color
    assert (np.asarray(picture.convert("RGB"))[maps[1] == 1] == color).all()
    maps = np.load(several / "samples.npz")["maps"]
    assert np.array_equal(np.asarray(Image.open(several / "samples" / "0001" / "0003.png")), maps[0, 2])


def test_what_is_asked_for_values_without_a_window(volume: np.ndarray, tmp_path: Path) -> None:
    save_nifti(tmp_path / "scan.nii.gz", volume, 2)
    with pytest.raises(InputError, match="values from -900 to 5; say which are black and white.*--window"):
        read_slices(tmp_path / "scan.nii.gz", 1)
    bytes_ = ((volume + 1000) // 6).astype(np.uint8)
    save_nifti(tmp_path / "bytes.nii.gz", bytes_, 2)
    assert np.allclose(read_slices(tmp_path / "bytes.nii.gz", 1).images[:, 0], bytes_ / 127.5 - 1)
    with pytest.raises(InputError, match="holds 3 slices"):
        read_image(tmp_path / "bytes.nii.gz", 1)
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match="no DICOM file"):
        read_slices(tmp_path / "bare", 1)
    assert name_of(Path("a/scan.v2.nii.gz")) == "scan.v2"
    assert name_of(Path("a/scan.1.png")) == "scan.1"


def test_without_a_place_in_space_pixels_have_no_size(tmp_path: Path) -> None:
    maps = np.zeros((2, 1, 4, 5), np.uint8)
    write_nifti(tmp_path / "a.nii", maps[0], Space())
    assert nibabel.load(tmp_path / "a.nii").shape == (5, 4, 1)
    facts = area_facts(maps[:, 0], small().classes, Space())
    assert "area_quantiles" in facts["class 0"]
    assert "area_mm2_quantiles" not in facts["class 0"]
