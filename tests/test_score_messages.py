"""`score`: what it refuses before it counts, in words of the command line, and what it says of its result."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stochseg.cli import main
from stochseg.data.map_files import read_stack
from stochseg.errors import InputError
from stochseg.metrics.conventions import CONVENTIONS
from stochseg.report.score_table import score_table
from stochseg.scoring.folders import score


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """samples of 4 and labels of 2 maps of 8 images; `one`: one label each."""
    rng = np.random.default_rng(0)
    for name, count in (("samples", 4), ("labels", 2), ("one", 1)):
        (tmp_path / name).mkdir()
        for i in range(8):
            np.save(tmp_path / name / f"img{i}.npy", rng.integers(0, 3, (count, 6, 5)))
    return tmp_path


def run(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    """Exit code and the last line on stderr; later flags replace earlier ones."""
    given = ["--samples", str(folder / "samples"), "--labels", str(folder / "labels"), "--classes", "3", *flags]
    code = main(["score", *given])
    return code, (capsys.readouterr().err.splitlines() or [""])[-1].removeprefix("stochseg: error: ")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--flips [1,2,0.3]", "--flips [1,2,0.3]: give [[from, to, probability], ...]"),
        ("--flips 1,2", "--flips 1,2: give [[from, to, probability], ...]"),
        ("--flips 5", "--flips 5: give [[from, to, probability], ...]"),
        ("--flips [[1,2]]", "--flips[0] is (1, 2); give (from, to, probability), two class ids and a number"),
        ("--flips [[1,1,0.5]]", "--flips[0] is (1, 1, 0.5); from and to are the same class, give two different ones"),
        ("--flips [[1,2,0.5]] --convention ccdm", "--convention ccdm has no --flips; take one of car, car-cityscapes,"),
        ("--flips [[1,2,0.5]] --convention values", "--convention values has no --flips; take one of car,"),
        ("--flips [[1,2,0.5]]", "img0.npy: 2 labels; with --flips give one, that is not flipped"),
        ("--convention kohl", "--convention kohl counts the classes that flip: give --flips [[from, to, probability]"),
        ("--convention best", "--convention best: not known; choose one of car, "),
        ("--ignore 7", "--ignore 7: with --classes 3 it is one of 0 to 2"),
        ("--classes 1", "--classes 1: give the number of classes, the background 0 included, 2 to 255"),
        ("--classes 2 --ignore 1", "--classes 2 with --ignore 1 leaves no class to score"),
        ("--labels=", "--labels is empty; give a path"),
        ("--groups=", "--groups is empty; give a path"),
        ("--out=", "--out is empty; give a path"),
        ("--groups nope.csv", "--groups nope.csv: is not there; give a text file with the columns image,group"),
    ],
)
def test_messages_name_flags(flags: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run(folder, capsys, *flags.split())
    assert code == 2
    assert message in said


def test_an_empty_folder_of_samples(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--samples", "", "--labels", str(folder / "labels"), "--classes", "3"]) == 2
    assert "--samples is empty" in capsys.readouterr().err


def test_flips_on_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "o.json"
    code, _ = run(folder, capsys, "--labels", str(folder / "one"), "--flips", "[[1, 2, 0.25]]", "--out", str(out))
    assert code == 0
    found = json.loads(out.read_text())
    assert (found["convention"], found["flips"]) == ("car-cityscapes", [[1, 2, 0.25]])
    python = score(folder / "samples", folder / "one", 3, flips=[(1, 2, 0.25)])
    assert found["ged"] == python["ged"]


def test_samples_that_do_not_fit_the_convention_are_named(folder: Path) -> None:
    for file in (folder / "samples").iterdir():
        np.save(file, np.zeros((3, 6, 5), int))
    with pytest.raises(
        InputError, match=r"samples/img0.npy with --convention car: 3 samples are no multiple of 2 labels"
    ):
        score(folder / "samples", folder / "labels", 3)


def test_help_lists_all_conventions_and_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["score", "--help"])
    text = "".join(capsys.readouterr().out.split())
    assert all(name in text for name in CONVENTIONS)
    assert "carthencountsascar-cityscapes" in text
    assert "endswithexitcode3" in text


FOREIGN: dict[str, Callable[[Path], Any]] = {
    "json of another program": lambda f: f.write_text('{"mine": 1}'),
    "list": lambda f: f.write_text("[1]"),
    "no json": lambda f: f.write_text("mine"),
    "npz of another program": lambda f: np.savez(f.with_suffix(".npz"), mine=1),
    "no npz": lambda f: f.with_suffix(".npz").write_text("mine"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_files_of_others_are_not_replaced(case: str, folder: Path) -> None:
    FOREIGN[case](folder / "data.json")
    (there,) = folder.glob("data.*")
    before = there.read_bytes()
    with pytest.raises(
        InputError, match=rf"--out .*data.json: would replace .*{there.name}, which `score` did not write"
    ):
        score(folder / "samples", folder / "labels", 3, out=folder / "data.json")
    assert there.read_bytes() == before
    assert list(folder.glob("data.*")) == [there]


def test_files_of_score_are_replaced(folder: Path) -> None:
    """Those of one method by those of a comparison, and back."""
    both = [folder / "samples"] * 2
    for samples in (folder / "samples", both, both, folder / "samples"):
        score(samples, folder / "labels", 3, out=folder / "data.json")
    assert "samples_folder" in json.loads((folder / "data.json").read_text())


def test_a_place_to_write_that_is_none_is_found_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "file").write_text("")
    (folder / "samples/img0.npy").write_bytes(b"damaged")  # what would be found later
    code, said = run(folder, capsys, "--out", str(folder / "file/o.json"))
    assert code == 2
    assert said.startswith(f"--out {folder / 'file/o.json'}: nothing can be written in {folder / 'file'};")


def test_where_scores_are_written_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run(folder, capsys, "--out", str(folder / "new/o.json"))
    assert code == 0
    assert said == f"scores written: {folder / 'new/o.json'}, and the values of every image: {folder / 'new/o.npz'}"
    assert sorted(f.name for f in (folder / "new").iterdir()) == ["o.json", "o.npz"]


BAD: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "nan weight": (
        "a.npz",
        lambda f: np.savez(f, m=np.zeros((2, 4, 4), int), weights=[1, np.nan]),
        "weights hold nan;",
    ),
    "low weight": ("a.npz", lambda f: np.savez(f, m=np.zeros((2, 4, 4), int), weights=[0.5, -2]), "weights hold -2;"),
    "endless weight": ("a.npz", lambda f: np.savez(f, m=np.zeros((1, 4, 4), int), weights=[np.inf]), "hold inf;"),
    "no weight": ("a.npz", lambda f: np.savez(f, m=np.zeros((1, 4, 4), int), weights=[0]), "weights are all 0;"),
    "empty npz": ("a.npz", lambda f: np.savez(f), "holds no maps; save an array named 'maps'"),
    "only weights": ("a.npz", lambda f: np.savez(f, weights=[1]), "holds no maps; save an array named 'maps'"),
    "no maps": ("a.npy", lambda f: np.save(f, np.zeros((0, 4, 4), int)), r"holds no pixel; save maps \[n h w\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_files_that_cannot_be_read_say_what_they_hold(case: str, tmp_path: Path) -> None:
    name, write, message = BAD[case]
    write(tmp_path / name)
    with pytest.raises(InputError, match=message):
        read_stack(tmp_path / name, 2)


@pytest.mark.parametrize("kept", [40, 50, 100, 300])
@pytest.mark.parametrize("mode", ["L", "P"])
def test_a_truncated_png_is_named_once(mode: str, kept: int, tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 2, (64, 64)).astype(np.uint8))
    if mode == "P":
        image.putpalette([0, 0, 0, 255, 0, 0])
    file = tmp_path / "a.png"
    image.save(file)
    data = file.read_bytes()
    file.write_bytes(data[:kept])
    with pytest.raises(InputError) as caught:
        read_stack(file, 2)
    assert str(caught.value).count("a.png") == 1
    assert "BytesIO" not in str(caught.value)


def compared(folder: Path, images: int) -> tuple[dict[str, Any], dict[str, list[str]], str]:
    """Good samples A and bad ones B of so many images: result, rows of the table by first word, and the table."""
    for name in ("good", "bad", "truth"):
        (folder / name).mkdir()
    for i in range(images):
        truth = np.zeros((2, 6, 6), int)
        truth[:, : 2 + i % 3] = 1
        for name, maps in (("truth", truth), ("good", truth), ("bad", 1 - truth)):
            np.save(folder / name / f"{i}.npy", maps)
    result = score([folder / "good", folder / "bad"], folder / "truth", 2)
    table = score_table(result)
    return result, {line.split()[0]: line.split() for line in table.splitlines() if line}, table


@pytest.mark.parametrize(("images", "letter"), [(4, None), (5, None), (6, "A")])
def test_better_needs_enough_groups(images: int, letter: str | None, tmp_path: Path) -> None:
    """As sure as it can be, 5 images have p = 2/32."""
    result, rows, table = compared(tmp_path, images)
    entry = result["difference"]["ged"]
    assert entry["interval"][1] < 0  # which alone said that A is better
    assert entry["p_value"] == 2 / 2**images
    assert (rows["GED"][-2] == "A") == (letter == "A")
    assert ("A" in rows["calibration"][6:]) == (letter == "A")
    assert (f"{images} images: fewer than 6 cannot tell which is better" in table) == (letter is None)


def test_better_agrees_with_p(tmp_path: Path) -> None:
    result, _, _ = compared(tmp_path, 8)
    entry = result["difference"]["ged"]
    for p, letter in ((0.049, "A"), (0.05, "="), (0.125, "=")):
        entry["p_value"] = p
        row = next(line.split() for line in score_table(result).splitlines() if line.startswith("GED"))
        assert row[-2] == letter


def test_one_is_not_counted_as_several(tmp_path: Path) -> None:
    for name in ("s", "l"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "a.npy", np.ones((1, 4, 4), int))
    np.save(tmp_path / "l" / "b.npy", np.ones((2, 4, 4), int))
    (tmp_path / "g.csv").write_text("image,group\na,p\n")
    table = score_table(score(tmp_path / "s", tmp_path / "l", 2, on_missing="skip", groups=tmp_path / "g.csv"))
    assert "1 image of 1 group, 1 rater, 2 classes, convention car; 1 sample of an image" in table
    assert "no intervals: they need at least 2 groups" in table
    assert "skipped: 1 image without samples or labels (b)" in table
    np.save(tmp_path / "s" / "b.npy", np.ones((1, 4, 4), int))
    assert "2 raters (1 map missing)" in score_table(score(tmp_path / "s", tmp_path / "l", 2, "ccdm"))
