"""Real processes with the variables that torchrun sets, without the seconds that each would take to load torch.

They are forked from a server that has loaded it once. `test_distributed.py` also starts torchrun itself.
"""

import multiprocessing
import runpy
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("worker.py")
forked = multiprocessing.get_context("forkserver")
LOADED_LATE = (
    "torch.distributed",
    "torch._dynamo",
    "scipy.optimize",
    "kornia.enhance",
    "kornia.geometry",
    "jsonargparse",
)
forked.set_forkserver_preload([*LOADED_LATE, "stochseg.cli", "stochseg.training.loop", "stochseg.sample_files"])


@dataclass
class Started:
    """A command in several processes: what they print, and how they end."""

    processes: list[Any]
    outputs: list[Path]

    def codes(self, timeout: float = 60) -> list[int | None]:
        """Exit codes; None for a process that has not ended in time, which is then killed."""
        for process in self.processes:
            process.join(timeout)
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
        return codes

    def text(self, rank: int) -> str:
        return self.outputs[rank].read_text() if self.outputs[rank].exists() else ""


def start(count: int, folder: Path, *commands: Sequence[str]) -> Started:
    """Start a command in `count` processes, or one command in each."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    outputs = [folder / f"output_{rank}.txt" for rank in range(count)]
    processes = []
    for rank in range(count):
        variables = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        command = list(commands[rank % len(commands)])
        names = {"job": {"variables": variables, "command": command, "output": str(outputs[rank])}}
        processes.append(forked.Process(target=runpy.run_path, args=(str(WORKER), names, "__main__")))
        processes[-1].start()
    return Started(processes, outputs)


def run(count: int, folder: Path, *commands: Sequence[str]) -> Started:
    """The same, and wait: every process must end well."""
    started = start(count, folder, *commands)
    codes = started.codes()
    assert codes == [0] * count, [(code, started.text(rank)) for rank, code in enumerate(codes)]
    return started
