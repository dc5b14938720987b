"""What a user meets when something ends early. The command line turns each into one line on stderr."""

from typing import Literal

OnError = Literal["stop", "skip"]
"""What to do at the first of many inputs that cannot be used."""


class InputError(ValueError):
    """What the user gave cannot be used: a file, a flag, a config key. Exit code 2.

    The message is one line: what was given, what was found there, and the cure.
    """


class RunError(RuntimeError):
    """The input was fine and the work still failed: a loss that is not a number, a full disk. Exit code 1."""


class Stopped(Exception):
    """A signal ended the training; its state is saved. Exit code 75."""
