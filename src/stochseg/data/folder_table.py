"""What `prepare folder` understood, as text to read before anything is written."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from stochseg.data.folder_fit import sizes_in_words
from stochseg.data.folder_plan import Plan, slice_values
from stochseg.data.map_files import suffix_of
from stochseg.data.splits import SPLIT_NAMES
from stochseg.wording import counted, some

KINDS = {1: "grey", 3: "colour"}


def plan_text(plan: Plan) -> str:
    """Files, raters, groups, splits, classes and numbers; remarks come last."""
    facts = [("source", f"{plan.source}: {plan.layout.kind}"), *_facts(plan)]
    width = max(len(name) for name, _ in facts)
    lines = [f"{name:<{width}}  {text}" for name, text in facts]
    for table in (_classes(plan), _splits(plan)):
        if len(table) > 1:
            lines += ["", *aligned(table)]
    if plan.remarks:
        lines += ["", *(f"note: {remark}" for remark in plan.remarks)]
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines whose columns stand below each other, numbers at the right; a line below the first row."""
    columns = range(len(rows[0]))
    widths = [max(len(row[i]) for row in rows) for i in columns]
    number = [all(row[i][:1].isdecimal() or row[i] == "-" for row in rows[1:]) for i in columns]
    lines = [
        "  ".join(row[i].rjust(widths[i]) if number[i] else row[i].ljust(widths[i]) for i in columns).rstrip()
        for row in rows
    ]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def _facts(plan: Plan) -> list[tuple[str, str]]:
    images = [one.image for one in plan.facts if one.image]
    rows = [] if not images else [("images", _images(plan)), ("store", _store(plan))]
    example = next((item for item in plan.layout.items if item.labels), None)
    if example:
        labels = ", ".join(
            f"{rater} {_short(files[0], plan)}" for rater, files in list(sorted(example.labels.items()))[:3]
        )
        more = ", ..." if len(example.labels) > 3 else ""
        rows.insert(0, ("example", f"{example.name}: image {_short(example.image[0], plan)}; labels {labels}{more}"))
    rows.append(("raters", _raters(plan)))
    groups = list(dict.fromkeys(item.group or item.name for item in plan.layout.items))
    rows.append(("groups", f"{counted(len(groups), plan.layout.groups)}: {some(groups)}"))
    rows.append(("splits", plan.splits or "none"))
    return rows


def _short(file: Path, plan: Plan) -> str:
    return str(file.relative_to(plan.source)) if file.is_relative_to(plan.source) else str(file)


def _images(plan: Plan) -> str:
    images = [one.image for one in plan.facts if one.image]
    formats = Counter(suffix_of(item.image[0]).lstrip(".") for item in plan.layout.items)
    slices = sum(len(image.hashes) for image in images)
    volumes = f" with {counted(slices, 'slice')}" if slices > len(images) else ""
    kinds = sorted({f"{image.dtype} {KINDS.get(image.channels, f'of {image.channels} channels')}" for image in images})
    low, high = min(image.low for image in images), max(image.high for image in images)
    return (
        f"{' and '.join(f'{count:,} {name}' for name, count in formats.most_common())}{volumes}, "
        f"{sizes_in_words([image.size for image in images])} pixels, {', '.join(kinds)}, values {low:g} to {high:g}"
    )


def _store(plan: Plan) -> str:
    recipe = plan.recipe
    h, w = recipe.size
    fits = {one.image.size for one in plan.facts if one.image} == {recipe.size}
    ways = {"crop": "cropped to the centre", "resize": "resized", "tiles": "cut into tiles"}
    how = "as they are" if fits else ways[recipe.fit]
    window = recipe.windows
    if isinstance(window, tuple):
        values = f"values {window[0]:g} to {window[1]:g} become 0 to 255"
    elif window is None:
        values = "values as they are"
    else:
        values = "values by the window of each " + ("DICOM file" if window == "file" else "image")
    return f"{w}x{h} pixels, {KINDS.get(recipe.channels, f'{recipe.channels} channels')}; images {how}, {values}"


def _raters(plan: Plan) -> str:
    items = plan.layout.items
    counts = {rater: sum(rater in item.labels for item in items) for rater in plan.layout.raters}
    per_image = [len(item.labels) for item in items if item.labels]
    if not per_image:
        return "none"
    each = f"{min(per_image)}" if min(per_image) == max(per_image) else f"{min(per_image)} to {max(per_image)}"
    listed = ", ".join(f"{rater} {count:,}" for rater, count in list(counts.items())[:8])
    more = ", ..." if len(counts) > 8 else ""
    return f"{len(counts)}: {listed}{more} of {counted(len(items), 'image')}; {each} an image"


def _classes(plan: Plan) -> list[list[str]]:
    table = plan.recipe.classes
    pixels: defaultdict[int, int] = defaultdict(int)
    maps: defaultdict[int, int] = defaultdict(int)
    total = 0
    for one in plan.facts:
        for label in one.labels.values():
            repack = 0x010101 if table.colours and not label.colours else 1
            for value, count in label.counts.items():
                pixels[table.ids.get(value * repack, -1)] += count
        for s in range(len(one.image.hashes) if one.image else 0):
            for values in slice_values(s, one, table):
                total += 1
                for id in {table.ids.get(value, -1) for value in values}:
                    maps[id] += 1
    known = sum(count for id, count in pixels.items() if id >= 0)
    rows = [["class", "name", "value in files", "colour", "pixels", "in maps"]]
    for id, info in enumerate(table.classes):
        name = info.name + (" (left out of losses and scores)" if id == table.ignore and info.name != "ignore" else "")
        shown = ", ".join(table.shown(value) for value in table.values_of(id)) or "-"
        share = f"{100 * pixels[id] / known:.2f} %" if known else "-"
        rows.append(
            [str(id), name, shown, "#{:02x}{:02x}{:02x}".format(*info.color), share, f"{maps[id]:,} of {total:,}"]
        )
    return rows


def _splits(plan: Plan) -> list[list[str]]:
    """Per split: items, rows, groups, label maps there are, missing ones, and those that are background alone."""
    table = plan.recipe.classes
    facts = {item.name: one for item, one in zip(plan.layout.items, plan.facts)}
    title = plan.layout.groups
    groups_of = "groups" if title == "image" else counted(2, title).split()[1]
    rows = [["split", "images", "rows", groups_of, "label maps", "missing", "empty"]]
    for name in SPLIT_NAMES:
        entries = [entry for entry in plan.entries if entry.split == name]
        maps = empty = slots = 0
        for entry in entries:
            for s in {s for s, _ in entry.rows}:
                found = slice_values(s, facts[entry.item.name], table)
                maps += len(found)
                empty += sum(all(table.ids.get(value, 0) == 0 for value in values) for values in found)
                slots += len(plan.recipe.raters)
        count, groups = sum(len(entry.ids) for entry in entries), len({entry.group for entry in entries})
        if entries:
            share = f"{100 * empty / maps:.0f} %" if maps else "-"
            rows.append(
                [name, f"{len(entries):,}", f"{count:,}", f"{groups:,}", f"{maps:,}", f"{slots - maps:,}", share]
            )
    if all(row[1] == row[2] for row in rows[1:]):  # no slices, no tiles
        rows = [[*row[:2], *row[3:]] for row in rows]
    return rows
