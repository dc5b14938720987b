"""Which images belong together, such as those of one patient: from a CSV file, or from the volumes that they are of."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stochseg.data.csv_files import read_rows
from stochseg.data.predictions import MapFolder
from stochseg.errors import InputError
from stochseg.wording import some


def groups_of(names: Sequence[str], labels: MapFolder, file: str | Path | None) -> tuple[NDArray[Any], str]:
    """The group [N] of each image and what groups are called: those of the file, else volumes, else images.

    A line of the file may name an image, a volume for all of its slices, or a folder for all images in it; the closest
    counts. InputError for a file that cannot be read, and where an image has no group or two.
    """
    own = [labels.images[name].group for name in names]
    if file is None:
        return np.array(own), "image" if own == list(names) else "volume"
    table = _table(Path(file))
    found = [
        next((table[key] for key in _keys(name, volume) if key in table), None) for name, volume in zip(names, own)
    ]
    unknown = [name for name, group in zip(names, found) if group is None]
    if unknown:
        raise InputError(
            f"--groups {file}: no group of {some(unknown)}, {len(unknown)} in all; add a line image,group for each"
        )
    return np.array(found), "group"


def _keys(name: str, volume: str) -> list[str]:
    """What a line may call an image, the closest first."""
    parts = volume.split("/")
    return [name, volume, *("/".join(parts[:i]) for i in range(len(parts) - 1, 0, -1))]


def _table(file: Path) -> dict[str, str]:
    """Groups by image."""
    table: dict[str, str] = {}
    for _, cells in read_rows(file, "--groups", ("image", "group")):
        image, group = cells["image"], cells["group"]
        if image and (not group or table.setdefault(image, group) != group):
            raise InputError(f"--groups {file}: image {image} has {'two groups' if group else 'no group'}; give it one")
    return table
