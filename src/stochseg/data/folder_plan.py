"""From what files hold to what a store will hold: splits, sizes, classes, intensities, and every mistake in the data."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stochseg.data.folder_classes import MOST, ClassTable, read_classes, understand_classes
from stochseg.data.folder_fit import Fit, Size, places, sizes_in_words
from stochseg.data.folder_items import Item, Layout, Slices
from stochseg.data.folder_rows import Recipe
from stochseg.data.folder_scan import Facts, ImageFacts, LabelFacts, as_colours
from stochseg.data.map_files import suffix_of
from stochseg.data.pixel_files import DICOM, NIFTI, Windows, parse_window
from stochseg.data.splits import SPLIT_NAMES, split_by_group
from stochseg.errors import InputError
from stochseg.wording import counted, some

CLASSES_FILE = "classes.yaml"
NO_CLASSES = ClassTable((), {}, False, None, None, "not understood")


@dataclass(frozen=True)
class Entry:
    """The rows that an item becomes: their ids, and the slice and place (top, left) that each is cut from."""

    item: Item
    facts: ImageFacts
    split: str
    group: str
    ids: tuple[str, ...]
    rows: tuple[tuple[int, tuple[int, int]], ...]


@dataclass
class Plan:
    """Everything that `folder.prepare_folder` shows and writes. mistakes: where there are any, nothing is written."""

    source: Path
    layout: Layout
    facts: Sequence[Facts]
    recipe: Recipe
    splits: str
    notes: dict[str, Any]
    entries: list[Entry] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def make_plan(
    source: Path,
    layout: Layout,
    facts: Sequence[Facts],
    classes: Path | None,
    size: str | None,
    fit: Fit,
    window: str,
    axis: int,
    slices: Slices,
    shares: Mapping[str, float],
    seed: int,
) -> Plan:
    """The plan for the items of a layout, with the flags of `prepare_folder`; InputError where a flag is wrong."""
    if axis not in (0, 1, 2):
        raise InputError(f"--axis {axis}: choose 0, 1 or 2")
    if slices not in ("all", "marked"):
        raise InputError(f"--slices {slices}: choose all or marked")
    mistakes = [*layout.mistakes, *(m for one in facts for m in one.mistakes)]
    read = [(item, one.image, one) for item, one in zip(layout.items, facts) if one.image]
    images = [image for _, image, _ in read]
    table = _classes(source, classes, facts, mistakes)
    target = _size(size, fit, read, mistakes)
    recipe = Recipe(
        axis, _channels(images, mistakes), _windows(window, images), target, fit, table, tuple(layout.raters)
    )
    plan = Plan(source, layout, facts, recipe, layout.splits, {}, mistakes=mistakes, remarks=list(layout.notes))
    same = _identical(read)
    split_of = _splits(plan, read, same, shares, seed)
    _check_across(plan, read, split_of, same)
    for item, image, one in read:
        if table.classes and (split := split_of.get(item.name)):
            entry = _entry(item, image, one, split, plan, slices)
            if entry.ids:
                plan.entries.append(entry)
            elif slices == "all" and one.labels and not one.mistakes:
                mistakes.append(
                    f"{item.image[0]}: every label of it is a whole map of 255, a missing rater; remove the image"
                )
    _check_ids(plan)
    plan.remarks += _remarks(plan)
    plan.notes = {
        "source": str(source.name),
        "layout": layout.kind,
        "split": plan.splits,
        "raters": layout.raters,
        "fit": fit if any(image.size != target for image in images) else None,
        "windows": recipe.windows,
        "values": {info.name: table.values_of(n) for n, info in enumerate(table.classes)},
    }
    return plan


def _classes(source: Path, file: Path | None, facts: Sequence[Facts], mistakes: list[str]) -> ClassTable:
    """What the values mean; labels with values of no class are mistakes."""
    labels = [label for one in facts for label in one.labels.values()]
    if not labels:
        return NO_CLASSES
    colours = any(label.colours for label in labels)
    there = file or (source / CLASSES_FILE if (source / CLASSES_FILE).is_file() else None)
    specs = read_classes(there) if there else None
    smooth = [] if specs else [label for label in labels if len(frozenset().union(*label.slices)) > MOST]
    if smooth:
        mistakes.append(
            f"{some([label.file for label in smooth])}: {counted(len(smooth), 'label')} of more than {MOST} different "
            "values, such as a mask that was resized with interpolation or saved as JPEG; threshold it, or name the "
            "classes in a YAML"
        )
        labels = [label for label in labels if label not in smooth]
    if not labels:
        return NO_CLASSES
    maps = {values for label in labels for values in values_of(label, colours)}
    try:
        table = understand_classes(maps, colours, specs, there.name if there else "")
    except InputError as error:
        mistakes.append(str(error))
        return NO_CLASSES
    unknown: defaultdict[int, list[str]] = defaultdict(list)
    for label in labels:
        several = {value for values in label.slices if values != {table.missing} for value in values}
        for value in several if label.colours or not colours else as_colours(several):
            if value not in table.ids:
                unknown[value].append(label.file)
    for value, names in sorted(unknown.items()):
        whole = "; a whole map of it would be a missing rater" if value == table.missing else ""
        mistakes.append(
            f"{some(names)}: the value {table.shown(value)} is no class of {there}{whole}; add it there, or correct "
            f"{counted(len(names), 'label')}"
        )
    return table


def _size(text: str | None, fit: Fit, read: Sequence[tuple[Item, ImageFacts, Facts]], mistakes: list[str]) -> Size:
    sizes = [image.size for _, image, _ in read]
    if text is None:
        if len(set(sizes)) > 1:
            h, w = (int(np.median([size[i] for size in sizes])) for i in (0, 1))
            least = min(min(size) for size in sizes)
            mistakes.append(
                f"images have {len(set(sizes))} sizes, {sizes_in_words(sizes)}, and a store has one: choose "
                f"--size {least} --fit crop (their centre), --size {least} --fit tiles (all of each, in pieces), or "
                f"--size {h},{w} --fit resize (all of each, scaled)"
            )
        return sizes[0] if sizes else (0, 0)
    parts = text.replace("x", ",").split(",")
    if not 1 <= len(parts) <= 2 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"--size {text}: give H,W such as 480,640, or one number for a square")
    target = int(parts[0]), int(parts[-1])
    if fit != "resize":
        for item, image, _ in read:
            if image.size[0] < target[0] or image.size[1] < target[1]:
                h, w = image.size
                mistakes.append(
                    f"{item.image[0]}: {w}x{h} pixels, smaller than --size {text}; choose a smaller size, or --fit resize"
                )
    return target


def _channels(images: Sequence[ImageFacts], mistakes: list[str]) -> int:
    """One for grey, 3 where any image has colour, otherwise what all have."""
    found = sorted({image.channels for image in images})
    if not set(found) <= {1, 3} and len(found) > 1:
        mistakes.append(f"images have {' and '.join(map(str, found))} channels; all must have the same")
    return found[-1] if found else 1


def _windows(text: str, images: Sequence[ImageFacts]) -> Windows:
    if text in ("image", "file"):
        return "image" if text == "image" else "file"
    if text == "auto":
        deep = [image.spread for image in images if image.dtype != "uint8"]
        if not deep:
            return None
        low, high = min(low for low, _ in deep), max(high for _, high in deep)
        return low, high if high > low else low + 1
    return parse_window(text, ", or auto, image or file")


def _identical(read: Sequence[tuple[Item, ImageFacts, Facts]]) -> list[list[Item]]:
    """Items that share the pixels of an image or slice, more than one of each."""
    owners: defaultdict[str, list[Item]] = defaultdict(list)
    for item, image, _ in read:
        for one in set(image.hashes) - {""}:
            owners[one].append(item)
    return [items for items in owners.values() if len(items) > 1]


def _splits(
    plan: Plan,
    read: Sequence[tuple[Item, ImageFacts, Facts]],
    same: Sequence[Sequence[Item]],
    shares: Mapping[str, float],
    seed: int,
) -> dict[str, str]:
    """The split of each item by its name: as given, or drawn by groups, identical images counting as of one group."""
    items = [item for item, _, _ in read]
    if plan.layout.splits:
        return {item.name: item.split for item in items if item.split}
    leader = {item.group or item.name: item.group or item.name for item in items}

    def first(group: str) -> str:
        while leader[group] != group:
            group = leader[group]
        return group

    for several in same:
        groups = sorted({first(item.group or item.name) for item in several})
        leader.update(dict.fromkeys(groups, groups[0]))
    together = [first(item.group or item.name) for item in items]
    text = "/".join(f"{100 * share:.0f}" for share in shares.values())
    plan.splits = f"drawn by {plan.layout.groups}: {text} of {'/'.join(shares)}, seed {seed}"
    if not items:
        return {}
    if len(set(together)) < len(shares):
        tied = ", since those with the same picture stay together" if len(set(together)) < len(leader) else ""
        plan.mistakes.append(
            f"{counted(len(set(together)), plan.layout.groups)} cannot fill the splits {'/'.join(shares)}{tied}: add "
            "images, name splits yourself, or ask for fewer with --splits 80/20"
        )
        return {}
    return dict(zip((item.name for item in items), split_by_group(together, shares, seed)))


def _check_across(
    plan: Plan,
    read: Sequence[tuple[Item, ImageFacts, Facts]],
    split_of: Mapping[str, str],
    same: Sequence[Sequence[Item]],
) -> None:
    """No group and no image may be in two splits: scores would be too good."""
    first: dict[str, Item] = {}
    for item, _, _ in read:
        other = first.setdefault(item.group or item.name, item)
        a, b = split_of.get(other.name), split_of.get(item.name)
        if a and b and a != b:
            plan.mistakes.append(
                f"{plan.layout.groups} {item.group} is in two splits: {other.image[0]} in {a}, {item.image[0]} in {b}; "
                "keep it in one"
            )
    pairs = {(several[0].name, item.name): (several[0], item) for several in same for item in several[1:]}
    together = []
    for one, item in pairs.values():
        a, b = split_of.get(one.name), split_of.get(item.name)
        if a and b and a != b:
            plan.mistakes.append(
                f"{one.image[0]} in {a} and {item.image[0]} in {b} hold the same picture; keep one of them"
            )
        elif a and a == b:
            together.append(f"{item.name} is {one.name}")
    if together:
        plan.remarks.append(f"the same picture under two names, always in one split: {some(together)}")


def _entry(item: Item, image: ImageFacts, facts: Facts, split: str, plan: Plan, slices: Slices) -> Entry:
    recipe = plan.recipe
    starts = places(image.size, recipe.size, recipe.fit)
    volume = len(image.hashes) > 1 or len(item.image) > 1 or suffix_of(item.image[0]) in NIFTI
    name = item.name.partition("/")[2] if plan.layout.splits == "from folders" else item.name
    ids, rows = [], []
    for s in range(len(image.hashes)):
        if not slice_values(s, facts, recipe.classes) or (
            slices == "marked" and volume and not _marked(s, facts, plan)
        ):
            continue
        at = f"{name}:{s:03d}" if volume else name
        for top, left in starts:
            ids.append(f"{at}@{top},{left}" if len(starts) > 1 else at)
            rows.append((s, (top, left)))
    return Entry(item, image, split, item.group or item.name, tuple(ids), tuple(rows))


def slice_values(s: int, facts: Facts, table: ClassTable) -> list[frozenset[int]]:
    """The values in a slice, of each rater who is not missing."""
    found = (label.slices[s] for label in facts.labels.values())
    repacked = (
        as_colours(values) if table.colours and not label.colours else values
        for label, values in zip(facts.labels.values(), found)
    )
    return [values for values in repacked if values != {table.missing}]


def values_of(label: LabelFacts, colours: bool) -> list[frozenset[int]]:
    """The values in each slice of a label."""
    return [as_colours(values) if colours and not label.colours else values for values in label.slices]


def _marked(s: int, facts: Facts, plan: Plan) -> bool:
    table = plan.recipe.classes
    return any(table.ids.get(v, 0) != 0 for values in slice_values(s, facts, table) for v in values)


def _check_ids(plan: Plan) -> None:
    """Where images of two splits share a name, the split tells them apart."""
    seen: dict[tuple[str, str], Entry] = {}
    for entry in plan.entries:
        other = seen.setdefault((entry.split, entry.ids[0]), entry)
        if other is not entry:
            plan.mistakes.append(
                f"{other.item.image[0]} and {entry.item.image[0]}: two images of one name in {entry.split}; rename one"
            )


def _remarks(plan: Plan) -> list[str]:
    """What is no mistake and still worth knowing."""
    remarks = []
    splits = {entry.split for entry in plan.entries}
    if plan.entries and (missing := [name for name in SPLIT_NAMES[:2] if name not in splits]):
        remarks.append(f"no split {' and '.join(missing)}: training takes both train and val")
    if plan.layout.groups == "image":
        remarks.append(
            "every image is a group of its own; images of one patient must not be in two splits: put them into a folder a "
            "patient, or give a CSV with the columns image,group"
        )
    if isinstance(plan.recipe.windows, tuple):
        low, high = plan.recipe.windows
        deep = [one.image for one in plan.facts if one.image]
        if any(image.low < low or image.high > high for image in deep):
            remarks.append(f"values below {low:g} become black, above {high:g} white; --window LOW,HIGH sets this")
    if plan.recipe.windows == "file":
        without = sum(one.image is not None and one.image.window is None for one in plan.facts)
        if without:
            remarks.append(f"{counted(without, 'image')} name no window: 0.5 to 99.5 % of their own values are taken")
    aspects = {round(one.image.size[0] / one.image.size[1], 2) for one in plan.facts if one.image}
    h, w = plan.recipe.size
    if plan.recipe.fit == "resize" and w and any(abs(a - h / w) > 0.02 for a in aspects):
        remarks.append("resizing changes the shape of images: their height to width is not that of --size")
    if any(suffix_of(item.image[0]) in DICOM for item in plan.layout.items) and isinstance(plan.recipe.windows, tuple):
        remarks.append("values of DICOM are those after rescale slope and intercept (Hounsfield units of CT)")
    return remarks
