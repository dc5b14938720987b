"""Images of any size made into rows of one size: as they are, cropped, resized, or cut into tiles."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Fit = Literal["crop", "resize", "tiles"]
Size = tuple[int, int]


def places(size: Size, target: Size, fit: Fit) -> list[tuple[int, int]]:
    """Where the rows of an image begin, (top, left): one in the centre, or tiles that cover it, overlapping evenly.

    >>> places((64, 100), (48, 48), "tiles")
    [(0, 0), (0, 26), (0, 52), (16, 0), (16, 26), (16, 52)]
    >>> places((64, 100), (48, 48), "crop")
    [(8, 26)]
    """
    if fit == "resize":
        return [(0, 0)]
    if fit == "crop":
        return [((size[0] - target[0]) // 2, (size[1] - target[1]) // 2)]
    tops, lefts = (_starts(one, length) for one, length in zip(size, target))
    return [(top, left) for top in tops for left in lefts]


def _starts(length: int, tile: int) -> list[int]:
    count = -(-length // tile)
    return [round(i * (length - tile) / max(1, count - 1)) for i in range(count)]


def cut(array: NDArray[Any], target: Size, place: tuple[int, int]) -> NDArray[Any]:
    """The part [target ...] of [h w ...] that begins at a place."""
    (top, left), (h, w) = place, target
    return array[top : top + h, left : left + w]


def resized(image: NDArray[np.uint8], target: Size) -> NDArray[np.uint8]:
    """An image uint8 [h w c] at another size, averaged where it shrinks."""
    h, w = target
    parts = [
        Image.fromarray(np.ascontiguousarray(image[..., i])).resize((w, h), Image.Resampling.BILINEAR)
        for i in range(image.shape[2])
    ]
    return np.stack([np.asarray(part) for part in parts], -1)


def resized_label(label: NDArray[Any], target: Size) -> NDArray[Any]:
    """A label [h w] at another size: each pixel takes the value at its centre, no values are mixed."""
    rows, columns = (((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(target, label.shape))
    return label[np.ix_(rows, columns)]


def sizes_in_words(sizes: Sequence[Size]) -> str:
    """The size of images, or from which to which they are.

    >>> sizes_in_words([(48, 64), (48, 64)]), sizes_in_words([(64, 80), (48, 64)])
    ('64x48', '64x48 to 80x64 (2 sizes)')
    """
    distinct = sorted(set(sizes), key=lambda size: (size[0] * size[1], size))
    (h, w), (high, wide) = distinct[0], distinct[-1]
    return f"{w}x{h}" if len(distinct) == 1 else f"{w}x{h} to {wide}x{high} ({len(distinct)} sizes)"
