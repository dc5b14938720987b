"""A user's own images from a CSV: all of them with their labels, or only the splits and groups of images in folders."""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from stochseg.data.folder_items import SPLIT_WORDS, Files, Item, Layout, leading_parts
from stochseg.data.map_files import suffix_of
from stochseg.data.pixel_files import DICOM, SUFFIXES


def of_table(source: Path, table: Path, rows: list[tuple[int, dict[str, str]]]) -> Layout:
    found = Layout(f"the table {table.name}", [], "group" if "group" in rows[0][1] else "image")
    found.splits = f"from {table.name}" if "split" in rows[0][1] else ""
    items: dict[Files, Item] = {}
    bases = (table.parent, source)
    for line, cells in rows:
        where = f"{table}, line {line}"
        image = _files_of(cells["image"], bases)
        label = _files_of(cells["label"], bases) if cells["label"] else ()
        for text, files in ((cells["image"], image), (cells["label"], label)):
            if files is None:
                found.mistakes.append(
                    f"{where}: {text or 'no image'} is not there, or not one of {', '.join(SUFFIXES)}"
                )
        if not image or label is None:
            continue
        item = items.setdefault(image, Item(cells["image"], image))
        _set(item, cells, where, found)
        rater = cells.get("rater") or str(len(item.labels) + 1)
        if label and rater in item.labels:
            found.mistakes.append(f"{where}: a second label of {cells['image']} by rater {rater}; keep one")
        elif label:
            item.labels[rater] = label
    found.items = list(items.values())
    folders = [PurePosixPath(item.name).parts[:-1] for item in found.items]
    common = leading_parts(folders)
    for item in found.items:
        path = PurePosixPath(item.name)
        suffix = suffix_of(item.image[0]) if len(item.image) == 1 else ""
        name = "/".join(path.parts[common:])
        item.name = name[: -len(suffix)] if suffix and name.lower().endswith(suffix) else name
    _fill_groups(found, str(table))
    return found


def _files_of(text: str, bases: Iterable[Path]) -> Files | None:
    """A file, or the DICOM files of a folder; None where there is none that can be read."""
    for base in bases:
        path = base / text
        if text and path.is_file() and suffix_of(path) in SUFFIXES:
            return (path,)
        if text and path.is_dir():
            return tuple(sorted(f for f in path.iterdir() if suffix_of(f) in DICOM)) or None
    return None


def _set(item: Item, cells: Mapping[str, str], where: str, found: Layout) -> None:
    """Take over split and group of a line; another line may not contradict it."""
    for name in ("split", "group"):
        old, new = getattr(item, name), cells.get(name, "")
        if new and old and new != old:
            found.mistakes.append(f"{where}: {item.name} is of {name} {new}, and of {old} in another line; keep one")
        elif new:
            setattr(item, name, new)


def look_up(found: Layout, table: Path, rows: list[tuple[int, dict[str, str]]]) -> None:
    """Splits and groups of images in folders, from a CSV that names no labels."""
    items = {item.name: item for item in found.items}
    items |= {name.partition("/")[2]: item for name, item in items.items() if name.partition("/")[0] in SPLIT_WORDS}
    columns = rows[0][1] if rows else {}
    if "group" in columns:
        found.groups = "group"
        for item in found.items:
            item.group = None
    if "split" in columns:
        found.splits = f"from {table.name}"
        for item in found.items:
            item.split = None
    for line, cells in rows:
        name = cells["image"].removeprefix("images/")
        stem = name[: -len(suffix)] if (suffix := suffix_of(Path(name))) in SUFFIXES else name
        if stem not in items:
            found.mistakes.append(f"{table}, line {line}: no image is called {cells['image']}; correct or remove it")
        else:
            _set(items[stem], cells, f"{table}, line {line}", found)
    _fill_groups(found, str(table))


def _fill_groups(found: Layout, table: str) -> None:
    """Images without a group are groups of their own, unless a column of groups leaves them out."""
    for item in found.items:
        if item.group is None:
            if found.groups == "group":
                found.mistakes.append(f"{table}: no group of {item.name}; name one")
            item.group = item.name
