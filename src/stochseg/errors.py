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


class NotFinite(RunError):
    """A loss or a gradient is not a number: in all processes that share the step. Exit code 1."""


class LostProcess(RunError):
    """One of several processes has ended or does not answer, and this one cannot go on without it. Exit code 1."""


class SaidElsewhere(Exception):
    """Another of several processes tells why this one ends too. bad_input: whether it is an `InputError` there."""

    def __init__(self, bad_input: bool) -> None:
        super().__init__("another process says why")
        self.bad_input = bad_input
