"""`prepare lidc`: the same slices out of every kind of source, and one clear line for every kind of bad source."""

import io
import os
import pickle
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stochseg.data import archives, lidc_files
from stochseg.data.lidc import prepare_lidc
from stochseg.data.store import Store, open_store
from stochseg.errors import InputError

SIZE = (24, 20)
SHARED = Path(__file__).parents[1].parent / "shared" / "data"


@dataclass(frozen=True)
class Made:
    """A made-up slice: image uint8 [h w], masks uint8 0/1 [4 h w]."""

    split: str
    patient: str
    name: str
    image: np.ndarray
    masks: np.ndarray


def make(split: str, patients: range, each: int = 3) -> list[Made]:
    slices = []
    for patient in patients:
        rng = np.random.default_rng(patient)
        for n in range(each):
            masks = (rng.random((4, *SIZE)) > 0.7).astype(np.uint8)
            masks[3] = 0
            image = rng.integers(0, 256, SIZE, dtype=np.uint8)
            slices.append(Made(split, f"LIDC-IDRI-{patient:04d}", f"z-{10 * n}.5_c0", image, masks))
    return slices


ALL = make("train", range(1, 6)) + make("val", range(6, 8)) + make("test", range(8, 10), each=2)


def png(array: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG", **options)
    return stream.getvalue()


def crops(slices: list[Made] = ALL, top: str = "lidc_crops_{split}/{split}", first_rater: int = 0) -> dict[str, bytes]:
    files = {}
    for s in slices:
        folder = top.format(split=s.split)
        files[f"{folder}/images/{s.patient}/{s.name}.png"] = png(s.image)
        for rater, mask in enumerate(s.masks, first_rater):
            files[f"{folder}/gt/{s.patient}/{s.name}_l{rater}.png"] = png(mask * 255)
    return files


def slice_folders(slices: list[Made] = ALL) -> dict[str, bytes]:
    files = {}
    for n, s in enumerate(slices):
        base, name = f"{s.patient}/nodule-{n % 2}", f"slice-{n}.png"
        files[f"{base}/images/{name}"] = png(s.image)
        files |= {f"{base}/mask-{rater}/{name}": png(mask * 255) for rater, mask in enumerate(s.masks)}
    return files


def lay_out(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def archive(file: Path, files: dict[str, bytes]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w") as target:
            for name, data in files.items():
                target.writestr(name, data)
        return file
    with tarfile.open(file, "w" if file.suffix == ".tar" else "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file


def as_pickle(slices: list[Made] = ALL) -> dict[str, dict[str, Any]]:
    return {
        f"{s.patient}_slice{n}": {
            "image": s.image / 255.0,
            "masks": list(s.masks),
            "series_uid": f"1.3.6.1.{s.patient}",
            "z": -10.5,
        }
        for n, s in enumerate(slices)
    }


def contents(store: Store) -> dict[bytes, bytes]:
    """Labels by image, which tells slices apart whatever their ids are."""
    return {
        image.tobytes(): labels.tobytes()
        for split in store.splits.values()
        for image, labels in zip(split.images, split.labels, strict=True)
    }


WANTED = {s.image.tobytes(): s.masks.tobytes() for s in ALL}


def check_own_splits(store: Store, slices: list[Made] = ALL) -> None:
    assert contents(store) == WANTED
    assert store.raters == 4
    assert store.convention == "car"
    assert [c.name for c in store.classes] == ["background", "lesion"]
    assert store.notes["split"] == "as in the source"
    for name, split in store.splits.items():
        wanted = [s for s in slices if s.split == name]
        assert split.ids == [f"{s.patient}/{s.name}" for s in wanted]
        assert split.groups == [s.patient for s in wanted]
        assert split.images.shape == (len(wanted), *SIZE, 1)


def test_crops_as_folders_from_each_level(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = lay_out(tmp_path / "crops", crops())
    store = open_store(prepare_lidc(tmp_path / "store", source), verify=True)
    check_own_splits(store)
    lines = capsys.readouterr().err
    assert "HPU-Net crops in folders, 25 slices of 9 patients, split as in the source" in lines
    assert "train: 15 slices of 5 patients, 25% of the masks empty" in lines
    for part in ("lidc_crops_train", "lidc_crops_train/train"):
        inner = open_store(prepare_lidc(tmp_path / part.replace("/", "-"), source / part))
        assert list(inner.splits) == ["train"]
        assert contents(inner).items() <= WANTED.items()


def test_many_files_are_decoded_by_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lidc_files, "FEW_FILES", 0)
    monkeypatch.setattr(lidc_files, "cores", lambda: 2)
    monkeypatch.setattr(lidc_files, "PART", 7)
    source = lay_out(tmp_path / "source", crops())
    check_own_splits(open_store(prepare_lidc(tmp_path / "store", source)))
    damaged = next(source.rglob("*_l2.png"))
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(InputError, match=f"{re.escape(damaged.name)}: the PNG is truncated"):
        prepare_lidc(tmp_path / "other", source)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("top", ["{split}", "lidc_crops_{split}", "download/lidc_crops_{split}/{split}"])
def test_crops_under_other_tops(tmp_path: Path, top: str) -> None:
    source = lay_out(tmp_path / "crops", crops(top=top))
    check_own_splits(open_store(prepare_lidc(tmp_path / "store", source)))


def test_raters_may_be_counted_from_1(tmp_path: Path) -> None:
    source = lay_out(tmp_path / "crops", crops(first_rater=1))
    check_own_splits(open_store(prepare_lidc(tmp_path / "store", source)))


@pytest.mark.parametrize("suffix", archives.ARCHIVE_SUFFIXES)
def test_one_archive_of_everything(tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    junk = {"__MACOSX/train/images/LIDC-IDRI-0001/._z-0.5_c0.png": b"junk", "train/.DS_Store": b"junk"}
    file = archive(tmp_path / f"everything{suffix}", junk | crops())
    check_own_splits(open_store(prepare_lidc(tmp_path / "store", file)))
    assert "HPU-Net crops in an archive" in capsys.readouterr().err


@pytest.mark.parametrize("top", ["{split}", "", "gathered", "lidc_crops_{split}/{split}"])
@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_an_archive_a_split(tmp_path: Path, suffix: str, top: str) -> None:
    for split in ("train", "val", "test"):
        files = crops([s for s in ALL if s.split == split], top)
        archive(tmp_path / "source" / f"{split}{suffix}", {name.lstrip("/"): data for name, data in files.items()})
    check_own_splits(open_store(prepare_lidc(tmp_path / "store", tmp_path / "source")))


def test_archives_beside_their_folders_are_not_read_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = lay_out(tmp_path / "source", crops())
    archive(source / "train.tar.gz", crops())
    check_own_splits(open_store(prepare_lidc(tmp_path / "store", source)))
    assert "not read: train.tar.gz" in capsys.readouterr().err


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    real = lay_out(tmp_path / "elsewhere", crops())
    source = tmp_path / "source"
    source.mkdir()
    (source / "lidc").symlink_to(real)
    (real / "loop").symlink_to(source)
    check_own_splits(open_store(prepare_lidc(tmp_path / "store", source)))


def test_slice_folders_are_split_by_patient(tmp_path: Path) -> None:
    source = lay_out(tmp_path / "slices", slice_folders())
    store = open_store(prepare_lidc(tmp_path / "store", source, splits="50/30/20", seed=3))
    assert contents(store) == WANTED
    assert store.notes["split"] == "by patient, seed 3, shares 50/30/20"
    patients = {name: set(split.groups) for name, split in store.splits.items()}
    assert {name: len(found) for name, found in patients.items()} == {"train": 4, "val": 3, "test": 2}
    assert len(set.union(*patients.values())) == 9
    assert all(i.split("/")[0] == g for s in store.splits.values() for i, g in zip(s.ids, s.groups, strict=True))
    again = open_store(prepare_lidc(tmp_path / "again", source, splits="50/30/20", seed=3))
    other = open_store(prepare_lidc(tmp_path / "other", source, splits="50/30/20", seed=4))
    assert {name: set(split.groups) for name, split in again.splits.items()} == patients
    assert {name: set(split.groups) for name, split in other.splits.items()} != patients


def test_slices_are_in_natural_order(tmp_path: Path) -> None:
    source = lay_out(tmp_path / "slices", slice_folders(make("", range(1, 2), each=25)))
    store = open_store(prepare_lidc(tmp_path / "store", source, splits="100"))
    numbers = [int(re.findall(r"\d+$", i)[0]) for i in store.split("train").ids]
    assert numbers == [*range(0, 25, 2), *range(1, 25, 2)]


def test_the_pickle(tmp_path: Path) -> None:
    file = tmp_path / "data_lidc.pickle"
    file.write_bytes(pickle.dumps(as_pickle()))
    for n, source in enumerate((file, tmp_path)):
        store = open_store(prepare_lidc(tmp_path / f"store{n}" / "store", source))
        assert contents(store) == WANTED
        assert {g for s in store.splits.values() for g in s.groups} == {s.patient for s in ALL}
        assert [len(set(store.split(name).groups)) for name in ("train", "val", "test")] == [5, 2, 2]


def test_a_pickle_whose_keys_name_no_patient_is_split_by_series(tmp_path: Path) -> None:
    file = tmp_path / "data_lidc.pickle"
    file.write_bytes(pickle.dumps(dict(enumerate(as_pickle().values()))))
    store = open_store(prepare_lidc(tmp_path / "store", file))
    assert contents(store) == WANTED
    assert {g for s in store.splits.values() for g in s.groups} == {f"1.3.6.1.{s.patient}" for s in ALL}


def test_two_series_of_a_patient_stay_together(tmp_path: Path) -> None:
    entries = as_pickle()
    for n, entry in enumerate(entries.values()):
        entry["series_uid"] += f".{n % 2}"
    file = tmp_path / "data_lidc.pickle"
    file.write_bytes(pickle.dumps(entries))
    store = open_store(prepare_lidc(tmp_path / "store", file))
    assert {g for s in store.splits.values() for g in s.groups} == {s.patient for s in ALL}


def arrays() -> dict[str, np.ndarray]:
    return {
        "images": np.stack([s.image for s in ALL]),
        "labels": np.stack([s.masks for s in ALL]),
        "patients": np.array([s.patient for s in ALL]),
        "ids": np.array([f"{s.patient}/{s.name}" for s in ALL]),
        "split": np.array([s.split for s in ALL]),
    }


def test_npz_with_everything(tmp_path: Path) -> None:
    file = tmp_path / "lidc.npz"
    np.savez_compressed(file, **arrays())
    check_own_splits(open_store(prepare_lidc(tmp_path / "store", file)))


def test_npz_of_floats_and_booleans_without_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = arrays()
    file = tmp_path / "lidc.npz"
    np.savez(file, images=given["images"][..., None].astype(np.float32) / 255, labels=given["labels"] > 0)
    store = open_store(prepare_lidc(tmp_path / "store", file))
    assert contents(store) == WANTED
    assert [len(store.split(name)) for name in ("train", "val", "test")] == [15, 5, 5]
    assert "each image counts as a patient of its own" in capsys.readouterr().err


def test_npz_with_colour_three_raters_and_a_missing_one(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    labels = np.zeros((6, 3, 8, 8), np.uint8)
    labels[1, 2] = 255
    np.savez(tmp_path / "lidc.npz", images=images, labels=labels)
    split = open_store(prepare_lidc(tmp_path / "store", tmp_path / "lidc.npz", splits="100")).split("train")
    np.testing.assert_array_equal(split.images, images)
    np.testing.assert_array_equal(split.labels, labels)


def test_missing_raters_are_whole_maps_of_255(tmp_path: Path) -> None:
    files = crops()
    gone = [name for name in files if "/gt/LIDC-IDRI-0002/" in name and name.endswith(("_l1.png", "_l3.png"))]
    for name in gone:
        del files[name]
    split = open_store(prepare_lidc(tmp_path / "store", lay_out(tmp_path / "crops", files))).split("train")
    assert len(gone) == 6
    for row, group in enumerate(split.groups):
        missing = [bool((labels == 255).all()) for labels in split.labels[row]]
        assert missing == ([False, True, False, True] if group == "LIDC-IDRI-0002" else [False] * 4)
    entries = as_pickle()
    for entry in entries.values():
        entry["masks"] = entry["masks"][:2]
    (tmp_path / "data_lidc.pickle").write_bytes(pickle.dumps(entries))
    split = open_store(prepare_lidc(tmp_path / "two", tmp_path / "data_lidc.pickle")).split("train")
    assert (split.labels[:, 2:] == 255).all()
    assert (split.labels[:, :2] <= 1).all()


def test_other_ways_to_write_the_same_png(tmp_path: Path) -> None:
    files = crops()
    for n, s in enumerate(ALL):
        base = f"lidc_crops_{s.split}/{s.split}"
        files[f"{base}/images/{s.patient}/{s.name}.png"] = png(np.repeat(s.image[..., None], 3, axis=2))
        ways = (s.masks[0], s.masks[0] > 0, np.repeat(s.masks[0][..., None] * 255, 3, axis=2))
        files[f"{base}/gt/{s.patient}/{s.name}_l0.png"] = png(ways[n % 3])
    check_own_splits(open_store(prepare_lidc(tmp_path / "store", lay_out(tmp_path / "crops", files))))


def test_limit(tmp_path: Path) -> None:
    source = lay_out(tmp_path / "crops", crops())
    store = open_store(prepare_lidc(tmp_path / "store", source, limit=4))
    assert [s.ids for s in store.splits.values()] == [
        [f"{s.patient}/{s.name}" for s in ALL if s.split == name][:4] for name in ("train", "val", "test")
    ]


FIRST_IMAGE = "lidc_crops_train/train/images/LIDC-IDRI-0001/z-0.5_c0.png"
A_MASK = "lidc_crops_train/train/gt/LIDC-IDRI-0003/z-10.5_c0_l2.png"
AN_IMAGE = "lidc_crops_val/val/images/LIDC-IDRI-0006/z-20.5_c0.png"
Files = dict[str, bytes]


def grey(value: int, size: tuple[int, int] = SIZE) -> bytes:
    return png(np.full(size, value, np.uint8))


def two_values(low: int, high: int) -> bytes:
    mask = np.full(SIZE, low, np.uint8)
    mask[:5] = high
    return png(mask)


def without(files: Files, pattern: str) -> Files:
    return {name: data for name, data in files.items() if not re.search(pattern, name)}


BAD_FILES: dict[str, tuple[Callable[[Files], Files], str]] = {
    "image without masks": (
        lambda f: without(f, "/gt/LIDC-IDRI-0006/z-20.5"),
        rf"{AN_IMAGE}: an image without masks; add at least one",
    ),
    "mask without image": (
        lambda f: without(f, AN_IMAGE),
        r"/gt/LIDC-IDRI-0006/z-20.5_c0_l\d.png: a mask without its image",
    ),
    "image of another size": (
        lambda f: f | {AN_IMAGE: grey(5, (24, 21))},
        rf"{AN_IMAGE}: image of 21x24 pixels, the images of this source have 20x24; all",
    ),
    "mask of another size": (
        lambda f: f | {A_MASK: grey(0, (12, 10))},
        rf"{A_MASK}: mask of 10x12 pixels, the images of this source have 20x24; all",
    ),
    "mask with another value": (lambda f: f | {A_MASK: two_values(0, 7)}, rf"{A_MASK}: the mask holds the value 7; "),
    "interpolated mask": (lambda f: f | {A_MASK: two_values(128, 255)}, rf"{A_MASK}: the mask holds the value 128; "),
    "mask of 0, 1 and 255": (lambda f: f | {A_MASK: two_values(1, 255)}, rf"{A_MASK}: the mask holds the value 1; "),
    "truncated image": (lambda f: f | {AN_IMAGE: f[AN_IMAGE][:-30]}, rf"{AN_IMAGE}: the PNG is truncated"),
    "truncated first image": (
        lambda f: f | {FIRST_IMAGE: f[FIRST_IMAGE][:20]},
        rf"{FIRST_IMAGE}: the PNG is truncated",
    ),
    "truncated mask": (lambda f: f | {A_MASK: f[A_MASK][:-13]}, rf"{A_MASK}: the PNG is truncated"),
    "damaged image": (
        lambda f: f | {AN_IMAGE: f[AN_IMAGE][:60] + bytes(40) + f[AN_IMAGE][100:]},
        rf"{AN_IMAGE}: damaged PNG",
    ),
    "empty file": (lambda f: f | {A_MASK: b""}, rf"{A_MASK}: an empty file; a PNG mask is needed"),
    "not a PNG": (lambda f: f | {AN_IMAGE: b"GIF89a" * 9}, rf"{AN_IMAGE}: not a PNG"),
    "colour": (
        lambda f: f | {AN_IMAGE: png(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8))},
        rf"{AN_IMAGE}: image of mode 'RGB', 8-bit grey is needed",
    ),
    "16 bit": (lambda f: f | {AN_IMAGE: png(np.full(SIZE, 999, np.uint16))}, rf"{AN_IMAGE}: image of mode 'I;16'"),
    "a fifth rater": (
        lambda f: f | {A_MASK.replace("_l2", "_l4"): f[A_MASK]},
        r"z-10.5_c0_l4.png: rater 4, but raters 0 to 3 are read",
    ),
    "a patient in two splits": (
        lambda f: f | crops([Made("test", ALL[0].patient, "x", ALL[0].image, ALL[0].masks)]),
        r"'LIDC-IDRI-0001' is in split 'train' and in split 'test'",
    ),
    "a slice twice": (
        lambda f: f | {f"copy/{name}": data for name, data in f.items()},
        r"(lidc_crops_\w+/\w+/\w+/[^:]*\.png) and .*\1: the same file twice; keep one",
    ),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", list(BAD_FILES))
def test_bad_files(tmp_path: Path, name: str, packed: bool) -> None:
    spoil, message = BAD_FILES[name]
    files = spoil(crops())
    source = archive(tmp_path / "crops.tar.gz", files) if packed else lay_out(tmp_path / "crops", files)
    out = tmp_path / "out" / "store"
    with pytest.raises(InputError, match=message) as caught:
        prepare_lidc(out, source)
    assert "\n" not in str(caught.value)
    assert not out.parent.exists() or not list(out.parent.iterdir())


def test_a_huge_png_is_refused_by_its_header(tmp_path: Path) -> None:
    data = bytearray(grey(0))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    source = lay_out(tmp_path / "crops", crops() | {FIRST_IMAGE: bytes(data)})
    with pytest.raises(InputError, match="image of 60000x60000 pixels"):
        prepare_lidc(tmp_path / "store", source)


def spoiled(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    entries = as_pickle()
    change(entries["LIDC-IDRI-0002_slice4"])
    return entries


BAD_PICKLES = [
    ([1, 2], "holds a list; a dict of slices is needed"),
    ({}, "holds a dict; a dict of slices is needed"),
    ({"a": 5}, "entry 'a' has no series_uid"),
    (spoiled(lambda e: e.pop("series_uid")), "entry 'LIDC-IDRI-0002_slice4' has no series_uid"),
    (spoiled(lambda e: e.pop("image")), "slice4', image: not an array of numbers"),
    (spoiled(lambda e: e.update(image=e["image"] * 255)), r"slice4'.*float64 values 0.* to 25\d.*float from 0 to 1"),
    (spoiled(lambda e: e.update(image=e["image"] * np.nan)), "slice4'.*nan"),
    (spoiled(lambda e: e.update(image=e["image"][:5])), r"image of shape \[5, 20\].*\[24, 20\]"),
    (spoiled(lambda e: e["masks"].append(e["masks"][0])), "'masks' must be a list of 1 to 4"),
    (spoiled(lambda e: e.update(masks=[])), "'masks' must be a list of 1 to 4"),
    (spoiled(lambda e: e.update(masks=[e["masks"][0] * 0.5])), "mask 0: the mask holds the value 0.5"),
    (spoiled(lambda e: e.update(masks=[e["masks"][0][:, :3]])), r"mask 0 of shape \[24, 3\]"),
]


@pytest.mark.parametrize(("entries", "message"), BAD_PICKLES)
def test_bad_pickles(tmp_path: Path, entries: Any, message: str) -> None:
    file = tmp_path / "data_lidc.pickle"
    file.write_bytes(pickle.dumps(entries))
    with pytest.raises(InputError, match=message):
        prepare_lidc(tmp_path / "store", file)
    assert not (tmp_path / "store").exists()


def test_a_hostile_pickle(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "mark"),)

    file = tmp_path / "data_lidc.pickle"
    file.write_bytes(pickle.dumps(spoiled(lambda e: e.update(image=Hostile()))))
    with pytest.raises(InputError, match=r"the pickle asks for posix\.mkdir"):
        prepare_lidc(tmp_path / "store", file)
    assert not (tmp_path / "mark").exists()


BAD_ARRAYS = [
    ({"labels": None}, "no array labels; it holds ids, images"),
    ({"images": np.zeros((25, 24, 21), np.uint8)}, r"images \[25, 24, 21\] and labels \[25, 4, 24, 20\] do not fit"),
    ({"images": np.zeros((25, *SIZE), np.int32)}, "int32 values 0 to 0; uint8, or float from 0 to 1"),
    ({"images": np.full((25, *SIZE), 2.0)}, "float64 values 2 to 2"),
    ({"labels": np.full((25, 4, *SIZE), 255)}, "every rater is missing"),
    ({"labels": np.arange(25 * 4 * 480).reshape(25, 4, *SIZE) % 3}, "the mask holds the value 1"),
    ({"patients": np.array(["a"])}, r"'patients' has shape \[1\]; \[25\], one per image"),
    ({"split": np.array(["dev"] * 25)}, "split 'dev'; only train, val, test"),
    ({"ids": np.array(["a"] * 25)}, "the id 'a' twice"),
    ({"patients": np.array(["a"] * 25)}, "'a' is in split 'train' and in split 'val'"),
    ({"ids": np.array(["a", 5] + [None] * 23, dtype=object)}, "cannot be read as .npz without pickled objects"),
]


@pytest.mark.parametrize(("change", "message"), BAD_ARRAYS)
def test_bad_npz(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = tmp_path / "lidc.npz"
    np.savez(file, **{name: array for name, array in (arrays() | change).items() if array is not None})
    with pytest.raises(InputError, match=message):
        prepare_lidc(tmp_path / "store", file)


def test_damaged_npz(tmp_path: Path) -> None:
    file = tmp_path / "lidc.npz"
    np.savez(file, **arrays())
    for damaged in (file.read_bytes()[:500], b"", b"no npz", np.array(1).tobytes()):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"lidc\.npz: cannot be read"):
            prepare_lidc(tmp_path / "store", file)


def test_bad_arguments(tmp_path: Path) -> None:
    source = lay_out(tmp_path / "slices", slice_folders())
    out = tmp_path / "store"
    with pytest.raises(InputError, match=r"one of --source PATH, --dicom DIR and --download is needed$"):
        prepare_lidc(out)
    with pytest.raises(InputError, match="needed, not several"):
        prepare_lidc(out, source, download=True)
    with pytest.raises(InputError, match=r"--source .*none: no such file or folder"):
        prepare_lidc(out, tmp_path / "none")
    with pytest.raises(InputError, match="--limit 0"):
        prepare_lidc(out, source, limit=0)
    for shares in ("", "60/x", "-1/2", "0/0", "1/1/1/1", "nan", "inf/1"):
        with pytest.raises(InputError, match="--splits"):
            prepare_lidc(out, source, splits=shares)
    few = lay_out(tmp_path / "few", slice_folders(make("", range(2))))
    with pytest.raises(InputError, match="2 patients cannot fill the splits train/val/test"):
        prepare_lidc(out, few)
    assert not out.exists()


def test_unknown_layout(tmp_path: Path) -> None:
    source = lay_out(tmp_path / "source", {"a/b.png": grey(1), "c.txt": b"x"})
    wanted = r"none of the layouts SPLIT/images/PATIENT/NAME.png .*nodule-N.*\.tar\.gz .*data_lidc\.pickle, or \.npz"
    for unknown in (source, source / "c.txt", archive(tmp_path / "a.zip", {"b.png": grey(1)})):
        with pytest.raises(InputError, match=wanted):
            prepare_lidc(tmp_path / "store", unknown)
    (source / "a.npz").touch()
    (source / "b.pickle").touch()
    with pytest.raises(InputError, match=r"holds a\.npz and b\.pickle; name one of them"):
        prepare_lidc(tmp_path / "store", source)


def test_an_existing_store_is_kept_unless_told(tmp_path: Path) -> None:
    source = lay_out(tmp_path / "crops", crops())
    out = prepare_lidc(tmp_path / "store", source, limit=1)
    with pytest.raises(InputError, match="--overwrite"):
        prepare_lidc(out, tmp_path / "slow to read")  # refused before the source is looked at
    prepare_lidc(out, source, overwrite=True)
    check_own_splits(open_store(out))
    shutil.rmtree(source)
    lay_out(source, crops() | {AN_IMAGE: b""})
    with pytest.raises(InputError, match="an empty file"):
        prepare_lidc(out, source, overwrite=True)
    check_own_splits(open_store(out))


PREPARE = """
import sys
from pathlib import Path
from stochseg.data.lidc import prepare_lidc
prepare_lidc(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_killed_prepare_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    source = lay_out(tmp_path / "crops", crops(ALL[:1]))
    (patient,) = source.glob("*/*/images/*")
    for n in range(700):  # enough to be at work for a while; links are quick to make
        for file in (patient / "z-0.5_c0.png", *(source.glob("*/*/gt/*/z-0.5_c0_l?.png"))):
            os.link(file, file.with_name(file.name.replace("z-0", f"z-{n + 1}")))
    out = tmp_path / "out" / "store"
    command = [sys.executable, "-c", PREPARE, str(out), str(source)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/.store.partial-*/train.labels.npy")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert [path.name[:15] for path in out.parent.iterdir()] == [".store.partial-"]
    with pytest.raises(InputError, match="no such store"):
        open_store(out)
    subprocess.run(command, check=True, capture_output=True)
    assert len(open_store(out, verify=True).split("train")) == 701


def test_real_slices(tmp_path: Path) -> None:
    script = SHARED / "unpack_lidc.py"
    if not script.exists():
        pytest.skip("needs real LIDC slices in ../shared/data")
    for layout in ("crops", "slices"):
        unpack = [sys.executable, script, tmp_path / layout, "--layout", layout, "--split", "val", "--limit", "40"]
        subprocess.run(unpack, check=True, capture_output=True)
    names, images, masks = runpy.run_path(str(script))["load"]("val", 40)
    val = open_store(prepare_lidc(tmp_path / "store", tmp_path / "crops"), verify=True).split("val")
    order = [val.ids.index(name) for name in names]
    assert sorted(order) == list(range(40))
    np.testing.assert_array_equal(val.images[order][..., 0], images)
    np.testing.assert_array_equal(val.labels[order], masks)
    store = open_store(prepare_lidc(tmp_path / "other", tmp_path / "slices", splits="50/50"), verify=True)
    wanted = {image.tobytes(): labels.tobytes() for image, labels in zip(images, masks, strict=True)}
    assert contents(store) == wanted
    assert {g for s in store.splits.values() for g in s.groups} == {name.split("/")[0] for name in names}
