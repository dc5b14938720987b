"""A table in a text file, whatever program wrote it."""

import csv
from collections.abc import Sequence
from pathlib import Path

from stochseg.errors import InputError


def read_rows(file: Path, flag: str, needed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """The lines of a CSV by number, each with its cells by column; a cell that is not there is empty.

    Columns are parted by commas or semicolons, and spaces around them do not count. Blank lines are left out. flag: what
    messages call the file. InputError for a file that cannot be read or lacks a column that is needed.
    """
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "is not there"
        raise InputError(f"{flag} {file}: {what}; give a text file with the columns {','.join(needed)}")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
        first = lines[0] if lines else ""
        delimiter = "," if "," in first or ";" not in first else ";"
        rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{flag} {file}: cannot be read as CSV ({error}); give a text file with the columns {','.join(needed)}"
        ) from error
    columns = [cell.strip() for cell in rows[0]] if rows else []
    if not set(needed) <= set(columns):
        raise InputError(
            f"{flag} {file}: its first line is {first or 'empty'}; it must name the columns {','.join(needed)}"
        )
    found = []
    for number, row in enumerate(rows[1:], 2):
        cells = dict.fromkeys(columns, "") | dict(zip(columns, (cell.strip() for cell in row)))
        if any(cells.values()):
            found.append((number, cells))
    return found
