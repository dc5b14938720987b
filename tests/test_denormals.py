"""Denormal floats are zero in the work of this package, and as they were in its user's."""

import subprocess
import sys

import torch

from stochseg.denormals import TINY, without_denormals

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
        raise ValueError

    try:
        fails()
    except ValueError:
        assert product() > 0


def test_every_thread_of_torch_flushes() -> None:
    """In a new process, as the commands are: all of four million products, which two threads share."""
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["0", "2", "1"]
