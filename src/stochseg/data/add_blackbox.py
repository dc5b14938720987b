"""A black box's answers added to a store that is there: whole before and whole after, whenever the writing ends."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stochseg.data.reading import parse_json
from stochseg.data.store import MISSING_RATER, UNKNOWN, Array, Split, Store, check_blackbox_array, sha256_of
from stochseg.data.store_writer import new_array
from stochseg.errors import InputError
from stochseg.writable import check_writable

COMPARED = 64
"""Images a split that are compared with their labels."""
MARGIN = 0.02
"""By how much another placing of the maps must agree better with the labels before it is taken for the right one."""


def splits_to_fill(store: Store, names: Sequence[str] | None, overwrite: bool) -> list[Split]:
    """The splits of these names, or all; InputError where one holds a black box that is not to be replaced."""
    chosen = [store.split(name) for name in names or store.splits]
    for split in chosen:
        if "blackbox" in split.extras and not overwrite:
            raise InputError(f"{store.path}: split '{split.name}' holds a black box already; pass --overwrite")
    check_writable(store.path, f"{store.path}")
    return chosen


@contextmanager
def writing_blackbox(store: Store, splits: Mapping[str, tuple[int, ...]], source: str) -> Iterator[dict[str, Array]]:
    """Yields arrays to fill, uint8 and zero, by split; they are the store's when the block ends well.

    splits: the shape of a row, (h, w) for class ids or (j, h, w) for probabilities in steps of 1/255. source: where the
    answers come from, for the index. The arrays are written aside; then the index forgets those that are replaced, the
    files are moved, and the index names them with their sha256: a store that is interrupted in between has none.
    """
    folder = Path(tempfile.mkdtemp(prefix=".blackbox.partial-", dir=store.path))
    try:
        files = {name: folder / f"{name}.blackbox.npy" for name in splits}
        arrays = {
            name: new_array(files[name], np.dtype(np.uint8), (len(store.splits[name]), *shape))
            for name, shape in splits.items()
        }
        yield arrays
        facts = {}
        for name, array in arrays.items():
            array.flush()  # type: ignore[attr-defined]
            split = store.splits[name]
            check_blackbox_array(store.path, replace(split, extras={"blackbox": array}), len(store.classes), every=True)
            facts[name] = {
                "file": files[name].name,
                "shape": list(array.shape),
                "dtype": str(array.dtype),
                "sha256": sha256_of(files[name]),
                "source": source,
            }
        index = parse_json((store.path / "index.json").read_text())
        before = [index["splits"][name]["arrays"].pop("blackbox", None) for name in splits]
        if any(before):
            _replace_index(store.path, index)
        for name, file in files.items():
            os.replace(file, store.path / file.name)
            index["splits"][name]["arrays"]["blackbox"] = facts[name]
        _replace_index(store.path, index)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace_index(path: Path, index: Mapping[str, object]) -> None:
    partial = path / ".index.json.partial"
    partial.write_text(json.dumps(index, indent=1))
    os.replace(partial, path / "index.json")


def agreement(split: Split, answers: Array, ignore: int | None, where: str) -> float:
    """The share of pixels of a spread of images where the black box says what the first rater does.

    answers: class ids [N h w] or probabilities [N j h w]. Pixels that either leaves open do not count. Raises InputError
    where the maps agree clearly better with the labels when they are mirrored, turned, or given to the next image: then
    they are not the maps of these images.
    """
    rows = np.unique(np.linspace(0, len(split) - 1, min(len(split), COMPARED)).astype(int))
    found = []
    for row, following in zip(rows, np.roll(rows, -1)):
        answer = answers[row] if answers.ndim == 3 else answers[row].argmax(0).astype(np.uint8)
        labels, others = (_first_rater(split.labels[i]) for i in (row, following))
        placings = {
            "mirrored left to right": answer[:, ::-1],
            "mirrored top to bottom": answer[::-1],
            "turned by 180 degrees": answer[::-1, ::-1],
        }
        if answer.shape[0] == answer.shape[1]:
            placings["transposed"] = answer.T
        each = [_agreement(placed, labels, ignore) for placed in (answer, *placings.values())]
        found.append([*each, _agreement(answer, others, ignore)])
    table = np.array(found)  # [images placings], nan where nothing can be compared
    table = table[~np.isnan(table).any(1)]
    if not len(table):
        return float("nan")
    names = ["as they are", *placings, "given to the next image"]
    means = table.mean(0)
    best = int(means.argmax())
    noise = (table[:, best] - table[:, 0]).std() / len(table) ** 0.5
    if means[best] - means[0] > max(MARGIN, 3 * noise):
        raise InputError(
            f"{where}: split '{split.name}': the maps agree with the labels at {means[0]:.1%} of the pixels, and at "
            f"{means[best]:.1%} when {names[best]}; look at how they were saved"
        )
    return float(means[0])


def _first_rater(labels: Array) -> Array:
    """The map [h w] of the first rater who is there, of [r h w]."""
    return next(m for m in labels if m.flat[0] != MISSING_RATER)


def _agreement(answer: NDArray[np.uint8], labels: NDArray[np.uint8], ignore: int | None) -> float:
    counted = (answer != UNKNOWN) & (labels != MISSING_RATER)
    if ignore is not None:
        counted &= (answer != ignore) & (labels != ignore)
    return float((answer == labels)[counted].mean()) if counted.any() else float("nan")
