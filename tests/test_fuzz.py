"""Every reader of foreign files gives what is there or an InputError of one line, whatever the bytes are.

Whole files are damaged at random: bits, cuts, numbers at their limits, pieces repeated or moved. STOCHSEG_FUZZ_SECONDS
says how long each reader is tried; without it a fixed small number of damages is. Finds are kept below as tests.
"""

import io
import os
import pickle
import random
import tarfile
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stochseg.config import CalibrationConfig, RefinementConfig
from stochseg.data.archives import ArchiveFiles
from stochseg.data.groups import _table
from stochseg.data.images import decode_grey
from stochseg.data.lidc_arrays import read_npz
from stochseg.data.lidc_readings import read_readings
from stochseg.data.map_files import read_stack, stack_shape
from stochseg.data.pickled_tensors import read_state_dicts
from stochseg.data.pixel_files import read_pixels
from stochseg.data.restricted_pickle import load_numeric_pickle
from stochseg.data.saved_predictions import Ids, decode_answer
from stochseg.data.store import open_store
from stochseg.errors import InputError
from stochseg.models.car import CAR
from stochseg.presets import load_config

from . import old_torch
from .conftest import write_blobs

SECONDS = float(os.environ.get("STOCHSEG_FUZZ_SECONDS", 0))
TRIES = 60
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (12, 10), dtype=np.uint8)
MAPS = RNG.integers(0, 2, (3, 6, 5), dtype=np.uint8)

Reader = Callable[[Path], Any]


def picture(kind: str, mode: str, **how: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(GREY).convert(mode).save(stream, kind, **how)
    return stream.getvalue()


def array_file(save: Callable[..., None], *arrays: Any, **named: Any) -> bytes:
    stream = io.BytesIO()
    save(stream, *arrays, **named)
    return stream.getvalue()


def tar(mode: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, format=tarfile.PAX_FORMAT) as archive:
        for name in ("a/b.png", "a/" + "long" * 40 + ".png"):
            member = tarfile.TarInfo(name)
            member.size = 40
            archive.addfile(member, io.BytesIO(bytes(range(40))))
    return stream.getvalue()


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b.png", bytes(60))
        archive.writestr("a/c.png", b"12345")
    return stream.getvalue()


def nifti() -> bytes:
    nibabel = pytest.importorskip("nibabel", reason="extra `medical` is not installed")
    data: bytes = nibabel.Nifti1Image(MAPS.transpose(1, 2, 0)[:, :, None], np.eye(4)).to_bytes()
    return data


def dicom() -> bytes:
    pytest.importorskip("pydicom", reason="extra `medical` is not installed")
    from .made_dicom import write_slice

    with tempfile.TemporaryDirectory() as folder:
        return write_slice(Path(folder) / "x.dcm", GREY.astype(np.int16), "1.2.3", "1.2", 0.0).read_bytes()


def readings() -> bytes:
    points = "".join(
        f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in ((3, 3), (9, 3), (5, 8))
    )
    return (
        '<?xml version="1.0"?><LidcReadMessage xmlns="http://www.nih.gov"><ResponseHeader><SeriesInstanceUid>1.2'
        "</SeriesInstanceUid></ResponseHeader><readingSession><unblindedReadNodule><noduleID>1</noduleID><characteristics>"
        "<subtlety>3</subtlety></characteristics><roi><imageZposition>-12.5</imageZposition><imageSOP_UID>1.2.3"
        f"</imageSOP_UID><inclusion>TRUE</inclusion>{points}</roi></unblindedReadNodule></readingSession></LidcReadMessage>"
    ).encode()


def saved_prediction(file: Path) -> None:
    decode_answer(file.read_bytes(), str(file), Ids(2, None, "classes"), (6, 5))


def whole_archive(file: Path) -> None:
    files = ArchiveFiles(file)
    for _ in files.read_each(files.names()):
        pass


def maps(file: Path) -> None:
    stack_shape(file)
    read_stack(file, 2)


def pixels(file: Path) -> None:
    read_pixels([file])


def config_of(file: Path) -> None:
    load_config(str(file))


STATE = {"generator": {"a": torch.ones(3, 2)}, "prior": {"b": torch.arange(4)}}

CASES: dict[str, tuple[str, Callable[[], bytes], Reader]] = {
    "grey PNG": ("x.png", lambda: picture("PNG", "L"), pixels),
    "palette PNG": ("x.png", lambda: picture("PNG", "P"), pixels),
    "PNG of one bit": ("x.png", lambda: picture("PNG", "1"), pixels),
    "JPEG": ("x.jpg", lambda: picture("JPEG", "RGB"), pixels),
    "TIFF": ("x.tif", lambda: picture("TIFF", "RGB", compression="tiff_lzw"), pixels),
    "TIFF of JPEG": ("x.tif", lambda: picture("TIFF", "RGB", compression="jpeg"), pixels),
    "TIFF of 16 bits": ("x.tif", lambda: picture("TIFF", "I;16"), pixels),
    "NPY image": ("x.npy", lambda: array_file(np.save, GREY), pixels),
    "NIfTI image": ("x.nii", nifti, pixels),
    "PNG of a crop": ("x.png", lambda: picture("PNG", "L"), lambda file: decode_grey(file.read_bytes(), str(file))),
    "PNG map": ("x.png", lambda: picture("PNG", "P"), maps),
    "NPY maps": ("x.npy", lambda: array_file(np.save, MAPS), maps),
    "NPZ maps": ("x.npz", lambda: array_file(np.savez_compressed, maps=MAPS, weights=np.ones(3)), maps),
    "NIfTI maps": ("x.nii", nifti, maps),
    "tar": ("x.tar", lambda: tar("w"), whole_archive),
    "tar.gz": ("x.tar.gz", lambda: tar("w:gz"), whole_archive),
    "zip": ("x.zip", zipped, whole_archive),
    "LIDC pickle": ("x.pickle", lambda: pickle.dumps({"a": {"image": GREY, "masks": [MAPS]}}), load_numeric_pickle),
    "LIDC npz": (
        "x.npz",
        lambda: array_file(np.savez, images=RNG.random((2, 6, 5)), labels=MAPS[None].repeat(2, 0)),
        read_npz,
    ),
    "official checkpoint": ("x.pickle", lambda: old_torch.pickled(STATE), read_state_dicts),
    "official checkpoint, torch.save": ("x.pickle", lambda: old_torch.storage_file(STATE), read_state_dicts),
    "official checkpoint, zip": (
        "x.pickle",
        lambda: array_file(lambda s, o: torch.save(o, s), STATE),
        read_state_dicts,
    ),
    "LIDC readings": ("x.xml", readings, read_readings),
    "DICOM": ("x.dcm", dicom, pixels),
    "saved prediction": ("x.npy", lambda: array_file(np.save, MAPS[0]), saved_prediction),
    "config": (
        "x.yaml",
        lambda: b"minutes: 1\ninput: {crop: 64}\nphases: {calibration: {betas: [0.9, 0.99]}}\n",
        config_of,
    ),
    "groups": ("x.csv", lambda: b"image,group\na,p1\nb,p2\n", _table),
}


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The bytes after one to four damages."""
    for _ in range(chance.randint(1, 4)):
        if not data:
            break
        at = chance.randrange(len(data))
        kind = chance.randrange(6)
        if kind == 0:
            data = data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at]
        elif kind == 2:  # a number at its limits, of either byte order
            size = chance.choice((1, 2, 4, 8))
            value = chance.choice((0, 1, 255, 2 ** (8 * size - 1), 2 ** (8 * size) - 1)) % 2 ** (8 * size)
            data = data[:at] + value.to_bytes(size, chance.choice(("little", "big"))) + data[at + size :]
        elif kind == 3:
            data = data[:at] + data[at + chance.randint(1, 16) :]
        elif kind == 4:
            data = data[:at] + bytes(chance.randrange(256) for _ in range(chance.randint(1, 8))) + data[at:]
        else:
            piece = data[at : at + chance.randint(1, 64)]
            to = chance.randrange(len(data))
            data = data[:to] + piece + data[to:]
    return data


@pytest.mark.parametrize("name", CASES)
def test_damaged_files(name: str, tmp_path: Path) -> None:
    file_name, make, read = CASES[name]
    chance = random.Random(name)
    whole = make()
    file = tmp_path / file_name
    file.write_bytes(whole)
    try_to_read(read, file)
    start, done = time.monotonic(), 0
    tries = TRIES // 4 if read is config_of else TRIES  # a slow one
    while done < tries if not SECONDS else time.monotonic() - start < SECONDS:
        data = damaged(whole, chance)
        file.write_bytes(data)
        try:
            try_to_read(read, file)
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error} at {data!r}") from error
        done += 1
    if SECONDS:
        print(f"{name}: {done} damages")


def try_to_read(read: Reader, file: Path) -> None:
    """The reader may do nothing but read the file, or raise an InputError that names it, or a key in it, in one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read(file)
        except InputError as error:
            said = str(error).strip()
        else:
            return
    assert "\n" not in said
    assert str(file) in said or read is config_of


def test_a_zip_with_an_empty_name(tmp_path: Path) -> None:
    data = bytearray(zipped())
    entry = data.rfind(b"PK\x01\x02")
    data[entry + 28 : entry + 30] = bytes(2)  # the length of the name
    (tmp_path / "x.zip").write_bytes(data)
    try_to_read(whole_archive, tmp_path / "x.zip")


def test_entities_that_grow_without_end(tmp_path: Path) -> None:
    names = [f"e{i}" for i in range(12)]
    entities = "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip(names, names[1:]))
    file = tmp_path / "x.xml"
    file.write_text(f'<!DOCTYPE a [<!ENTITY e0 "{"a" * 50}">{entities}]><LidcReadMessage>&e11;</LidcReadMessage>')
    with pytest.raises(InputError, match=r"x\.xml: cannot be read as XML"):
        read_readings(file)


def test_an_array_whose_header_is_no_python(tmp_path: Path) -> None:
    store = write_blobs(tmp_path / "store", {"val": 2}, size=16)
    data = (store / "val.images.npy").read_bytes()
    (store / "val.images.npy").write_bytes(data.replace(b", }", b", ("))
    with pytest.raises(InputError, match=r"val\.images\.npy: cannot be opened as an array"):
        open_store(store)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store and a model."""
    root = tmp_path_factory.mktemp("fuzz")
    store = write_blobs(root / "store", {"val": 2}, size=16)
    CAR(2, 1, (16, 16), CalibrationConfig(widths=(4, 4)), RefinementConfig(widths=(4, 4))).save(root / "model")
    return store, root / "model"


@pytest.mark.parametrize("name", ["index.json", "val.images.npy", "val.labels.npy", "config.json", "model.safetensors"])
def test_damaged_stores_and_models(name: str, folders: tuple[Path, Path], tmp_path: Path) -> None:
    store, model = folders
    folder = model if name in ("config.json", "model.safetensors") else store
    chance = random.Random(name)
    whole = (folder / name).read_bytes()
    start, done = time.monotonic(), 0
    try:
        while done < TRIES // 2 if not SECONDS else time.monotonic() - start < SECONDS:
            data = damaged(whole, chance)
            (folder / name).write_bytes(data)
            try:
                CAR.load(model) if folder == model else open_store(store)
            except InputError:
                pass
            except Exception as error:
                raise AssertionError(f"{type(error).__name__}: {error} at {data!r}") from error
            done += 1
    finally:
        (folder / name).write_bytes(whole)
    if SECONDS:
        print(f"{name}: {done} damages")
