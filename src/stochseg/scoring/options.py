"""The options of `score` that say how to count, checked before any map is read; messages name the flags."""

from collections.abc import Sequence

from stochseg.data.reading import parse_json
from stochseg.errors import InputError
from stochseg.metrics.conventions import CONVENTIONS, Convention, Flip, get_convention
from stochseg.metrics.modes import check_flips

_FORM = "[[from, to, probability], ...]"


def flips_of_text(text: str) -> list[Flip] | None:
    """The value of --flips as a table; what it must hold, `check_options` checks. Raises InputError of one line."""
    try:
        rows = parse_json(text)
        return None if rows is None else [(each[0], each[1], *each[2:]) for each in rows]
    except (ValueError, TypeError, IndexError, KeyError):
        raise InputError(f"--flips {text}: give {_FORM}") from None


def check_options(
    classes: int, convention: str, ignore: int | None, flips: Sequence[Flip] | None
) -> tuple[Convention, list[Flip] | None]:
    """The convention that holds and the table of flips; InputError where options are none or do not fit together."""
    if not 2 <= classes <= 255:
        raise InputError(f"--classes {classes}: give the number of classes, the background 0 included, 2 to 255")
    if ignore is not None and not 0 <= ignore < classes:
        raise InputError(f"--ignore {ignore}: with --classes {classes} it is one of 0 to {classes - 1}")
    if convention not in CONVENTIONS:
        raise InputError(f"--convention {convention}: not known; choose one of {', '.join(sorted(CONVENTIONS))}")
    rule = get_convention(convention, flips is not None)
    for_flips = [name for name in CONVENTIONS if get_convention(name, True).counted == "flips"]
    if flips is None:
        if rule.counted == "flips":
            raise InputError(
                f"--convention {convention} counts the classes that flip: give --flips {_FORM}; or take one that "
                "counts all classes, such as ccdm"
            )
        if classes == 2 and ignore == 1:
            raise InputError("--classes 2 with --ignore 1 leaves no class to score; raise --classes, or ignore another")
        return rule, None
    if rule.pooled or rule.matching not in ("none", "transport"):
        raise InputError(f"--convention {convention} has no --flips; take one of {', '.join(for_flips)}")
    try:
        return rule, check_flips(flips, classes, ignore)
    except InputError as error:
        raise InputError(f"--{error}") from error
