"""Reading one image of any format: values as the file means them, places in space, and one clear line for what is not read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stochseg.data.pixel_files import Pixels, as_windows, read_label, read_pixels, to_bytes, window_for
from stochseg.errors import InputError

from .own_data import save

RNG = np.random.default_rng(0)


def grey(file: Path) -> np.ndarray:
    return read_pixels([file]).values[0, ..., 0]


# -------------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_read_whole(suffix: str, tmp_path: Path) -> None:
    pixels = RNG.integers(0, 65536, (9, 7)).astype(np.uint16)
    found = grey(save(pixels, tmp_path / f"a{suffix}"))
    assert found.dtype == np.uint16
    assert (found == pixels).all()


def test_tiff_pages_are_slices_and_floats_are_kept(tmp_path: Path) -> None:
    pages = RNG.integers(0, 255, (3, 9, 7)).astype(np.uint8)
    first, *rest = (Image.fromarray(page) for page in pages)
    first.save(tmp_path / "a.tif", save_all=True, append_images=rest)
    assert (read_pixels([tmp_path / "a.tif"]).values[..., 0] == pages).all()
    floats = RNG.normal(0, 300, (9, 7)).astype(np.float32)
    assert (grey(save(floats, tmp_path / "b.tif")) == floats).all()


def test_labels_are_indices_of_palettes_and_counts_of_few_bits(tmp_path: Path) -> None:
    ids = RNG.integers(0, 4, (9, 7)).astype(np.uint8)
    image = Pixels(np.zeros((1, 9, 7, 1), np.uint8))
    picture = Image.fromarray(ids, mode="P")
    picture.putpalette([9, 9, 9, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.save(tmp_path / "palette.png", bits=2)
    assert (read_label([tmp_path / "palette.png"], image)[0] == ids).all()
    Image.fromarray(ids > 1).save(tmp_path / "bits.png")
    assert (read_label([tmp_path / "bits.png"], image)[0] == (ids > 1)).all()
    assert read_pixels([tmp_path / "palette.png"]).values.shape == (1, 9, 7, 3)  # an image has the palette's colours
    colours = np.stack([ids * 60, ids, ids], -1)
    assert (read_label([save(colours, tmp_path / "rgb.png")], image)[0] == colours).all()
    assert read_label([save(ids.astype(np.float64), tmp_path / "f.npy")], image).dtype == np.int64
    with pytest.raises(InputError, match="holds the value 0.5"):
        read_label([save(ids + 0.5, tmp_path / "h.npy")], image)
    with pytest.raises(InputError, match="8x9 pixels, its image has 7x9"):
        read_label([save(np.zeros((9, 8), np.uint8), tmp_path / "s.png")], image)


def test_a_window_is_not_meant_for_bytes_that_it_exceeds() -> None:
    deep, bytes_ = (
        Pixels(np.arange(100, dtype=np.int16).reshape(1, 10, 10, 1)),
        Pixels(np.zeros((1, 4, 4, 1), np.uint8)),
    )
    assert window_for(deep, (-1000, 400)) == (-1000, 400)
    assert window_for(bytes_, (-1000, 400)) is None
    assert window_for(bytes_, (10, 200)) == (10, 200)
    assert window_for(deep, "image") == pytest.approx((0.495, 98.505))
    assert window_for(Pixels(deep.values, window=(3, 9)), "file") == (3, 9)
    assert window_for(bytes_, "image") == (0, 1)
    assert to_bytes(np.array([0.0, 0.25, 1.0]), (0, 1)).tolist() == [0, 64, 255]
    assert as_windows([1, 2.5]) == (1.0, 2.5)
    with pytest.raises(InputError, match="prepare the store again"):
        as_windows([3, 2])


# ----------------------------------------------------------------------------------------------------------- NIfTI


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_nifti_slices_lie_where_the_file_says(axis: int, tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    volume = RNG.integers(-1000, 3000, (5, 6, 7)).astype(np.int16)
    affine = np.array([[0, -2.0, 0, 5], [0.5, 0, 0, -9], [0, 0, 3.0, 1], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(volume, affine), tmp_path / "a.nii.gz")
    found = read_pixels([tmp_path / "a.nii.gz"], axis)
    assert (found.values[..., 0] == np.moveaxis(volume, axis, 0)).all()
    assert found.affine is not None
    for voxel in ((0, 0, 0), (2, 3, 4), (4, 5, 6)):
        s, h, w = voxel[axis], *(v for a, v in enumerate(voxel) if a != axis)
        assert found.values[s, h, w, 0] == volume[voxel]
        assert found.affine @ [s, h, w, 1] == pytest.approx(affine @ [*voxel, 1])


# ----------------------------------------------------------------------------------------------------------- DICOM


def dicom_file(name: str) -> Path:
    """One of the files that pydicom brings along, written by real scanners and programs."""
    pydicom = pytest.importorskip("pydicom", reason='needs pydicom: pip install "stochseg[medical]"')
    file = Path(pydicom.__file__).parent / "data/test_files" / name
    if not file.is_file():
        pytest.skip(f"this pydicom comes without {name}")
    return file


def test_files_of_scanners() -> None:
    ct = read_pixels([dicom_file("CT_small.dcm")])
    assert (ct.values.shape, ct.values.min(), ct.values.max()) == ((1, 128, 128, 1), -896, 1167)  # Hounsfield units
    assert ct.affine is not None
    assert np.linalg.norm(ct.affine[:3, 1]) == pytest.approx(0.661468)
    assert ct.affine[:3, 3] == pytest.approx([-158.135803, -179.035797, -75.699997])
    mr = read_pixels([dicom_file("MR_small.dcm")])
    assert mr.window == (-200, 1399)  # centre 600, width 1600: 600 - 0.5 -+ 1599 / 2
    for other in ("MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm"):
        assert (read_pixels([dicom_file(other)]).values == mr.values).all()
    assert read_pixels([dicom_file("SC_rgb_rle_2frame.dcm")]).values.shape == (2, 100, 100, 3)
    plain, converted = (grey_or_rgb(name) for name in ("SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_dcmtk_+eb+cy+n1.dcm"))
    assert np.median(abs(plain - converted)) <= 1  # YCbCr comes as RGB; JPEG blurs its edges
    assert plain[0, 5, 5].tolist() == [255, 0, 0]


def grey_or_rgb(name: str) -> np.ndarray:
    return read_pixels([dicom_file(name)]).values.astype(int)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("reportsi.dcm", "modality SR, which is no image"),
        ("liver_1frame.dcm", "a DICOM segmentation, which is no image"),
        ("no_meta.dcm", "cannot be read as DICOM"),
        ("badVR.dcm", "damaged"),
        ("JPEGLSNearLossless_08.dcm", "pip install pylibjpeg"),
    ],
)
def test_dicom_that_is_no_image_or_not_read_here(name: str, message: str) -> None:
    if "pip" in message:
        for plugin in ("pylibjpeg", "jpeg_ls", "gdcm"):
            if __import__("importlib").util.find_spec(plugin):
                pytest.skip("a plugin reads it")
    with pytest.raises(InputError, match=message):
        read_pixels([dicom_file(name)])


def test_slices_are_in_the_order_of_their_place_and_turned_where_white_is_low(tmp_path: Path) -> None:
    from .made_dicom import write_series, write_slice

    stored = RNG.integers(0, 4000, (4, 9, 7)).astype(np.int16)
    uids = write_series(tmp_path / "s", stored, "1.2.3", backwards=True)
    files = sorted((tmp_path / "s").iterdir())
    found = read_pixels(files)
    assert (found.values[..., 0] == stored - 1024).all()
    assert found.uids == tuple(uids)
    assert found.affine is not None
    assert found.affine @ [2, 3, 4, 1] == pytest.approx([-10 + 0.5 * 4, -20 + 0.5 * 3, 4, 1])
    turned = write_slice(
        tmp_path / "m.dcm",
        stored[0].astype(np.uint16),
        "1.9",
        "1.8",
        0,
        PhotometricInterpretation="MONOCHROME1",
        RescaleIntercept=0,
        BitsStored=12,
        HighBit=11,
        WindowCenter=1000.5,
        WindowWidth=201,
    )
    seen = read_pixels([turned])
    assert (seen.values[0, ..., 0] == 4095 - stored[0]).all()
    assert seen.window == (4095 - 1100, 4095 - 900)


def broken_series(root: Path) -> dict[str, Any]:
    from .made_dicom import write_slice

    zero = np.zeros((9, 7), np.int16)
    one = write_slice(root / "a.dcm", zero, "1.1", "1", 0)
    same = write_slice(root / "b.dcm", zero, "1.2", "1", 0)
    other = write_slice(root / "c.dcm", zero, "1.3", "2", 2)
    small = write_slice(root / "d.dcm", zero[:5], "1.4", "1", 2)
    nowhere = write_slice(root / "e.dcm", zero, "1.5", "1", 2, ImagePositionPatient=None)
    return {
        "two slices at one place": [one, same],
        "of two series": [one, other],
        "differ in size": [one, small],
        "does not say where it lies": [one, nowhere],
    }


def test_files_that_are_no_series(tmp_path: Path) -> None:
    for message, files in broken_series(tmp_path).items():
        with pytest.raises(InputError, match=message):
            read_pixels(files)


def test_segmentations_that_do_not_fit(tmp_path: Path) -> None:
    from .made_dicom import write_segmentation, write_series

    uids = write_series(tmp_path / "s", np.zeros((2, 9, 7), np.int16), "1.2.3")
    image = read_pixels(sorted((tmp_path / "s").iterdir()))
    masks = np.ones((2, 9, 7), np.uint8)
    good = write_segmentation(tmp_path / "good.dcm", masks, uids)
    assert (read_label([good], image) == 1).all()
    for name, segments, of, message in (
        ("foreign", masks, ["1", "2"], "which the image's series lacks"),
        ("size", np.ones((2, 9, 8), np.uint8), uids, "8x9 pixels, the image has 7x9"),
    ):
        with pytest.raises(InputError, match=message):
            read_label([write_segmentation(tmp_path / f"{name}.dcm", segments, of)], image)
    with pytest.raises(InputError, match="belongs to a DICOM image"):
        read_label([good], Pixels(np.zeros((2, 9, 7, 1))))
