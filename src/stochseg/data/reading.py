"""Foreign files are read under one rule: whatever is wrong with one becomes an InputError that names it."""

import json
import stat
import zipfile
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from stochseg.errors import InputError

Given = TypeVar("Given", bound=Path | Sequence[Path])
Rest = ParamSpec("Rest")
Result = TypeVar("Result")


def reads(function: Callable[Concatenate[Given, Rest], Result]) -> Callable[Concatenate[Given, Rest], Result]:
    """For a function that reads the file, or the files, of its first argument.

    Decoders fail at damaged files with errors of every kind, so all become an InputError. A pipe or a device, which
    could keep a reader waiting for ever, is refused before it is opened.
    """

    @wraps(function)
    def read(given: Given, /, *args: Rest.args, **kwargs: Rest.kwargs) -> Result:
        files = cast(Sequence[Path], [given] if isinstance(given, Path) else given)
        try:
            for file in files:
                check_regular(file)
            return function(given, *args, **kwargs)
        except InputError:
            raise
        except MemoryError as error:
            raise InputError(f"{files[0]}: does not fit into memory, or is damaged") from error
        except OSError as error:
            raise InputError(f"{files[0]}: cannot be read ({error.strerror or error}); copy it again") from error
        except Exception as error:
            text = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"{files[0]}: damaged ({text}); copy it again, or write it anew") from error

    return read


def check_regular(file: Path) -> None:
    """InputError for a pipe, a socket or a device: reading one may never end. OSError where there is nothing."""
    mode = file.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise InputError(f"{file}: is a pipe or a device, no file; copy what it gives to a file first")


def parse_json(text: str | bytes) -> Any:
    """What JSON says; ValueError where it is none, or nested without end."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("lists within lists without end") from error


def open_zip(file: Path) -> zipfile.ZipFile:
    """A zip file, each member of which can be read in pieces: BadZipFile where one is packed by another method than
    deflate, since others are unpacked whole, however large they turn out to be."""
    archive = zipfile.ZipFile(file)
    for member in archive.infolist():
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            archive.close()
            raise zipfile.BadZipFile(f"'{member.filename}' is packed by method {member.compress_type}; deflate is read")
    return archive
