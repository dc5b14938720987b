"""docs/own-data.md: every command in it runs, and prints what the page shows."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from stochseg.cli import main
from stochseg.data.folder_classes import read_classes
from stochseg.data.store import open_store

from .own_data import make, save, write_raters
from .test_training import SMALL, flags

PAGE = (Path(__file__).parents[1] / "docs/own-data.md").read_text()
COMMANDS = re.findall(r"^    (stochseg [^#\n]+?)\s*(?:#.*)?$", PAGE, re.MULTILINE)
PRINTED = re.search(r"<!-- printed -->\n```\n(.*?)```", PAGE, re.DOTALL)
SHORT = flags(SMALL | {"steps": 1, "validation.images": None})


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data that the page speaks of, in the working directory."""
    monkeypatch.chdir(tmp_path)
    made = make()
    write_raters(tmp_path / "mydata", made)
    lines = [f"{one.name},{'train' if n < 9 else 'val'},g{n // 3}" for n, one in enumerate(made)]
    (tmp_path / "splits.csv").write_text("\n".join(["image,split,group", *lines]))
    write_raters(tmp_path / "photos", [*make(6, (210, 260)), *make(9, (200, 300))[6:]])
    return tmp_path


def medical(root: Path) -> None:
    """ct: DICOM series with segmentations; mr: NIfTI volumes; LIDC-IDRI: series with readings."""
    pytest.importorskip("nibabel", reason='needs nibabel: pip install "stochseg[medical]"')
    from .made_dicom import nodule, write_readings, write_segmentation, write_series

    rng = np.random.default_rng(0)
    for n in range(3):
        stored = rng.integers(0, 2000, (3, 24, 20)).astype(np.int16)
        segments = np.zeros((3, 24, 20), np.uint8)
        segments[1, 5:9, 5:9] = 1
        uids = write_series(root / f"ct/images/case{n}", stored, f"1.2.{n}")
        write_segmentation(root / f"ct/raters/ann/case{n}.dcm", segments, uids)
        save(rng.normal(300, 90, (3, 24, 20)).astype(np.float32), root / f"mr/images/case{n}.nii.gz")
        save(segments, root / f"mr/labels/case{n}_ann.nii.gz")
        series = f"1.3.{n}"
        place = root / f"LIDC-IDRI/LIDC-IDRI-000{n}"
        uids = write_series(place, rng.integers(0, 2000, (1, 140, 140)).astype(np.int16), series, PatientID=f"P{n}")
        drawn = nodule("a", [(uids[0], 0.0, True, [(60, 60), (80, 60), (80, 75), (60, 75)])])
        write_readings(place / "069.xml", series, [[drawn], [drawn], [], []])


def run(command: str) -> int:
    words = shlex.split(command)[1:]
    return main([*words, *SHORT] if words[0] == "train" else words)


def test_the_way_from_files_to_samples(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = COMMANDS[:5]
    assert [command.split()[1] for command in first] == ["prepare", "prepare", "train", "evaluate", "sample"]
    assert PRINTED is not None
    assert run(first[0]) == 0
    assert capsys.readouterr().err == PRINTED[1]
    assert [run(command) for command in first[1:]] == [0] * 4
    assert (data / "runs/mine/evaluation/test.json").is_file()
    assert (data / "samples/scan00/samples.npz").is_file()


def test_every_other_command(data: Path) -> None:
    medical(data)
    others = COMMANDS[5:]
    assert len(others) == 8
    for command in others:
        assert run(command) == 0, command
    stores = {path.name: open_store(path) for path in (data / "stores").iterdir()}
    sizes = {name: store.split("train").images.shape[1:3] for name, store in stores.items()}
    assert sizes == {
        "split": (48, 64),
        "crops": (200, 200),
        "tiles": (128, 128),
        "small": (120, 160),
        "ct": (24, 20),
        "mr": (24, 20),
        "lidc": (128, 128),
        "lidc64": (64, 64),
    }
    assert stores["lidc"].split("train").labels[0].sum((1, 2)).tolist() == [19 * 14, 19 * 14, 0, 0]
    assert len(stores["ct"].split("train")) == 1  # the one slice that is marked


def test_the_yaml_and_the_flags_are_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    block = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    (tmp_path / "classes.yaml").write_text(block[1])
    specs = read_classes(tmp_path / "classes.yaml")
    assert [(spec.name, spec.values, spec.ignore) for spec in specs] == [
        ("background", None, False),
        ("lesion", (1, 2, 255), False),
        ("unclear", (9,), True),
    ]
    for command in (["prepare", "folder"], ["prepare", "lidc"], ["train"], ["evaluate"]):
        with pytest.raises(SystemExit):
            main([*command, "--help"])
    flag = re.compile(r"--[a-z][a-z_.]*")
    assert set(flag.findall(PAGE)) <= set(flag.findall(capsys.readouterr().out))
