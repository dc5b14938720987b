"""Writing rows of a store from a user's own files. `write` is run by worker processes, which share the store's arrays."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stochseg.data.folder_classes import ClassTable, packed
from stochseg.data.folder_fit import Fit, Size, cut, resized, resized_label
from stochseg.data.folder_items import Item
from stochseg.data.folder_scan import ImageFacts
from stochseg.data.pixel_files import Windows, grey_if_grey, read_label, read_pixels, to_bytes, window_for
from stochseg.data.store import MISSING_RATER


@dataclass(frozen=True)
class Recipe:
    """What is done to every image alike. size: (h, w) of the rows."""

    axis: int
    channels: int
    windows: Windows
    size: Size
    fit: Fit
    classes: ClassTable
    raters: tuple[str, ...]


@dataclass(frozen=True)
class RowsOfItem:
    """rows: (row, slice, place) in the arrays of the files."""

    item: Item
    facts: ImageFacts
    recipe: Recipe
    images: Path
    labels: Path
    rows: tuple[tuple[int, int, tuple[int, int]], ...]


def write(task: RowsOfItem) -> int:
    """Fill the rows of an item; returns how many."""
    recipe, item = task.recipe, task.item
    pixels = read_pixels(item.image, recipe.axis)
    values = grey_if_grey(pixels.values) if task.facts.channels == 1 else pixels.values
    window = window_for(pixels, recipe.windows)
    images, labels = _opened(task.images), _opened(task.labels)
    for row, s, place in task.rows:
        image = to_bytes(values[s], window)
        image = resized(image, recipe.size) if recipe.fit == "resize" else cut(image, recipe.size, place)
        images[row] = image  # a grey image is repeated where the others have colour
        labels[row] = MISSING_RATER
    for number, rater in enumerate(recipe.raters):
        if rater not in item.labels:
            continue
        numbers = packed(read_label(item.labels[rater], pixels, recipe.axis), recipe.classes.colours)
        for row, s, place in task.rows:
            if recipe.classes.missing is not None and (numbers[s] == recipe.classes.missing).all():
                continue
            one = numbers[s]
            one = resized_label(one, recipe.size) if recipe.fit == "resize" else cut(one, recipe.size, place)
            labels[row, number] = _ids(one, recipe.classes.ids)
    return len(task.rows)


def _ids(values: NDArray[Any], ids: Mapping[int, int]) -> NDArray[np.uint8]:
    """The class ids of values, every one of which has one."""
    keys = np.array(sorted(ids))
    mapped = np.array([ids[key] for key in keys.tolist()], np.uint8)
    found: NDArray[np.uint8]
    if values.dtype != np.uint8:
        found = mapped[np.searchsorted(keys, values)]
    else:
        table = np.zeros(256, np.uint8)
        in_byte = (keys >= 0) & (keys < 256)
        table[keys[in_byte]] = mapped[in_byte]
        found = table[values]
    return found


@lru_cache(maxsize=8)
def _opened(file: Path) -> NDArray[Any]:
    opened: NDArray[Any] = np.load(file, mmap_mode="r+")
    return opened
