"""The two files that `score` writes: a .json, and the values of every image in an .npz beside it."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stochseg.data.reading import parse_json
from stochseg.errors import InputError
from stochseg.writable import check_writable

_OF_ONE = {"samples_folder", "labels_folder"}
_OF_TWO = {"a", "b", "difference", "labels_folder"}
_ARRAYS = {"ids", "groups"}


def checked_out(file: Path, folders: Sequence[Path]) -> Path:
    """The file, if both can be written and no other program's file would be lost; InputError otherwise.

    folders: those that are read, where nothing may be written.
    """
    if file.is_dir() or file.suffix.lower() != ".json":
        raise InputError(f"--out {file}: must be a .json file; the values of every image go beside it as .npz")
    for folder in folders:
        if file.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"--out {file}: lies in {folder}, whose files are read as maps; write it elsewhere")
    beside = file.with_suffix(".npz")
    for there, ours in ((file, _is_scores), (beside, _is_values)):
        if there.exists() and not ours(there):
            raise InputError(
                f"--out {file}: would replace {there}, which `score` did not write; give another name, or move it"
            )
    check_writable(file.parent, f"--out {file}")
    return file


def write_scores(file: Path, result: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Path:
    """Both files whole or not at all: each is written beside its place and moved. Returns that of the arrays."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".npz")
    with _partial(beside).open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    _partial(beside).replace(beside)
    _partial(file).write_text(json.dumps(result, indent=1, allow_nan=False))
    _partial(file).replace(file)
    return beside


def _partial(file: Path) -> Path:
    return file.with_name(f"{file.name}.partial")


def _is_scores(file: Path) -> bool:
    """Whether a .json is of `score`, from its keys."""
    try:
        there = parse_json(file.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(there, dict) and any(keys <= there.keys() for keys in (_OF_ONE, _OF_TWO))


def _is_values(file: Path) -> bool:
    """Whether an .npz is of `score`, from the names of its arrays."""
    try:
        with zipfile.ZipFile(file) as archive:
            return {f"{name}.npy" for name in _ARRAYS} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False
