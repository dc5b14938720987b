"""docs/metrics.md says what examples/scores.py computes now, and names what there is."""

import re
from importlib import import_module
from pathlib import Path

import pytest
import torch
from PIL import Image

from stochseg import metrics

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/metrics.md").read_text()
BLOCK = re.compile(r"<!-- table: (\w+) -->\n\n(.*?)\n\n", re.DOTALL)
NUMBER = re.compile(r"-?\d+\.\d+")
LARGEST_PICTURE = 150_000


@pytest.fixture(scope="module")
def printed():
    torch.set_num_threads(1)  # before any test does
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "examples")
        scores = import_module("scores")
        toy = scores.toys.make_toy()
        return scores.tables(toy, scores.all_scores(toy))


def on_page():
    return {name: text.strip("`\n") for name, text in BLOCK.findall(PAGE)}


def differences(page, now):
    """Lines whose words differ, or whose numbers differ by more than one in the last digit, which is rounding."""
    page, now = (text.replace("**", "").splitlines() for text in (page, now))
    if len(page) != len(now):
        return [f"{len(page)} lines, now {len(now)}"]
    return [f"{old} now {new}" for old, new in zip(page, now, strict=True) if not alike(old, new)]


def alike(old, new):
    numbers, others = NUMBER.findall(old), NUMBER.findall(new)
    if NUMBER.sub("#", old) != NUMBER.sub("#", new):
        return False
    steps = [10.0 ** -len(number.split(".")[1]) for number in numbers]
    return all(abs(float(a) - float(b)) < 1.5 * step for a, b, step in zip(numbers, others, steps, strict=True))


@pytest.mark.parametrize("name", ["whole", "best", "pixels", "modes", "sentence", "conventions", "streets"])
def test_every_number_is_what_the_script_prints(printed, name):
    assert on_page().keys() == printed.keys()
    assert differences(on_page()[name], printed[name]) == []


def test_a_stale_number_would_be_found():
    assert differences("| GED | 0.134 |", "| GED | **0.135** |") == []
    assert differences("| GED | 0.134 |", "| GED | 0.136 |") != []
    assert differences("| GED | 0.134 (2) |", "| GED | 0.134 (3) |") != []
    assert differences("| GED | 0.134 |", "| GED | none |") != []


def test_no_number_stands_elsewhere_than_in_a_table_of_the_script():
    text = BLOCK.sub("", PAGE)
    text = re.sub(r"\d{4}\.\d{5}", "", text)  # arXiv
    known = {number for table in on_page().values() for number in NUMBER.findall(table)}
    assert {number for number in NUMBER.findall(text) if number not in known} == set()


def test_pictures_are_there_and_small():
    names = re.findall(r"!\[[^\]]+\]\((images/[^)]+)\)", PAGE)
    assert len(names) == 4
    for name in names:
        file = ROOT / "docs" / name
        assert file.stat().st_size < LARGEST_PICTURE, name
        with Image.open(file) as picture:
            assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255), "pages may be dark: the ground is white"


def test_functions_and_conventions_exist():
    first = PAGE.split("## 2.")[0]
    functions = {name for name in re.findall(r"`([a-z_]+)`", first) if "_" in name}
    assert len(functions) > 20
    assert [name for name in sorted(functions) if not hasattr(metrics, name)] == []
    rows = re.findall(r"^\| `([a-z-]+)` \|", PAGE.split("## 4.")[1].split("## 5.")[0], re.MULTILINE)
    assert sorted([*rows, "mose-cityscapes"]) == sorted(metrics.CONVENTIONS)
