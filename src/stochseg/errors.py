"""The two errors a user meets. The command line turns each into one line on stderr; anything else is a bug."""


class InputError(ValueError):
    """What the user gave cannot be used: a file, a flag, a config key. Exit code 2.

    The message is one line: what was given, what was found there, and the cure.
    """


class RunError(RuntimeError):
    """The input was fine and the work still failed: a loss that is not a number, a full disk. Exit code 1."""
