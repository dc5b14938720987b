"""The command line as a user meets it: help, one clear line for a mistake, exit codes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stochseg.cli import BLACKBOX, COMMANDS, SOURCES, main
from stochseg.command_line import new_parser, parse
from stochseg.config import Config
from stochseg.metrics.conventions import CONVENTIONS

from .test_training import SMALL, flags


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = main([str(a) for a in arguments])
    return code, capsys.readouterr().err


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    code, err = run(capsys, *arguments)
    last = err.splitlines()[-1]
    assert code == 2, err
    assert last.startswith("stochseg: error: ")
    assert "Traceback" not in err
    return last


SEVERAL = [*(["prepare", s] for s in SOURCES), *(["blackbox", b] for b in BLACKBOX)]


@pytest.mark.parametrize("command", [[], *([c] for c in COMMANDS), *SEVERAL])
def test_every_command_has_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main([*command, "--help"])
    except SystemExit as ended:
        code = int(ended.code or 0)
    out = capsys.readouterr().out
    assert code == 0
    assert out.startswith("usage: stochseg")


def test_the_help_shows_defaults_and_presets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    out = capsys.readouterr().out
    assert "lidc-paper" in out
    assert "Images a step. (type: int, default: 16)" in " ".join(out.split())
    assert "--refinement.net {film,hypotheses,paper}" in out
    with pytest.raises(SystemExit):
        main(["train", "--config", "cityscapes", "--help"])
    assert "Images a step. (type: int, default: 8)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", [*([c] for c in COMMANDS if c not in ("prepare", "blackbox")), *SEVERAL])
def test_help_names_no_types_of_python(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert not [word for word in ("<class", "Union[", "Optional[", "Literal[", "| null", "Path |") if word in out]


def test_help_keeps_choices_and_lists_conventions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "--calibration.net {unet,segnet,convnet,none}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    listed = out.split("how scores are counted: ")[1].split(";")[0].replace(" or ", ", ").split(", ")
    assert set(listed) == set(CONVENTIONS)
    assert "which split of the store. (type: str, default: test)" in out


def test_none_is_a_name_for_a_flag_with_that_choice_and_nothing_for_others() -> None:
    parser = new_parser("x", "")
    parser.add_class_arguments(Config)
    given = ["--calibration.net", "none", "--input.flips=none", "--minutes=none", "--training.clip", "none"]
    found = parse(parser, given, only_given=True)
    assert found == {"calibration.net": "none", "input.flips": "none", "minutes": None, "training.clip": None}


def test_missing_arguments_are_named_as_in_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert "missing RUN, IMAGE, --out;" in refused(capsys, "sample")


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from stochseg.cli import main; main(['--help']); print([m for m in sys.modules if m == 'torch'])"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ended.stdout.splitlines()[-1] == "[]"


def test_no_command_and_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys)[0] == 2
    assert "no such command; there are demo, prepare" in refused(capsys, "fit")
    assert "there are lidc" in refused(capsys, "prepare", "mnist")


@pytest.fixture
def slices(tmp_path: Path) -> Path:
    """A good source of six patients in slice folders, for tests to break."""
    rng = np.random.default_rng(0)
    for p in range(6):
        base = tmp_path / "source" / f"LIDC-{p}" / "nodule-1"
        for folder in ("images", *(f"mask-{k}" for k in range(4))):
            (base / folder).mkdir(parents=True)
            image = rng.integers(0, 255, (32, 32)) if folder == "images" else 255 * rng.integers(0, 2, (32, 32))
            Image.fromarray(image.astype(np.uint8)).save(base / folder / "slice-0.png")
    return tmp_path / "source"


def prepare(slices: Path, *more: object) -> list[object]:
    return ["prepare", "lidc", "--source", slices, "--out", slices.parent / "store", *more]


def test_prepare_and_overwrite(slices: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = run(capsys, *prepare(slices))
    assert code == 0
    assert "store ready" in err
    assert "exists already" in refused(capsys, *prepare(slices))
    assert run(capsys, *prepare(slices, "--overwrite"))[0] == 0


def spoil(slices: Path, what: str) -> str:
    """Break one file of the source; returns what the message must name."""
    base = slices / "LIDC-3" / "nodule-1"
    if what == "no masks":
        for k in range(4):
            (base / f"mask-{k}" / "slice-0.png").unlink()
        return "slice-0"
    if what == "size":
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(base / "mask-2" / "slice-0.png")
        return "16x16"
    if what == "values":
        Image.fromarray(np.full((32, 32), 7, np.uint8)).save(base / "mask-2" / "slice-0.png")
        return "7"
    file = base / "images" / "slice-0.png"
    file.write_bytes(file.read_bytes()[:60])
    return "images/slice-0.png"


@pytest.mark.parametrize("what", ["no masks", "size", "values", "truncated"])
def test_bad_sources_are_refused_whole(what: str, slices: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = spoil(slices, what)
    line = refused(capsys, *prepare(slices))
    assert named in line
    assert "LIDC-3" in line
    assert [p.name for p in slices.parent.iterdir()] == ["source"]


def test_missing_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(tmp_path / "nowhere") in refused(
        capsys, "prepare", "lidc", "--source", tmp_path / "nowhere", "--out", tmp_path / "s"
    )
    assert list(tmp_path.iterdir()) == []


def test_train_names_what_is_wrong(tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert "no such store" in refused(capsys, "train", "--data", tmp_path / "nothing", "--out", out)
    assert "training.batc" in refused(capsys, "train", "--data", tiny_store, "--out", out, "--training.batc", 3)
    assert "--training.batch" in refused(
        capsys, "train", "--data", tiny_store, "--out", out, "--training.batch", "many"
    )
    assert "no such preset" in refused(capsys, "train", "--data", tiny_store, "--out", out, "--config", "best")
    assert "--input.crop 64" in refused(capsys, "train", "--data", tiny_store, "--out", out, "--steps", 1)
    assert "--data" in refused(capsys, "train", "--out", out)
    assert not out.exists()


def test_evaluate_and_report_need_a_model(tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no model" in refused(capsys, "evaluate", tmp_path / "empty", "--data", tiny_store, "--split", "val")
    assert "no such run" in refused(capsys, "evaluate", tmp_path / "none", "--data", tiny_store, "--split", "val")
    assert "empty" in refused(capsys, "report", tmp_path / "empty")


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = run(capsys, "evaluate", tmp_path / "none", "--data", tmp_path, "--debug")
    assert code == 2
    assert "Traceback" in err


def test_the_whole_way(tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert run(capsys, "train", "--data", tiny_store, "--out", out, *flags(SMALL), "--steps", 3)[0] == 0
    code = main(["evaluate", str(out), "--data", str(tiny_store), "--split", "val", "--samples", "4"])
    assert code == 0
    assert "independent pixels" in capsys.readouterr().out
    assert run(capsys, "report", out)[0] == 0
    assert (out / "report.html").is_file()
