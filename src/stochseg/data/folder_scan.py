"""Reading every file of a user's own once, without keeping its pixels: what they hold, and what is wrong with them.

`scan` is run by worker processes; what it returns is small.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stochseg.data.folder_classes import packed, value_counts
from stochseg.data.folder_items import Files, Item
from stochseg.data.pixel_files import Pixels, Window, grey_if_grey, read_label, read_pixels, spread
from stochseg.errors import InputError


@dataclass(frozen=True)
class ImageFacts:
    """spread: what nearly all values lie in (all, of bytes); hashes: of each slice's pixels, empty where all are equal."""

    size: tuple[int, int]
    channels: int
    dtype: str
    low: float
    high: float
    spread: Window
    window: Window | None
    hashes: tuple[str, ...]


@dataclass(frozen=True)
class LabelFacts:
    """counts: pixels of each value; slices: the values in each slice. Values as in `folder_classes`, unpacked greys."""

    file: str
    colours: bool
    counts: dict[int, int]
    slices: tuple[frozenset[int], ...]


@dataclass(frozen=True)
class Facts:
    """What is known of an item; image None where it cannot be read."""

    image: ImageFacts | None
    labels: dict[str, LabelFacts]
    mistakes: tuple[str, ...]


def scan(task: tuple[Item, int]) -> Facts:
    """Read an item (and the axis of NIfTI slices) and sum up what it holds; what cannot be used is among the mistakes."""
    item, axis = task
    try:
        pixels = read_pixels(item.image, axis)
    except InputError as error:
        return Facts(None, {}, (str(error),))
    labels: dict[str, LabelFacts] = {}
    mistakes: list[str] = []
    for rater, files in item.labels.items():
        try:
            labels[rater] = _label(files, pixels, axis)
        except InputError as error:
            mistakes.append(str(error))
    return Facts(_image(pixels), labels, tuple(mistakes))


def _image(pixels: Pixels) -> ImageFacts:
    values = grey_if_grey(pixels.values)
    return ImageFacts(
        pixels.size,
        values.shape[-1],
        str(values.dtype),
        float(values.min()),
        float(values.max()),
        spread(values) if values.dtype != np.uint8 else (float(values.min()), float(values.max())),
        pixels.window,
        tuple(_hash(one) for one in values),
    )


def _hash(one: NDArray[Any]) -> str:
    if (one == one.flat[0]).all():  # two black slices are no duplicates
        return ""
    start = f"{one.shape} {one.dtype} ".encode()
    return hashlib.sha256(start + np.ascontiguousarray(one).tobytes()).hexdigest()


def _label(files: Files, pixels: Pixels, axis: int) -> LabelFacts:
    values = read_label(files, pixels, axis)
    numbers = packed(values, colours=False)
    each = [value_counts(one) for one in numbers]
    counts: dict[int, int] = {}
    for found, number in each:
        for value, count in zip(found.tolist(), number.tolist()):
            counts[value] = counts.get(value, 0) + count
    return LabelFacts(str(files[0]), values.ndim == 4, counts, tuple(frozenset(found.tolist()) for found, _ in each))


def as_colours(values: Iterable[int]) -> frozenset[int]:
    """Greys of a label without colour as colours, where other labels hold some."""
    return frozenset(value * 0x010101 for value in values)
