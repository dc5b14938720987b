"""The store: written whole or not at all, checked when opened."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stochseg.data.store import LESION_CLASSES, open_store
from stochseg.data.store_writer import StoreWriter
from stochseg.errors import InputError


def test_what_was_written_is_read(tiny_store: Path) -> None:
    store = open_store(tiny_store, verify=True)
    assert {name: len(split) for name, split in store.splits.items()} == {"train": 24, "val": 9}
    split = store.split("train")
    assert split.images.shape == (24, 32, 32, 1)
    assert split.labels.shape == (24, 2, 32, 32)
    assert isinstance(split.images, np.memmap)
    assert store.convention == "car"
    assert [c.name for c in store.classes] == ["background", "lesion"]


def test_absent_split_lists_those_present(tiny_store: Path) -> None:
    with pytest.raises(InputError, match=r"no split 'test'.*train, val"):
        open_store(tiny_store).split("test")


def test_interrupted_writing_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with StoreWriter(tmp_path / "s", classes=LESION_CLASSES, raters=1) as writer:
            writer.add_split("train", ["a"], ["p"], (8, 8, 1), "made")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_killed_writing_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from stochseg.data.store import *; from stochseg.data.store_writer import *\n"
        "with StoreWriter(sys.argv[1], classes=LESION_CLASSES, raters=1) as w:\n"
        "    w.add_split('train', ['a'], ['p'], (8, 8, 1), 'made'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, tmp_path / "s"], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "s").exists()
    assert not list(tmp_path.glob("**/index.json"))


def test_group_in_two_splits_is_refused(tmp_path: Path) -> None:
    def leak() -> None:
        with StoreWriter(tmp_path / "s", classes=LESION_CLASSES, raters=1) as writer:
            writer.add_split("train", ["a"], ["patient-1"], (8, 8, 1), "made")
            writer.add_split("val", ["b"], ["patient-1"], (8, 8, 1), "made")

    with pytest.raises(InputError, match=r"patient-1.*train.*val"):
        leak()
    assert not (tmp_path / "s").exists()


def test_empty_split_and_existing_target_are_refused(tmp_path: Path, tiny_store: Path) -> None:
    writer = StoreWriter(tmp_path / "s", classes=LESION_CLASSES, raters=1)
    with pytest.raises(InputError, match="'val'.*empty"), writer:
        writer.add_split("val", [], [], (8, 8, 1), "made")
    with pytest.raises(InputError, match="exists already"):
        StoreWriter(tiny_store, classes=LESION_CLASSES, raters=1)


@pytest.fixture
def copy(tiny_store: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_store, tmp_path / "copy")


def change_index(store: Path, **changes: object) -> None:
    file = store / "index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_newer_format_is_refused(copy: Path) -> None:
    change_index(copy, version=99)
    with pytest.raises(InputError, match=r"index.json: store of format 99.*update stochseg"):
        open_store(copy)


def test_damaged_index_is_refused(copy: Path) -> None:
    (copy / "index.json").write_text('{"format": "stochseg-store", "version": 1')
    with pytest.raises(InputError, match=r"index.json: not readable"):
        open_store(copy)


def test_label_outside_the_classes_is_refused(copy: Path) -> None:
    labels = np.load(copy / "train.labels.npy", mmap_mode="r+")
    labels[3, 1, 5, 5] = 7
    with pytest.raises(InputError, match=r"'train-3' has label 7.*0 to 1"):
        open_store(copy)


def test_map_partly_of_255_is_refused_and_a_whole_one_is_a_missing_rater(copy: Path) -> None:
    labels = np.load(copy / "train.labels.npy", mmap_mode="r+")
    labels[3, 1] = 255
    open_store(copy)
    labels[3, 1, 0, 0] = 0
    with pytest.raises(InputError, match="partly 255"):
        open_store(copy)


def test_another_shape_is_refused(copy: Path) -> None:
    np.save(copy / "val.images.npy", np.zeros((9, 16, 16, 1), np.uint8))
    with pytest.raises(InputError, match=r"val.images.npy: holds uint8 \[9, 16, 16, 1\]"):
        open_store(copy)


def test_truncated_array_is_refused(copy: Path) -> None:
    file = copy / "val.images.npy"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"val.images.npy"):
        open_store(copy)


def test_verify_finds_one_changed_byte(copy: Path) -> None:
    images = np.load(copy / "val.images.npy", mmap_mode="r+")
    images[0, 0, 0, 0] ^= 1
    images.flush()
    open_store(copy)
    with pytest.raises(InputError, match=r"val.images.npy: sha256"):
        open_store(copy, verify=True)


def test_no_room_on_the_disk_is_one_error_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk; filling a memory map there would kill the process."""
    code = (
        "import resource, signal, sys; from stochseg.data.store import *; from stochseg.data.store_writer import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))\n"
        "with StoreWriter(sys.argv[1], classes=LESION_CLASSES, raters=1) as w:\n"
        "    w.add_split('train', ['a'], ['p'], (128, 128, 1), 'made')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, tmp_path / "s"], check=False, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "InputError" in ended.stderr
    assert "no room for 0.0 MB (File too large)" in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("way", ["../outside", "/outside", "a\\b", ".."])
@pytest.mark.parametrize("what", ["file", "split"])
def test_names_that_lead_out_are_refused(what: str, way: str, copy: Path) -> None:
    """A black box that is added to such a store would be written there."""
    index = json.loads((copy / "index.json").read_text())
    if what == "split":
        index["splits"][way] = index["splits"].pop("val")
    else:
        index["splits"]["val"]["arrays"]["images"]["file"] = way
    (copy / "index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="leads out of the store"):
        open_store(copy)
