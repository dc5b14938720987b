"""What the values of label files mean: from a YAML of classes, or guessed from the values there are.

A value is what a pixel of a label file holds, a colour being the number 0xRRGGBB. A class may have several values.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from stochseg.data.pixel_files import COLOURS
from stochseg.data.store import LESION_CLASSES, MISSING_RATER, ClassInfo
from stochseg.errors import InputError
from stochseg.wording import some

MOST = 64
"""More values than this are no classes but grey levels."""
WHITE = 255
# The colours of Okabe and Ito (2008), told apart by colour-blind people too, and then ever paler ones.
_PALETTE = ((230, 85, 50), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (204, 121, 167), (230, 159, 0))
_IGNORED = (128, 128, 128)
_KEYS = {"name", "color", "values", "ignore"}


@dataclass(frozen=True)
class ClassSpec:
    """A class as the YAML gives it; values None where it gives none."""

    name: str
    color: tuple[int, int, int] | None
    values: tuple[int, ...] | None
    ignore: bool


@dataclass(frozen=True)
class ClassTable:
    """classes in the order of their ids; ids: the id of each value; colours: labels hold colours.

    missing: the value that marks a whole map as that of a missing rater, or None where it means a class.
    """

    classes: tuple[ClassInfo, ...]
    ids: Mapping[int, int]
    colours: bool
    ignore: int | None
    missing: int | None
    origin: str

    def values_of(self, id: int) -> list[int]:
        return sorted(value for value, other in self.ids.items() if other == id)

    def shown(self, value: int) -> str:
        return f"#{value:06x}" if self.colours else str(value)


def packed(values: NDArray[Any], colours: bool) -> NDArray[Any]:
    """Values [s h w]: colours [s h w 3] as numbers 0xRRGGBB, and greys among colours likewise."""
    if values.ndim == 4 and values.shape[-1] == COLOURS:
        r, g, b = (values[..., i].astype(np.int64) for i in range(COLOURS))
        return (r << 16) | (g << 8) | b
    return values.astype(np.int64) * 0x010101 if colours else values


def value_counts(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The distinct whole numbers in an array, ascending, and how often each is there."""
    if values.dtype not in (np.uint8, np.uint16):
        found, counts = np.unique(values, return_counts=True)
        return found, counts
    counts = np.bincount(values.ravel())  # ten times as fast as sorting
    found = counts.nonzero()[0]
    return found, counts[found]


def understand_classes(
    found: Iterable[frozenset[int]], colours: bool, specs: Sequence[ClassSpec] | None, origin: str = ""
) -> ClassTable:
    """The classes of label files whose sets of values are `found`; InputError where they cannot be told."""
    files = set(found)
    values = sorted(set().union(*files))
    if specs is not None:
        return _of_specs(specs, values, colours, origin)
    if len(values) > MOST:
        raise InputError(
            f"the labels hold {len(values)} different values, such as masks that were resized with interpolation or "
            "saved as JPEG; threshold them, or name the classes in a YAML"
        )
    if colours:
        return _of_colours(values)
    return _of_numbers(values, files)


def _of_numbers(values: list[int], files: set[frozenset[int]]) -> ClassTable:
    missing: int | None = MISSING_RATER
    ids = [v for v in values if v != WHITE]
    if ids in ([], [0]):  # black and white
        ids, missing = [0, WHITE], None
    void = any(WHITE in one and len(one - {0, WHITE}) > 0 for one in files)
    if missing and any(one == {0, WHITE} for one in files) and not void:
        raise InputError(
            f"some labels are black and white (0 and 255), others hold {some([str(v) for v in ids if v])}; say in a YAML "
            "of classes what each value means, such as values: [1, 255]"
        )
    if 0 not in ids and len(ids) == 1:
        ids = [0, *ids]
    table = {value: n for n, value in enumerate(ids)}
    names = _infos(len(ids), [f"class {value}" for value in ids])
    if void:
        table[WHITE] = len(ids)
        names.append(ClassInfo("ignore", _IGNORED))
    return ClassTable(tuple(names), table, False, len(ids) if void else None, missing, "guessed from the values")


def _of_colours(values: list[int]) -> ClassTable:
    values = values if 0 in values or len(values) > 1 else [0, *values]  # black comes first, being the least
    infos = [ClassInfo(f"#{value:06x}", _rgb(value)) for value in values]
    if values[0] == 0:
        infos[0] = LESION_CLASSES[0]
    table = {value: n for n, value in enumerate(values)}
    return ClassTable(tuple(infos), table, True, None, None, "guessed from the colours")


def _of_specs(specs: Sequence[ClassSpec], values: list[int], colours: bool, origin: str) -> ClassTable:
    infos = _infos(len(specs), [spec.name for spec in specs])
    infos = [ClassInfo(spec.name, spec.color or info.color) for spec, info in zip(specs, infos)]
    table: dict[int, int] = {}
    for n, spec in enumerate(specs):
        own = spec.values
        if own is None:
            own = (_number(spec.color),) if colours and spec.color else (n,)
        for value in own:
            if table.setdefault(value, n) != n:
                raise InputError(f"{origin}: {specs[table[value]].name} and {spec.name} both have the value {value}")
    plain = [n for n, spec in enumerate(specs) if not spec.ignore]
    if not colours and len(plain) == 2 and all(s.values is None for s in specs) and set(values) <= {0, WHITE}:
        table[WHITE] = plain[1]
    ignored = [n for n, spec in enumerate(specs) if spec.ignore]
    missing = None if colours or WHITE in table else MISSING_RATER
    return ClassTable(tuple(infos), table, colours, ignored[0] if ignored else None, missing, f"from {origin}")


def _infos(count: int, names: Sequence[str]) -> list[ClassInfo]:
    """Names with colours: background is black, and two classes are those of a lesion in our own stores."""
    rest = [_colour(n) for n in range(count - 1)]
    infos = [ClassInfo(name, color) for name, color in zip(names, [LESION_CLASSES[0].color, *rest])]
    if infos[0].name == "class 0":
        infos[0] = LESION_CLASSES[0]
        if count == 2:
            infos[1] = ClassInfo("foreground", infos[1].color)
    return infos


def _colour(n: int) -> tuple[int, int, int]:
    around, base = divmod(n, len(_PALETTE))
    r, g, b = (255 - round((255 - part) * 0.7**around) for part in _PALETTE[base])
    return r, g, b


def _rgb(value: int) -> tuple[int, int, int]:
    return value >> 16, value >> 8 & 255, value & 255


def _number(rgb: tuple[int, int, int]) -> int:
    return rgb[0] << 16 | rgb[1] << 8 | rgb[2]


# ------------------------------------------------------------------------------------------------------- the YAML


def read_classes(file: Path) -> list[ClassSpec]:
    """The classes of a YAML: a list, or `classes:` with a list, of names or of name, color, values, ignore.

    InputError names what is wrong in the file and how it should look.
    """
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--classes {file}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    if isinstance(data, Mapping) and set(data) == {"classes"}:
        data = data["classes"]
    if isinstance(data, Mapping) and sorted(data) == list(range(len(data))):
        data = [data[n] for n in range(len(data))]
    if not isinstance(data, list) or len(data) < 2:
        raise InputError(f"--classes {file}: a list of at least two classes is needed, such as [background, lesion]")
    specs = [_spec(entry, f"--classes {file}: class {n}") for n, entry in enumerate(data)]
    names = [spec.name for spec in specs]
    if len(set(names)) < len(names) or len(names) > MISSING_RATER or sum(spec.ignore for spec in specs) > 1:
        raise InputError(f"--classes {file}: names must differ, at most one class is ignored, at most 255 are read")
    return specs


def _spec(entry: Any, where: str) -> ClassSpec:
    entry = entry if isinstance(entry, Mapping) else {"name": entry}
    if not set(entry) <= _KEYS or not isinstance(entry.get("name"), str):
        raise InputError(f"{where} is {dict(entry)}; name, color, values and ignore are known, and name is needed")
    values = entry.get("values")
    if values is not None:
        values = tuple(_value(value, where) for value in (values if isinstance(values, list) else [values]))
    color = None if entry.get("color") is None else _rgb(_value(entry["color"], where, color=True))
    return ClassSpec(entry["name"], color, values, bool(entry.get("ignore", False)))


def _value(value: Any, where: str, color: bool = False) -> int:
    """A number, or a colour: "#e65532" or [230, 85, 50]."""
    if isinstance(value, str) and len(value) == 7 and value[0] == "#":
        try:
            return int(value[1:], 16)
        except ValueError:
            pass
    if isinstance(value, list) and len(value) == COLOURS and all(isinstance(v, int) and 0 <= v < 256 for v in value):
        return _number((value[0], value[1], value[2]))
    if not color and isinstance(value, int):
        return value
    raise InputError(f'{where} has the {"color" if color else "value"} {value}; write "#e65532" or [230, 85, 50]')
