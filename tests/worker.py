"""Run by `several.py` in each of its processes: the command line, with a launcher's variables, output in a file."""

import os
import sys

if __name__ == "__main__":
    job = globals()["job"]
    os.environ.update(job["variables"])
    stream = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")

    import torch

    from stochseg.cli import main

    torch.set_num_threads(1)
    code = main(job["command"])
    sys.stdout.flush()
    sys.exit(code)
