"""The package as a whole: cheap to import, every public name there, every example in its docs true."""

import doctest
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from stochseg import metrics

MODULES = sorted(p.stem for p in Path(metrics.__file__).parent.glob("*.py") if p.stem != "__init__")


def loaded_after(code):
    """Which heavy packages a fresh interpreter holds after the code."""
    heavy = ("torch", "scipy", "torchmetrics", "matplotlib")
    code += f"; import sys; print(*[m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_importing_is_cheap_and_scoring_needs_no_torchmetrics():
    assert loaded_after("import stochseg.metrics") == []
    assert loaded_after("from stochseg.metrics import get_convention; get_convention('car')") == []
    scoring = "import torch, stochseg.metrics as m; m.hungarian_iou(*torch.zeros(2, 1, 2, 3, 3).byte())"
    assert "torchmetrics" not in loaded_after(scoring)


def test_public_names_are_the_real_things():
    for name in metrics.__all__:
        thing = getattr(metrics, name)
        assert name == "CONVENTIONS" or thing.__name__ == name
        assert name in dir(metrics)
    with pytest.raises(AttributeError, match="no attribute 'generalised"):
        _ = metrics.generalised_energy_distance


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_the_docs_are_true(name):
    result = doctest.testmod(import_module(f"stochseg.metrics.{name}"))
    assert result.failed == 0


def test_the_scores_have_examples():
    finder = doctest.DocTestFinder()
    for name in ("generalized_energy_distance", "hungarian_iou", "pairwise_iou", "raters_reference"):
        assert any(test.examples for test in finder.find(getattr(metrics, name)))


def test_every_convention_says_where_it_is_from():
    for name, row in metrics.CONVENTIONS.items():
        assert (row.name, metrics.get_convention(name)) == (name, row)
        assert row.source
