"""The script that runs docs/results.md again: what it reads there, and a small page carried out for real."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks/results.py"
loaded = importlib.util.spec_from_file_location("results", SCRIPT)
assert loaded is not None
assert loaded.loader is not None
results = importlib.util.module_from_spec(loaded)
sys.modules["results"] = results  # dataclasses look there
loaded.loader.exec_module(results)
PAGE = """
## Small
| | GED | matched IoU | diversity (raters: .5) |
|---|---|---|---|
| **`lidc`, 20 minutes, somewhere** | **.5 [.4, .6]** | .6 | .7 |

    stochseg prepare ambiguous --out stores/made --images 8 --val 4 --test 4 --size 32
    stochseg train --config demo --data stores/made --out runs/lidc --input.crop none \\
        --calibration.widths [4,4] --refinement.widths [4,4]                           # two widths
    stochseg evaluate runs/lidc --data stores/made --split val --samples 4             # a comment

### One at a time
| | flags | GED |
|---|---|---|
| one | `--training.batch 3` | .5 |
| two |  | .4 |

And one more table, which is no rows of anything:

| | steps | GED |
|---|---|---|
| three | 3 | .3 |

    stochseg train --config demo --data stores/made --out runs/parts

### Scored twice, and a script
    stochseg train --config demo --data stores/made --out runs/twice
    stochseg evaluate runs/twice --data stores/made --split val --samples 4
    stochseg evaluate runs/twice --data stores/made --split val --samples 4 --orientations 8 --draws stratified
    python benchmarks/measuring.py --out there.json
"""
COMMAND = re.compile(r"^    (stochseg (?:train|prepare|evaluate|calibrate|blackbox) [^#\\\n]*)", re.MULTILINE)


def without_out(words: tuple[str, ...]) -> tuple[str, ...]:
    at = words.index("--out") if "--out" in words else len(words)
    return words[:at] + words[at + 2 :]


def test_every_command_of_the_page_is_in_a_row() -> None:
    page = results.PAGE.read_text()
    rows = results.rows_of(page)
    assert {"lidc", "film30", "lidc-paper64", "camvid", "demo"} <= {row.name for row in rows}
    assert len({row.name for row in rows}) == len(rows)
    carried = [
        without_out(words) for row in rows for words in row.commands
    ]  # the lines of a table have places of their own
    for line in COMMAND.findall(page):
        words = without_out(tuple(line.split()[1:]))
        assert any(one[: len(words)] == words for one in carried), line
    assert all(row.recorded.get("flags", "").strip("`")[:2] in ("", "--") for row in rows)
    for name in results.LINE_OF:
        (row,) = [row for row in rows if row.name == name]
        assert re.match(r"\**\.\d", row.recorded["GED"]), name


def test_what_a_row_takes_and_no_more() -> None:
    rows = {row.name: row for row in results.rows_of(PAGE)}
    assert list(rows) == ["lidc", "parts-1", "parts-2", "twice", "measuring"]
    assert [words[-1] for words in rows["twice"].commands[2:]] == ["4", "stratified"]
    assert [words[0] for words in rows["lidc"].commands] == ["prepare", "train", "evaluate"]
    assert rows["lidc"].commands[1][-4:] == ("--calibration.widths", "[4,4]", "--refinement.widths", "[4,4]")
    assert rows["lidc"].recorded["GED"] == "**.5 [.4, .6]**"
    prepare, train, evaluate = rows["parts-1"].commands
    assert prepare[0] == "prepare"
    assert train == (
        "train",
        *["--config", "demo", "--data", "stores/made", "--out", "runs/parts-1", "--training.batch", "3"],
    )
    assert evaluate[:4] == ("evaluate", "runs/parts-1", "--data", "stores/made")
    assert rows["parts-2"].recorded["GED"] == ".4"


def test_a_small_page_is_carried_out(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(PAGE)
    command = [sys.executable, str(SCRIPT), "--page", str(tmp_path / "page.md"), "--root", str(tmp_path)]
    command += ["--only", "lidc", "--minutes", "0.01"]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    scores = json.loads((tmp_path / "runs/lidc/evaluation/val.json").read_text())
    measured = f"| lidc | {scores['ged']:.3f}".replace(" 0.", " .")
    assert measured in first.stdout
    assert "| *recorded* | .5 [.4, .6] | .6 | .7 |" in first.stdout
    (row,) = [row for row in results.rows_of(PAGE) if row.name == "lidc"]
    left = [results.to_do(words, tmp_path) for words in row.commands]
    assert left == [None, ("train", *["--data", "stores/made", "--out", "runs/lidc", "--resume"]), None]


def test_a_script_of_the_page_is_run_as_it_stands(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    results.carry_out(results.Row("help", (("python", "benchmarks/flip_ceiling.py", "--help"),)), tmp_path, None)
    assert "usage: flip_ceiling.py" in capfd.readouterr().out


def test_what_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="--only nothing: no such row; there are lidc, "):
        results.main(["--only", "nothing"])
    with pytest.raises(SystemExit, match="lidc: say where SRC is: --set SRC=PATH"):
        results.main(["--only", "lidc", "--root", str(tmp_path)])
    results.main(["--only", "lidc", "--list", "--set", "SRC=/data/crops"])
    assert "prepare lidc --source /data/crops --out stores/lidc" in capsys.readouterr().out
