"""Small files that would fill the memory, or never end, are refused before they do."""

import bz2
import gzip
import io
import json
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stochseg.config import CalibrationConfig, RefinementConfig
from stochseg.data import map_files
from stochseg.data.archives import ArchiveFiles
from stochseg.data.images import decode_grey
from stochseg.data.lidc_arrays import read_npz
from stochseg.data.map_files import read_stack
from stochseg.data.pixel_files import read_pixels
from stochseg.data.store import open_store
from stochseg.errors import InputError
from stochseg.models.car import CAR

from .conftest import write_blobs

BOMB = 32 * 2**20
"""Bytes that the bombs unpack to."""


@contextmanager
def little_memory(most: int = BOMB // 4) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def lying_zip(file: Path, name: str, packed: bytes, method: int, size: int) -> Path:
    """A zip of one member that says it unpacks to `size` bytes."""
    facts = struct.pack("<HHHHHIIIHH", 20, 0, method, 0, 0, 0, len(packed), size, len(name), 0)
    local = b"PK\x03\x04" + facts + name.encode()
    central = b"PK\x01\x02" + struct.pack("<H", 20) + facts + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name.encode()
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local) + len(packed), 0)
    file.write_bytes(local + packed + central + end)
    return file


def deflated(start: bytes = b"") -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    parts = [packer.compress(start), *(packer.compress(bytes(2**20)) for _ in range(BOMB // 2**20)), packer.flush()]
    return b"".join(parts)


def header(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def read_all(file: Path) -> None:
    files = ArchiveFiles(file)
    dict(files.read_each(files.names()))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_zip_that_unpacks_to_far_more_than_it_says(method: int, tmp_path: Path) -> None:
    packed = deflated() if method == zipfile.ZIP_DEFLATED else bz2.compress(bytes(BOMB))
    file = lying_zip(tmp_path / "x.zip", "a/b.png", packed, method, 100)
    assert file.stat().st_size < 10**6
    with little_memory(), pytest.raises(InputError, match=r"x\.zip: damaged archive"):
        read_all(file)


@pytest.mark.parametrize("read", [lambda file: read_stack(file, 2), read_npz])
def test_an_npz_that_unpacks_to_far_more_than_it_says(read: Callable[[Path], Any], tmp_path: Path) -> None:
    start = header((2, 3, 3)) + bytes(18)
    file = lying_zip(tmp_path / "x.npz", "maps.npy", bz2.compress(start + bytes(BOMB)), zipfile.ZIP_BZIP2, len(start))
    with little_memory(), pytest.raises(InputError, match=r"x\.npz: .*packed by method 12"):
        read(file)


def test_a_dicom_file_that_is_packed_as_a_whole(tmp_path: Path) -> None:
    from .made_dicom import write_slice

    data = write_slice(tmp_path / "x.dcm", np.zeros((4, 4), np.int16), "1.2.3", "1.2", 0.0).read_bytes()
    plain, packed = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"
    at = data.index(plain) - 2
    length = int.from_bytes(data[140:144], "little") + len(packed) - len(plain)
    meta = data[132:140] + length.to_bytes(4, "little") + data[144:at] + len(packed).to_bytes(2, "little") + packed
    (tmp_path / "x.dcm").write_bytes(
        bytes(128) + b"DICM" + meta + data[at + 2 + len(plain) : 144 + length] + deflated()
    )
    with little_memory(), pytest.raises(InputError, match=r"x\.dcm: a deflated DICOM file"):
        read_pixels([tmp_path / "x.dcm"])


def png_of_two_headers(first: int, second: int) -> bytes:
    """A grey PNG that says it is `first` pixels wide and high, then that it is `second`."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    sizes = [chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)) for side in (first, second)]
    pixels = chunk(b"IDAT", zlib.compress(bytes((second + 1) * second)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(sizes) + pixels + chunk(b"IEND", b"")


def test_a_png_of_two_headers(tmp_path: Path) -> None:
    for second in (16, 9000):
        with pytest.raises(InputError, match="two headers of different sizes"):
            decode_grey(png_of_two_headers(8, second), "x.png", (8, 8))
    (tmp_path / "x.png").write_bytes(png_of_two_headers(8, 9000))
    with pytest.raises(InputError, match="9000x9000 pixels; up to 67108864"):
        read_pixels([tmp_path / "x.png"])
    with pytest.raises(InputError, match="two headers"):
        read_stack(tmp_path / "x.png", 2)


def test_a_tiff_whose_later_page_is_far_larger(tmp_path: Path) -> None:
    pages = [Image.new("L", size) for size in ((4, 4), (12000, 12000))]
    pages[0].save(tmp_path / "x.tif", compression="tiff_lzw", save_all=True, append_images=pages[1:])
    del pages
    assert (tmp_path / "x.tif").stat().st_size < 10**6
    with pytest.raises(InputError, match="its pages differ in size"):
        read_pixels([tmp_path / "x.tif"])


@pytest.mark.parametrize("read", [lambda file: read_stack(file, 2), lambda file: read_pixels([file])])
def test_voxels_that_become_floats_count_as_such(
    read: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nibabel = pytest.importorskip("nibabel", reason="extra `medical` is not installed")
    head = nibabel.Nifti1Header()
    head.set_data_dtype(np.uint8)
    head.set_data_shape((64, 64, 64))
    head["vox_offset"], head["magic"], head["scl_slope"], head["scl_inter"] = 352, b"n+1", 0.5, 0
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(head.binaryblock + bytes(4 + 64**3)))
    monkeypatch.setattr(map_files, "MAX_BYTES", 8 * 64**3 - 1)
    with pytest.raises(InputError, match=r"x\.nii\.gz: .*declare"):
        read(tmp_path / "x.nii.gz")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    CAR(2, 1, (16, 16), CalibrationConfig(widths=(4, 4)), RefinementConfig(widths=(4, 4))).save(tmp_path / "model")
    return tmp_path / "model"


def test_json_without_end(model: Path, tmp_path: Path) -> None:
    store = write_blobs(tmp_path / "store", {"val": 2}, size=16)
    (store / "index.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"index\.json: not readable as JSON"):
        open_store(store)
    for name in ("calibration.json", "config.json"):
        (model / name).write_text("[" * 100_000)
        with pytest.raises(InputError, match=rf"{name}: damaged"):
            CAR.load(model)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (["channels"], 10**15),
        (["channels"], -1),
        (["size"], ["a", "b"]),
        (["size"], [16]),
        (["size"], [0, 16]),
        (["classes", 0, "color"], "red"),
        (["classes", 0, "color"], [0, 0, 1e300]),
        (["refinement", "widths"], [4, 10**12]),
        (["refinement", "latent"], 10**18),
        (["calibration", "patch"], 10**9),
        (["calibration", "widths"], [[4], [4]]),
        (["method"], "os.system"),
        (["method"], ["car"]),
    ],
)
def test_a_model_of_impossible_facts(model: Path, place: list[Any], value: object) -> None:
    facts = json.loads((model / "config.json").read_text())
    inner = facts
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (model / "config.json").write_text(json.dumps(facts))
    with pytest.raises(InputError) as caught:
        CAR.load(model)
    assert "\n" not in str(caught.value)
