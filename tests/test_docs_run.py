"""Every command of README and docs is carried out, page by page in its order, on tiny data and with tiny budgets.

What is not carried out here is named below: the test that does it, or the reason why nothing can.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stochseg.cli import main
from stochseg.data.store import open_store
from stochseg.errors import InputError

from . import test_official as official
from .conftest import write_blobs
from .documented import EVERY, LIKE_HERE, TRAINING, Call, carry_out, on_tiny_data, scripts_of
from .own_data import make, save, write_raters
from .test_blackbox_import import last, saved
from .test_cityscapes import PAPER as CITIES
from .test_cityscapes import write_streets
from .test_docs_commands import ROOT, Command, flags_of
from .test_lidc import crops, lay_out
from .test_parity_nets import PARITY

BY_TESTS = {
    "docs/own-data.md": "test_docs_own_data.py",
    "make demo": "test_presets.py",
    "stochseg prepare lidc --download": "test_download.py",
    "me/lesions": "test_hub.py",
    "python examples/blackbox.py": "test_blackbox_import.py",
    "python examples/lightning_metrics.py": "test_examples.py",
    "python examples/monai_network.py": "test_examples.py",
    "python examples/monai_sliding_window.py": "test_examples.py",
    "python examples/smp_network.py": "test_examples.py",
    "python examples/scores.py": "test_docs_metrics.py",
    "python benchmarks/results.py": "test_results.py",
    "python benchmarks/": "test_benchmarks.py",
}
"""What other tests carry out: a page, or how a command begins, or a word in it."""
BY_NONE = {
    "pip install": "changes the environment that the tests are in; `make test` installs all of these extras but zoo and wandb",
    "make ": "runs the tests that this is one of",
    "pytest ": "these tests themselves",
    "git clone": "fetches from another machine",
    "srun": "needs a cluster's scheduler",
    "export ": "sets a variable of a cluster's job",
}
ALTERNATIVES = {"docs/blackbox.md": "stochseg blackbox train"}
"""Where a page begins anew, with what it had at first: a second way to the same thing."""
RENAMED = {
    "docs/blackbox.md": {"IMAGE": "street.png"},
    "docs/distributed.md": {"scans/": "scans"},
}
"""What names on a page stand for there and nowhere else."""


def begins(call: Call, names: dict[str, str]) -> str | None:
    """The first of the names that the call begins with, or has as a word or as its page."""
    return next((name for name in names if name in (call.page, *call.words) or str(call).startswith(name)), None)


def is_mention(call: Call) -> bool:
    """Whether words in a sentence name a command without all that it needs."""
    if call.whole or call.words[0] != "stochseg" or {"--help", "--resume"} & set(call.words):
        return False
    words = tuple(LIKE_HERE.get(word, word) for word in call.words[1:])
    try:
        flags_of(Command(call.page, words, whole=True))
    except (InputError, IndexError):
        return True
    return len(words) <= 1


LINES = {call.words for call in EVERY if call.whole}
"""What is said in a sentence as well is run where it is a line."""
HERE = [
    call
    for call in EVERY
    if not begins(call, BY_TESTS) and not begins(call, BY_NONE) and not is_mention(call)
    if call.whole or call.words not in LINES
]
PLACES = sorted({call.page for call in HERE})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages speak of: images, stores, predictions, a trained run; and sources of stores."""
    base = tmp_path_factory.mktemp("documented")
    write_raters(base / "mydata", make(36, (72, 80)))
    write_blobs(base / "stores/lidc", {"train": 6, "val": 12, "test": 6}, size=96, raters=4)
    lay_out(base / "sources/lidc", crops())
    rng = np.random.default_rng(0)
    for folder in ("ours", "theirs", "raters"):
        for number in range(8):
            save(rng.integers(0, 2, (4, 16, 16), np.uint8), base / folder / f"{number}.npy")
    (base / "patients.csv").write_text("image,group\n" + "".join(f"{n},p{n // 2}\n" for n in range(8)))
    image = open_store(base / "stores/lidc").split("test").images[0, :, :, 0]
    for name in ("scan.png", "scans/1.png", "scans/2.png"):
        save(np.asarray(image), base / name)
    return base


@pytest.fixture(scope="module")
def run(world: Path) -> None:
    settings = ["--calibration.widths", "[8,16]", "--refinement.widths", "[8,16]", *TRAINING.split()]
    out = ["--data", str(world / "stores/lidc"), "--out", str(world / "runs/lidc")]
    assert main(["train", "--config", "lidc", *out, *settings]) == 0


@pytest.fixture(scope="module")
def streets(world: Path) -> None:
    """Street scenes in the layout of Cityscapes, the store made of them, and a black box's answers."""
    source = write_streets(world / "sources/streets", CITIES, size=(256, 512))
    store = world / "stores/streets"
    assert main(["prepare", "cityscapes", "--source", str(source), "--out", str(store)]) == 0
    saved(store, world / "predictions", lambda name: f"{last(name)}.png")
    split = open_store(store).split("test")
    Image.fromarray(np.asarray(split.images[0])).save(world / "street.png")
    shutil.copy(world / f"predictions/{last(split.ids[0])}.png", world / "predictions/street.png")
    shutil.copytree(store, world / "stores/cityscapes")
    given = ["--data", str(world / "stores/cityscapes"), "--predictions", str(world / "predictions")]
    assert main(["blackbox", "import", *given]) == 0


@pytest.fixture(scope="module")
def checkpoints(world: Path) -> None:
    """Of the official code, where their recorded weights are."""
    if PARITY.is_dir():
        official.write(world / "LIDC_CAR_Model.pickle", official.checkpoint("lidc", "prior"))
        official.write(world / "CS_CAR_Model.pickle", official.checkpoint("cityscapes", "prior"))


def carry_out_page(page: str, world: Path, folder: Path, sentences: bool) -> None:
    shutil.copytree(world, folder, dirs_exist_ok=True)
    for call in HERE:
        if call.page == page and (call.whole or sentences):
            if str(call).startswith(ALTERNATIVES.get(page, "nothing")):
                shutil.rmtree(folder / "stores")
                shutil.copytree(world / "stores", folder / "stores")
            if "official" in str(call) and not PARITY.is_dir():
                continue
            words = on_tiny_data(call, RENAMED.get(page, {}))
            assert carry_out(words, folder) == 0, f"{page}: {call}, as {' '.join(words)}"


def test_the_lines_of_the_readme_run(world: Path, run: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    carry_out_page("README.md", world, tmp_path, sentences=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", PLACES)
def test_every_page_runs(
    page: str,
    world: Path,
    run: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    said = " ".join(str(call) for call in HERE if call.page == page)
    for words, fixture in (("street", "streets"), ("cityscapes", "streets"), ("official", "checkpoints")):
        if words in said:
            request.getfixturevalue(fixture)
    monkeypatch.chdir(tmp_path)
    carry_out_page(page, world, tmp_path, sentences=True)


def test_none_is_forgotten_and_no_exception_is_stale() -> None:
    assert len(HERE) > 60
    for name, file in BY_TESTS.items():
        assert any(begins(call, {name: ""}) for call in EVERY), f"{name}: no page has it any more"
        test = (ROOT / "tests" / file).read_text()
        for call in EVERY:
            if begins(call, BY_TESTS) == name:
                assert all(script.split("/")[1] in test for script in scripts_of(call.words)), f"{file}: {call}"
    for name in BY_NONE:
        assert any(begins(call, {name: ""}) for call in EVERY), f"{name}: no page has it any more"
