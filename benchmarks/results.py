"""Runs again what docs/results.md records: the commands are read from that page, so the two cannot part.

    python benchmarks/results.py --list
    python benchmarks/results.py --only lidc film30 --set SRC=PATH

A row is a run of the page, with all that it takes: its store, a black box, the training, the evaluation. What is there
already is kept, and a training that was stopped goes on, so the script may be ended and started again. At the end the
scores stand beside those that the page records. In a section whose table has a column `flags`, each of its lines is a
row of its own: the section's training with those flags.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import dropwhile, takewhile
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs/results.md"
LINE_OF = {
    "lidc": "`lidc`, 20 minutes",
    "film30": "film, 3,140 steps",
    "lidc-paper64": "the paper's losses, 20 minutes",
    "ssn": "stochastic segmentation networks",
    "punet": "Probabilistic U-Net",
    "demo": "this model, 3 minutes",
}
"""How the line of a run begins in the tables of the page."""
SCORES = {"GED": "ged", "matched IoU": "hm_iou", "diversity": "diversity"}
FILLING = (("blackbox", "predict"), ("blackbox", "import"))
"""Commands that add to the store of --data."""
BUDGETS = ("--minutes", "--steps", "--epochs")
PLACEHOLDER = re.compile(r"[A-Z]{3,}")
Words = tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """commands: in order; run: its directory, where it leaves scores; recorded: cells of the page, by column."""

    name: str
    commands: tuple[Words, ...]
    run: Path | None = None
    recorded: dict[str, str] = field(default_factory=dict)


def rows_of(page: str) -> list[Row]:
    """All rows of a page."""
    ours = [words[1:] for words in _commands(page) if words[0] == "stochseg"]
    return [
        row for section in re.split(r"^#+ .*$", page, flags=re.MULTILINE) for row in _rows_of_section(section, ours)
    ]


def _rows_of_section(section: str, all_ours: Sequence[Words]) -> Iterator[Row]:
    commands = _commands(section)
    ours = [words[1:] for words in commands if words[0] == "stochseg"]
    lines = list(_lines(section))
    evaluations = [words for words in ours if words[0] == "evaluate"]
    for words in ours:
        if words[0] != "train":
            continue
        if any("flags" in line for line in lines):
            for number, line in enumerate(lines, 1):
                run = f"{value(words, '--out')}-{number}"
                flagged = (*_with(words, "--out", run), *shlex.split(line["flags"].strip("`")))
                steps = (*_before(flagged, all_ours), flagged, _judged(run, words, ours))
                yield Row(Path(run).name, steps, Path(run), line)
        else:
            run = value(words, "--out")
            begins = LINE_OF.get(Path(run).name)
            found = (line for line in lines if begins and line[""].strip("*").startswith(begins))
            steps = (*_before(words, all_ours), words)
            if value(words, "--data"):  # a study has data of its own, and judges itself
                own = [each for each in evaluations if each[1] == run]
                steps = (*steps, *(own or [_judged(run, words, ours)]))
            yield Row(Path(run).name, steps, Path(run), next(found, {}))
    for words in ours:
        if words[0] == "calibrate":
            yield Row(f"{Path(words[1]).name}-calibrate", (*_before(words, all_ours), words))
    for words in commands:
        if words[0] != "stochseg":
            name = Path(next((word for word in words if word.endswith(".py")), words[-1])).stem
            begins = LINE_OF.get(name)
            found = (line for line in lines if begins and line.get("", "").strip("*").startswith(begins))
            steps = (*_before(words, all_ours), words)
            yield Row(name, steps, Path("runs") / name if begins else None, next(found, {}))


def _judged(run: str, train: Words, ours: Sequence[Words]) -> Words:
    """The evaluation of a run that has none of its own on the page: as its section has others."""
    like = next((words for words in ours if words[0] == "evaluate"), None)
    if like is None:
        return ("evaluate", run, "--data", value(train, "--data"), "--split", "val", "--samples", "16")
    return _with(("evaluate", run, *like[2:]), "--data", value(train, "--data"))


def _before(last: Words, ours: Sequence[Words]) -> list[Words]:
    """What makes the stores and runs that a command reads, as far as the page says."""
    needed = {word for word in last if "/" in word} - {value(last, "--out")}
    found: list[Words] = []
    at = ours.index(last) if last in ours else len(ours)
    for words in reversed(ours[:at]):
        makes = value(words, "--data" if words[:2] in FILLING else "--out")
        if makes in needed:
            found.insert(0, words)
            needed |= {word for word in words if "/" in word}
    return found


def _commands(text: str) -> list[Words]:
    return [words for line in _code(text) if (words := tuple(shlex.split(line, comments=True)))]


def _code(section: str) -> list[str]:
    blocks = re.findall(r"(?:^    .*\\\n)*^    .*$", section, re.MULTILINE)
    return [re.sub(r"\\\n\s*", " ", block[4:]) for block in blocks]


def _lines(section: str) -> Iterator[dict[str, str]]:
    """The lines of the first table, by the heads of its columns up to a bracket."""
    from_head = dropwhile(lambda line: not line.startswith("|"), section.splitlines())
    table = list(takewhile(lambda line: line.startswith("|"), from_head))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    heads = [head.partition(" (")[0] for head in cells[0]] if cells else []
    for line in cells[2:]:
        if len(line) == len(heads):
            yield dict(zip(heads, line))


def value(words: Words, flag: str) -> str:
    """What follows a flag, or nothing."""
    return words[words.index(flag) + 1] if flag in words else ""


def _with(words: Words, flag: str, text: str) -> Words:
    at = words.index(flag) + 1
    return (*words[:at], text, *words[at + 1 :])


def for_minutes(words: Words, minutes: float) -> Words:
    """A training with another budget."""
    if words[0] != "train" and words[:2] != ("blackbox", "train"):
        return words
    at = {i + k for i, word in enumerate(words) if word in BUDGETS for k in (0, 1)}
    return (*(word for i, word in enumerate(words) if i not in at), "--minutes", str(minutes))


def to_do(words: Words, root: Path) -> Words | None:
    """What is left to do of a command of stochseg; None where nothing is."""
    out = root / value(words, "--out")
    match words:
        case ("prepare", *_):
            return None if (out / "index.json").is_file() else words
        case ("train", *_) | ("blackbox", "train", *_) if (out / "config.yaml").is_file():
            kept = [word for flag in ("--data", "--out") for word in (flag, value(words, flag))]
            return (*words[: words.index("train") + 1], *kept, "--resume")
        case ("blackbox", "predict" | "import", *_):
            splits = json.loads((root / value(words, "--data") / "index.json").read_text())["splits"]
            return None if all("blackbox" in split["arrays"] for split in splits.values()) else words
        case ("evaluate", run, *_):
            file = root / run / "evaluation" / _scores_of(words)
            model = root / run / "model/model.safetensors"
            return None if file.is_file() and file.stat().st_mtime > model.stat().st_mtime else words
    return words


def _scores_of(words: Words) -> str:
    """The file that an evaluation writes its scores to; draws that are not independent have one of their own."""
    draws, count = value(words, "--draws"), value(words, "--orientations")
    parts = [value(words, "--split") or "test"]
    parts += [draws] if draws not in ("", "independent") else []
    parts += [f"{count}_orientations"] if count not in ("", "1") else []
    return "_".join(parts) + ".json"


def carry_out(row: Row, root: Path, minutes: float | None) -> None:
    for words in row.commands:
        if words[0] in ("make", "pip", "python"):
            command: Sequence[str] | str = " ".join(words).replace("benchmarks/", f"{Path(__file__).parent}/")
            if row.run and (root / row.run / "evaluation").is_dir():
                print(f"there already: {command}", flush=True)
                continue
        else:
            wanted = words if minutes is None else for_minutes(words, minutes)
            left = to_do(wanted, root)
            if left is None:
                print(f"there already: stochseg {shlex.join(words)}", flush=True)
                continue
            if unset := [word for word in left if PLACEHOLDER.fullmatch(word)]:
                sys.exit(f"{row.name}: say where {unset[0]} is: --set {unset[0]}=PATH")
            command = [sys.executable, "-m", "stochseg", *left]
        print(f"$ {command if isinstance(command, str) else 'stochseg ' + shlex.join(command[3:])}", flush=True)
        subprocess.run(command, cwd=root, shell=isinstance(command, str), check=True, env=_environment())


def _environment() -> dict[str, str]:
    """Whose `python` and `pip` are this one's."""
    here = str(Path(sys.executable).parent)
    return os.environ | {"PATH": os.pathsep.join([here, os.environ.get("PATH", "")])}


def beside(row: Row, root: Path) -> str:
    """The scores of a row, and those that the page records, as lines of its table."""
    judged = [_scores_of(words) for words in row.commands if words[0] == "evaluate"] or ["test.json", "val.json"]
    files = [file for name in judged if row.run and (file := root / row.run / "evaluation" / name).is_file()]
    if not files:
        return f"{row.name}: done; compare with the page"
    scores = json.loads(files[0].read_text())
    cells = [_shown(scores.get(key), scores.get(f"{key}_interval")) for key in SCORES.values()]
    recorded = [row.recorded.get(head, "").strip("*") for head in SCORES]
    lines = [("", *SCORES), ("---",) * 4, (row.name, *cells), ("*recorded*", *recorded)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(number: float | None, interval: Sequence[float] | None) -> str:
    def plain(x: float) -> str:
        return f"{x:.3f}".replace("0.", ".", 1)

    if number is None:
        return ""
    return plain(number) + (f" [{', '.join(plain(end) for end in interval)}]" if interval else "")


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="show the rows and their commands, run nothing")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="these rows; default: all")
    parser.add_argument(
        "--set", nargs="+", metavar="NAME=PATH", default=[], help="where the sources are, such as SRC=PATH"
    )
    parser.add_argument("--minutes", type=float, help="another budget for every training, to try the way itself")
    parser.add_argument("--root", type=Path, default=Path(), help="where stores/ and runs/ lie")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page that is read")
    options = parser.parse_args(given)
    paths = dict(one.split("=", 1) for one in options.set)
    rows = [
        replace(row, commands=tuple(tuple(paths.get(word, word) for word in words) for words in row.commands))
        for row in rows_of(options.page.read_text())
    ]
    if unknown := sorted(set(options.only or ()) - {row.name for row in rows}):
        sys.exit(f"--only {unknown[0]}: no such row; there are {', '.join(row.name for row in rows)}")
    for row in rows:
        if options.only and row.name not in options.only:
            continue
        if options.list:
            print(row.name, *(f"    {shlex.join(words)}" for words in row.commands), sep="\n")
        else:
            carry_out(row, options.root, options.minutes)
            print(beside(row, options.root), flush=True)


if __name__ == "__main__":
    main()
