"""Waiting threads are told to sleep before torch is there, unless the user has said so; crowded cores are noticed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys
from stochseg.cli import main
assert "torch" not in sys.modules
main(["--help"])
print(os.environ.get("GOMP_SPINCOUNT"))
"""


TRAINING = """
import os, sys, torch, stochseg
from stochseg import threads
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
torch.set_num_threads(2)
threads.LOOK_AFTER = 0.5
settings = {"input.crop": 32, "calibration.widths": [8, 16], "refinement.widths": [8, 16], "training.log_every": 2}
stochseg.train(None, sys.argv[1], sys.argv[2], "lidc", minutes=None, steps=40, **settings)
"""
SHARING = """
import os, subprocess, sys, time
from stochseg import threads
core = min(os.sched_getaffinity(0))
os.sched_setaffinity(0, {core})
other = subprocess.Popen([sys.executable, "-c", "while True: pass"])  # inherits the core
threads.LOOK_AFTER = 1
crowds = [threads.Crowd(2), threads.Crowd(1)]
for crowd in crowds:
    crowd.look()  # too early
end = time.monotonic() + 1.1
while time.monotonic() < end:
    pass
other.kill()
for crowd in 2 * crowds:
    crowd.look()
"""


@pytest.mark.parametrize(
    ("given", "found"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_commands_say_how_threads_wait_before_torch_is_there(given: dict[str, str], found: str) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=kept | given, capture_output=True, text=True, check=True)
    assert run.stdout.split()[-1] == found


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the system does not say how long threads wait")
def test_a_training_whose_cores_others_hold_says_so_once() -> None:
    """A process that shares one core with another waits for half of the time; one thread alone has nothing to gain."""
    run = subprocess.run([sys.executable, "-c", SHARING], capture_output=True, text=True, check=True)
    (line,) = run.stderr.splitlines()
    found = re.fullmatch(r"too few free cores: the 2 threads .* wait (\d+)% .* OMP_NUM_THREADS=1 .*", line)
    assert found
    assert 30 <= int(found[1]) <= 95


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the system does not say how long threads wait")
def test_a_training_of_two_threads_on_one_core_says_so(tiny_store: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", TRAINING, str(tiny_store), str(tmp_path / "run")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stderr.count("too few free cores: the 2 threads of this training wait") == 1
