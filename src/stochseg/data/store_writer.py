"""Writing a store: what its format is, store.py says."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike

from stochseg.data.store import FORMAT, VERSION, Array, ClassInfo, Split, open_store, sha256_of
from stochseg.errors import InputError


class StoreWriter:
    """Writes a store once. Use as a context manager; the store appears at `path` only when the block ends well.

    with StoreWriter(out, classes=LESION_CLASSES, raters=4, group_name="patient") as writer:
        split = writer.add_split("train", ids, groups, image_shape=(64, 64, 1), source="our hospital")
        split.images[0], split.labels[0] = image, masks
    """

    def __init__(
        self,
        path: str | Path,
        *,
        classes: Sequence[ClassInfo],
        raters: int,
        ignore: int | None = None,
        flips: Sequence[tuple[int, int, float]] = (),
        convention: str = "car",
        group_name: str = "group",
        notes: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        if self.path.exists() and not overwrite:
            raise InputError(f"{self.path}: exists already; choose another --out, or pass --overwrite")
        if overwrite and self.path.exists() and not (self.path / "index.json").is_file():
            raise InputError(f"{self.path}: is not a store, so --overwrite leaves it alone; choose another --out")
        self._index: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "classes": [asdict(c) for c in classes],
            "ignore": ignore,
            "raters": raters,
            "flips": [list(f) for f in flips],
            "convention": convention,
            "group_name": group_name,
            "notes": dict(notes or {}),
            "splits": {},
        }
        self._groups: dict[str, str] = {}

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.partial-", dir=self.path.parent))
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror}); choose another --out") from error
        return self

    def add_split(
        self,
        name: str,
        ids: Sequence[str],
        groups: Sequence[str],
        image_shape: tuple[int, int, int],
        source: str,
        extras: Mapping[str, tuple[tuple[int, ...], DTypeLike]] | None = None,
    ) -> Split:
        """Make the arrays of a split, zero-filled and writable, for the caller to fill row by row.

        image_shape: (h, w, c). extras: name -> (shape of a row, dtype). The leak check is here: InputError names a
        group that an earlier split holds already.
        """
        if not ids:
            raise InputError(f"split '{name}' of {source} is empty; leave it out or add images")
        if len(set(ids)) != len(ids):
            twice = next(i for n, i in enumerate(ids) if i in ids[:n])
            raise InputError(f"split '{name}' of {source} holds the id '{twice}' twice")
        for group in set(groups):
            if self._groups.setdefault(group, name) != name:
                raise InputError(
                    f"'{group}' is in split '{self._groups[group]}' and in split '{name}' of {source}; "
                    "scores would be too good: keep each patient in one split"
                )
        h, w, c = image_shape
        shapes: dict[str, tuple[tuple[int, ...], DTypeLike]] = {
            "images": ((h, w, c), np.uint8),
            "labels": ((self._index["raters"], h, w), np.uint8),
            **(extras or {}),
        }
        arrays = {
            array: new_array(self._folder / f"{name}.{array}.npy", np.dtype(dtype), (len(ids), *shape))
            for array, (shape, dtype) in shapes.items()
        }
        self._index["splits"][name] = {
            "ids": list(ids),
            "groups": list(groups),
            "source": source,
            "arrays": {
                array: {"file": f"{name}.{array}.npy", "shape": list(a.shape), "dtype": str(a.dtype)}
                for array, a in arrays.items()
            },
        }
        images, labels = arrays.pop("images"), arrays.pop("labels")
        return Split(name, images, labels, list(ids), list(groups), source, arrays)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _finish(self) -> None:
        if not self._index["splits"]:
            raise InputError(f"{self.path}: nothing to write, no split was added")
        for entry in self._index["splits"].values():
            for facts in entry["arrays"].values():
                facts["sha256"] = sha256_of(self._folder / facts["file"])
        (self._folder / "index.json").write_text(json.dumps(self._index, indent=1))
        open_store(self._folder, every_label=True)
        self._folder.chmod(0o755)
        if self.path.exists():
            shutil.rmtree(self.path)
        os.replace(self._folder, self.path)


def new_array(file: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """A zero-filled array on disk. Its space is taken now: a full disk met while filling a memory map would kill us."""
    try:
        array = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):
            with file.open("r+b") as stream:
                os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)
    except OSError as error:
        size = np.prod([float(side) for side in shape]) * dtype.itemsize / 1e6
        raise InputError(f"{file.parent.parent}: no room for {size:.1f} MB ({error.strerror}); free some") from error
    return array
