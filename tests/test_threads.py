"""Waiting threads are told to sleep before torch is there, unless the user has said how they wait."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
from stochseg.cli import main
assert "torch" not in sys.modules
main(["--help"])
print(os.environ.get("GOMP_SPINCOUNT"))
"""


@pytest.mark.parametrize(
    ("given", "found"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_commands_say_how_threads_wait_before_torch_is_there(given: dict[str, str], found: str) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=kept | given, capture_output=True, text=True, check=True)
    assert run.stdout.split()[-1] == found
