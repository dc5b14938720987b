"""Classes that flip: a table of (from, to, probability), read from text, and drawn for a batch of labels.

A flip shows class `from` as class `to` in the whole image, with its probability, independently of other flips and other
images (Kohl et al. 2018, arXiv 1806.05034, section 4.2). A store keeps its labels as they are and the table beside them.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from stochseg.errors import InputError


class NamedFlip(NamedTuple):
    """A flip by the names of its classes; `target` may be a class that only the flip makes."""

    source: str
    target: str
    probability: float


def parse_flips(text: str, names: Sequence[str], flag: str = "--flips") -> list[NamedFlip]:
    """A table such as "road=4/17, car:truck=0.3": class, what it is shown as (default: a new class "CLASS 2"), probability.

    names: the classes there are. "none" is no flip. Raises InputError that names the flag for an unknown class, a class
    in two flips, two flips into one class, and a probability that is none.

    >>> parse_flips("road=1/4, car:truck=0.5", ["road", "car", "truck"])
    [NamedFlip(source='road', target='road 2', probability=0.25), NamedFlip(source='car', target='truck', probability=0.5)]
    """
    if text.strip() == "none":
        return []
    flips: list[NamedFlip] = []
    for part in text.split(","):
        classes, equals, value = part.partition("=")
        source, colon, target = (word.strip() for word in classes.partition(":"))
        target = target if colon else f"{source} 2"
        if not equals or not source or not target:
            raise InputError(
                f"{flag} {text}: '{part.strip()}' is no flip; write CLASS=PROBABILITY or CLASS:OTHER=PROBABILITY"
            )
        if source not in names:
            raise InputError(f"{flag} {text}: no class '{source}'; there are {', '.join(names)}")
        try:
            probability = float(Fraction(value.strip()))
        except (ValueError, ZeroDivisionError):
            probability = -1.0
        if not 0 <= probability <= 1:
            raise InputError(
                f"{flag} {text}: '{value.strip()}' is no probability; give one in 0 to 1, such as 0.3 or 4/17"
            )
        flips.append(NamedFlip(source, target, probability))
    used: dict[str, NamedFlip] = {}
    for flip in flips:
        for name in flip[:2]:
            if name in used:
                into = flip.target == used[name].target
                raise InputError(
                    f"{flag} {text}: '{name}' is "
                    + ("what two flips end in" if into else "in two flips")
                    + "; a class takes part in one flip only"
                )
        if flip.source == flip.target:
            raise InputError(f"{flag} {text}: '{flip.source}' flips into itself; name another class")
        used |= dict.fromkeys(flip[:2], flip)
    return flips


def draw_flips(flips: Sequence[tuple[int, int, float]], images: int, draws: int, generator: torch.Generator) -> Tensor:
    """Which flips happen in each draw of each image: bool [b r m], all independent."""
    chances = torch.tensor([p for _, _, p in flips], dtype=torch.float64)
    return torch.rand(images, draws, len(flips), generator=generator, dtype=torch.float64) < chances


def flip_classes(maps: Tensor, flips: Sequence[tuple[int, int, float]], happens: Tensor) -> Tensor:
    """Maps [b r h w], or [b 1 h w] for all draws, with the flips that happen [b r m] made: [b r h w].

    Black-box maps [b h w] go with the labels' first draw: flip_classes(maps[:, None], flips, happens[:, :1])[:, 0].
    """
    flipped = maps.expand(-1, happens.shape[1], -1, -1).clone()
    for (source, target, _), does in zip(flips, happens.unbind(2), strict=True):
        here = (maps == source) & does[:, :, None, None]
        flipped[here] = target
    return flipped
