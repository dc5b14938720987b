"""How messages count and list."""

from collections.abc import Sequence

NAMED = 3
"""Names that a message gives of many."""


def counted(count: int, noun: str) -> str:
    """The number with its noun.

    >>> counted(1, "image"), counted(1200, "city"), counted(2, "process")
    ('1 image', '1,200 cities', '2 processes')
    """
    several = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}{'es' if noun.endswith('s') else 's'}"
    return f"{count:,} {noun if count == 1 else several}"


def some(names: Sequence[str]) -> str:
    """The first of many names.

    >>> some(["a", "b", "c", "d"])
    'a, b, c, ...'
    """
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
