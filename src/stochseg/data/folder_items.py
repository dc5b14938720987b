"""What is known of a user's own files from their names: images, the labels of each rater, splits and groups."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Literal

from stochseg.data.lidc_files import natural

Files = tuple[Path, ...]
Slices = Literal["all", "marked"]

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""How a split may be called in a folder or a CSV."""


@dataclass
class Item:
    """One image and its labels by rater; a volume is one item until its slices become rows."""

    name: str
    image: Files
    labels: dict[str, Files] = field(default_factory=dict)
    split: str | None = None
    group: str | None = None


@dataclass
class Layout:
    """What the names say. groups: where the groups come from; splits: likewise, empty where none are given."""

    kind: str
    items: list[Item]
    groups: str = ""
    splits: str = ""
    notes: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)

    @property
    def raters(self) -> list[str]:
        """The raters' names in natural order."""
        return sorted({rater for item in self.items for rater in item.labels}, key=natural)


def leading_parts(paths: Collection[Sequence[str]]) -> int:
    """How many parts, from the first, all paths have in common."""
    return sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, zip(*paths)))
