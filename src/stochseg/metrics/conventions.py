"""How each source counts: one row of options a name. A score without its convention says nothing.

Rows say what the papers' evaluation code does with the pairs of a sample set and a label set; the functions of this
package take the name and look up the row. To add a convention, add a row.
"""

from dataclasses import dataclass
from typing import Literal

from stochseg.errors import InputError

Absent = float | Literal["left out"]
Statistic = Literal["V", "U"]
Matching = Literal["repeat", "lcm"]


@dataclass(frozen=True)
class Convention:
    """The options of one way to count. Get one with `get_convention`."""

    name: str
    source: str
    """Where this way of counting comes from."""
    counted: tuple[int, ...] | None = None
    """Ids of the classes that enter the mean over classes; None: all but the background, 1 to k-1."""
    absent: Absent = 1.0
    """Score of a class that neither map of a pair holds: 1.0, 0.0, or "left out" of the mean over classes."""
    statistic: Statistic = "V"
    """V: the pair of a map with itself stays in the mean distance within a set; U: it is left out."""
    matching: Matching = "repeat"
    """Matched IoU: "repeat" the labels r -> n (n a multiple of r); "lcm" repeats both sides to lcm(n, r)."""

    def class_ids(self, classes: int, ignore: int | None = None) -> tuple[int, ...]:
        """Ids of the classes to count when there are `classes` in all; the ignore class is never counted.

        >>> get_convention("car").class_ids(4, ignore=3)
        (1, 2)
        """
        check_classes(classes, ignore)
        ids = tuple(range(1, classes)) if self.counted is None else self.counted
        ids = tuple(c for c in ids if c != ignore)
        if not ids:
            raise InputError(f"classes={classes} with ignore={ignore} leaves no class to score; raise classes")
        if max(ids) >= classes:
            raise InputError(f"convention '{self.name}' counts class {max(ids)}, classes={classes} ends before it")
        return ids


def check_classes(classes: int, ignore: int | None) -> None:
    """InputError where there cannot be that many classes, or the ignore class is none of them."""
    if not 2 <= classes <= 255:
        raise InputError(f"classes is {classes}; give the number of classes, background included, 2 to 255")
    if ignore is not None and not 0 <= ignore < classes:
        raise InputError(f"ignore is {ignore}; with classes={classes} it is one of 0 to {classes - 1}, or None")


CONVENTIONS = {
    row.name: row
    for row in (
        Convention("car", "CAR (arXiv 2006.13144) on LIDC: IoU of the foreground, labels repeated to the samples"),
        Convention("ccdm", "CCDM (arXiv 2303.08888): as car, both sides repeated to fit", matching="lcm"),
    )
}


def get_convention(name: str | Convention) -> Convention:
    """The convention of this name; a Convention is handed through. InputError lists the names known.

    >>> get_convention("car").statistic
    'V'
    """
    if isinstance(name, Convention):
        return name
    if name not in CONVENTIONS:
        raise InputError(f"convention '{name}' is not known; choose one of {', '.join(sorted(CONVENTIONS))}")
    return CONVENTIONS[name]
