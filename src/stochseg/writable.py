"""Whether a command can write where it is to write, asked before the work and not after it."""

import tempfile
from pathlib import Path

from stochseg.errors import InputError


def check_writable(folder: Path, named: str) -> None:
    """InputError where no file can be made in a folder or, if it is not there yet, in the nearest one above that is.

    named: what the message begins with, a flag with its value or a path. Leaves nothing behind.
    """
    there = folder.absolute()
    try:
        while not there.exists():
            there = there.parent
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise InputError(
            f"{named}: nothing can be written in {there}; choose another place, or get the rights"
        ) from error
