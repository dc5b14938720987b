"""The commands of README and docs: found on their pages, put onto tiny data, and carried out."""

import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stochseg.cli import main

from .test_docs_commands import FENCE, PAGES, ROOT, SPAN, code_lines, words_of

PROGRAMS = ("stochseg", "python", "torchrun", "pytest", "pip", "make", "git", "srun", "export")
LIKE_HERE = {
    **{"RUN": "runs/lidc", "STORE": "stores/lidc", "IMAGE": "scan.png", "FILE.pickle": "LIDC_CAR_Model.pickle"},
    **{"PATH": "sources/lidc", "SRC": "sources/lidc", "ROOT": "sources/streets", "CAMVID": "sources/streets"},
}
"""What stands for something of the reader's, and what it is here."""
FOLDERS = {"--samples": "ours", "--labels": "raters", "--predictions": "predictions", "--blackbox": "predictions"}
"""What DIR is after a flag; elsewhere it is the folder `samples`."""
TRAINING = "--minutes none --steps 1 --training.batch 2 --validation.images 4 --validation.samples 2"
SMALLER = {
    "calibrate": "--coverage 0.4",  # the few patients to fit on allow no more
    "compare": "--samples 4",
    "evaluate": "--samples 4",
    "prepare ambiguous": "--images 8 --val 8 --test 8",
    "prepare lidc": "--out stores/prepared",  # the made source is smaller than the crops that are trained on
    "sample": "--samples 2",
    "train": TRAINING,
    "train cityscapes": f"{TRAINING} --input.crop [32,48]",
    "train cityscapes-paper": f"{TRAINING} --input.crop [48,64] --discriminator.width 8",
    "train lidc-paper": f"{TRAINING} --input.crop 64 --discriminator.width 8 --calibration.pretrained none",
    "train regression": "--pi [0.5] --repetitions 1 --steps 4 --calibration_steps 2 --score_every 2 --width 8 --depth 2",
    "blackbox train": TRAINING,
}
"""Budgets and sizes that are smaller here, by command and preset; they take the place of those on the page."""


@dataclass(frozen=True)
class Call:
    """A command of a page: its words, the program among them, and whether it is a line of code or inside a sentence."""

    page: str
    words: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return " ".join(self.words)

    @property
    def kind(self) -> str:
        """The name of a command of stochseg, with the preset that it trains; empty for another program."""
        if "stochseg" not in self.words:
            return ""
        words = self.words[self.words.index("stochseg") + 1 :]
        if words[0] in ("prepare", "blackbox"):
            return " ".join(words[:2])
        named = f"train {words[words.index('--config') + 1]}" if words[0] == "train" and "--config" in words else ""
        return named if named in SMALLER else words[0]


def calls_of(page: Path) -> list[Call]:
    """In the order of the page: lines of code, then commands inside sentences."""
    text, name = page.read_text(), str(page.relative_to(ROOT))
    lines = [re.sub(r"\s#.*", "", line) for line in code_lines(text)]
    parts = [(part, True) for line in lines for part in line.split(" && ")]
    parts += [(span, False) for span in SPAN.findall(FENCE.sub("", text))]
    found: list[Call] = []
    for part, whole in parts:
        part = re.sub(r"^\s*(?:[A-Z_]+=\S+ )*", "", part)
        if part.split(" ")[0] not in PROGRAMS:
            continue
        shown = re.sub(r"\$\([^)]*\)", "...", part)
        if whole or "..." not in shown.replace("IMAGE...", ""):
            found.append(Call(name, words_of(shown), whole))
    return found


EVERY = [call for page in PAGES for call in calls_of(page)]


def on_tiny_data(call: Call, renamed: dict[str, str]) -> list[str]:
    """The words of a call of stochseg with names of this place and small budgets. renamed: names that a page gives."""
    words: list[str] = []
    for word in call.words:
        word = {"DIR": FOLDERS.get(words[-1] if words else "", "samples")}.get(word, word)
        words.append(renamed.get(word, LIKE_HERE.get(word, word)))
    smaller = shlex.split(SMALLER.get(call.kind, "")) if "--help" not in words and "--resume" not in words else []
    budget = any(word in ("--minutes", "--steps") for word in smaller)
    for flag in [*smaller[::2], *(("--minutes", "--steps") if budget else ())]:
        while flag in words:
            del words[words.index(flag) : words.index(flag) + 2]
    return words + smaller


def carry_out(words: list[str], folder: Path) -> int:
    """The exit code of a command, carried out in a folder that is the working directory."""
    if "--out" in words and "--resume" not in words:
        remove(folder / words[words.index("--out") + 1])
    match words[:2]:
        case ["stochseg", "serve"]:
            return serve_once(words)
        case ["stochseg", _]:
            try:
                return main(words[1:])
            except SystemExit as ended:  # --help
                return int(ended.code or 0)
        case ["torchrun", _]:
            words[words.index("--nproc-per-node") + 1] = "2"
            return subprocess.run([sys.executable, "-m", "torch.distributed.run", *words[1:]]).returncode
        case ["python", script]:
            return subprocess.run([sys.executable, ROOT / script, *words[2:]]).returncode
    raise AssertionError(f"nobody says how to run {words[0]}")


def remove(path: Path) -> None:
    """What a command of another page left, or an alternative on the same one."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def serve_once(words: list[str]) -> int:
    """Serve until the page has been fetched once."""
    command = [sys.executable, "-m", *words, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        address = next((found[1] for line in process.stderr if (found := re.search(r" at (http://\S+) ", line))), None)
        assert address, "no address was printed"
        with urllib.request.urlopen(address) as page:
            assert b"</html>" in page.read()
        process.send_signal(signal.SIGINT)
        process.stderr.read()
        return process.wait(30)


def scripts_of(words: tuple[str, ...]) -> Iterator[str]:
    yield from (word for word in words if re.fullmatch(r"(examples|benchmarks)/\w+\.py", word))
