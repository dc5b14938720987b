"""Denormal floats are zero in the work of this package, and as they were in its user's."""

import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from stochseg.denormals import TINY, without_denormals
from stochseg.models.car import CAR
from stochseg.training.run import train

SCRIPT = """
import torch
from stochseg.denormals import without_denormals
torch.set_num_threads(2)
work = without_denormals()(lambda: int((torch.full((2**22,), 1e-30) * 1e-9 != 0).sum()))
inside, before = work(), torch.get_num_threads()
print(inside, before, int(torch.tensor(1e-39) != 0))
"""


def product() -> float:
    return float(torch.tensor(1e-30) * torch.tensor(1e-9))


def test_within_it_a_product_too_small_is_zero_and_after_it_as_before() -> None:
    assert product() > 0
    with without_denormals():
        assert product() == 0
        with without_denormals():
            assert product() == 0
        assert product() == 0  # an inner one leaves what the outer one set
    assert product() > 0
    assert torch.tensor(TINY) != 0


def test_it_ends_with_an_error_too() -> None:
    @without_denormals()
    def fails() -> None:
        assert product() == 0
        raise ValueError("wanted")

    with pytest.raises(ValueError, match="wanted"):
        fails()
    assert product() > 0


def test_every_thread_of_torch_flushes() -> None:
    """In a new process, as the commands are: all of four million products, which two threads share."""
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["0", "2", "1"]


def test_training_flushes_and_leaves_its_caller_as_it_was(tiny_store: Path, tmp_path: Path) -> None:
    class Watching(torch.nn.Conv2d):
        seen: ClassVar[set[float]] = set()

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            self.seen.add(product())
            return super().forward(input)

    model = CAR(2, 1, (32, 32), calibration=Watching(1, 2, 1))
    small = {"input.crop": 32, "training.batch": 4, "validation.images": 2, "validation.samples": 2}
    train(model, tiny_store, tmp_path / "run", steps=1, minutes=None, **small)
    assert Watching.seen == {0.0}
    assert product() > 0
