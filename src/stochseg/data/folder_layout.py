"""Which files of a user's own belong together: images, the labels of each rater, splits and groups.

    (a) images/NAME.png    raters/RATER/NAME.png
    (b) images/NAME.png    labels/NAME_RATER.png, labels/NAME/RATER.png, or labels/NAME.png
    (c) a CSV with the columns image, label, and where they are wanted rater, split, group

Only names are read here. What contradicts itself is a mistake, and all of them are collected.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from stochseg.data.archives import FolderFiles
from stochseg.data.csv_files import read_rows
from stochseg.data.folder_csv import look_up, of_table
from stochseg.data.folder_items import SPLIT_WORDS, Item, Layout, leading_parts
from stochseg.data.lidc_files import natural
from stochseg.data.map_files import FOREIGN, suffix_of
from stochseg.data.pixel_files import DICOM, NIFTI, SUFFIXES
from stochseg.errors import InputError
from stochseg.wording import counted, some

UNREAD = tuple(suffix for suffix in FOREIGN if suffix not in SUFFIXES)
"""Suffixes of images that are not read; other files, such as notes, are passed over."""


def find_layout(source: Path, table: Path | None = None) -> Layout:
    """The images below a folder and what belongs to them; a CSV in the folder is found by itself.

    InputError where no layout is recognised or the CSV cannot be read; anything else is among the mistakes.
    """
    if not source.is_dir():
        what = "is a file: give its folder, or a CSV with --csv" if source.exists() else "no such folder"
        raise InputError(f"--source {source}: {what}")
    table = table or _table_in(source)
    rows = read_rows(table, "--csv", ["image"]) if table else []
    if table and not rows:
        raise InputError(f"--csv {table}: has no line below its first; add a line a label, or remove the file")
    if table and rows and "label" in rows[0][1]:
        found = of_table(source, table, rows)
    else:
        found = _of_folders(source)
        _groups_of_folders(found)
        if table:
            look_up(found, table, rows)
    _name_splits(found)
    _check_labelled(found, source)
    _few_raters(found)
    found.items.sort(key=lambda item: natural(item.name))
    return found


def _table_in(source: Path) -> Path | None:
    tables = sorted(file for file in source.glob("*.csv") if not file.name.startswith("."))
    if len(tables) > 1:
        raise InputError(f"--source {source}: holds {some([t.name for t in tables])}; name the one to use with --csv")
    return tables[0] if tables else None


# ------------------------------------------------------------------------------------------- (a) and (b): folders


def _of_folders(source: Path) -> Layout:
    parts = [(source, "")]
    if not (source / "images").is_dir():
        parts = [(path, f"{path.name}/") for path in sorted(source.iterdir()) if (path / "images").is_dir()]
        if not parts or any(path.name.lower() not in SPLIT_WORDS for path, _ in parts):
            there = some(sorted(path.name for path in source.iterdir())) or "nothing"
            raise InputError(
                f"--source {source}: no folder images/ in it (there is {there}); put images into images/ and labels "
                "into raters/RATER/ or labels/, or give a CSV with the columns image,label,rater; docs/own-data.md"
            )
    found = Layout("", [])
    for path, prefix in parts:
        _of_part(found, path, prefix)
    return found


def _of_part(found: Layout, source: Path, prefix: str) -> None:
    """Add the images of one images/ and the labels beside it."""
    there = [name for name in ("raters", "labels") if (source / name).is_dir()]
    if len(there) != 1:
        what = "both raters/ and labels/: keep one" if there else "neither raters/ nor labels/ beside images/: add one"
        raise InputError(f"--source {source}: {what}; docs/own-data.md shows the layouts")
    rated = there == ["raters"]
    found.kind = "images/ and a folder a rater in raters/" if rated else "images/ and labels/NAME_RATER"
    labels = list(_files(source / there[0], found))
    spaces = {_space(stem, rated)[1] for stem, _ in labels}
    items = {item.name: item for item in _images(source / "images", spaces, found)}
    without_split = {name.partition("/")[2]: name for name in items if name.partition("/")[0].lower() in SPLIT_WORDS}
    for stem, file in labels:
        rater, name = _space(stem, rated)
        if rated and not rater:
            found.mistakes.append(f"{file}: lies in no rater's folder; move it to {source / 'raters/RATER'}/")
            continue
        matched = _match(name, items, "_" if rated else "_/")
        if matched is None and name in without_split:
            matched = without_split[name], ""
        if matched is None:
            found.mistakes.append(f"{file}: no image is called {name}; name the label after its image, or remove it")
            continue
        item, rest = items[matched[0]], matched[1]
        rater = rater if rated else rest.strip("_/") or "1"
        if other := item.labels.get(rater):
            found.mistakes.append(f"{other[0]} and {file}: two labels of {item.name} by one rater; keep one")
        item.labels[rater] = (file,)
        if not rated and not rest and _match(name[:-1], items, "_") and _has_more(name, labels):
            found.mistakes.append(
                f"{file}: a label of the image {name}, or of {_match(name[:-1], items, '_')[0]}?"  # type: ignore[index]
                f" Rename one of these images, or use raters/RATER/"
            )
    for item in items.values():
        item.name = prefix + item.name
    found.items += items.values()


def _has_more(name: str, labels: Iterable[tuple[str, Path]]) -> bool:
    return any(stem.startswith(f"{name}_") for stem, _ in labels)


def _space(stem: str, rated: bool) -> tuple[str, str]:
    """(rater, name of the label) of a label's place below raters/, or ("", name) below labels/."""
    rater, slash, name = stem.partition("/")
    if not rated:
        return "", stem
    return (rater, name) if slash else ("", stem)


def _match(name: str, items: Mapping[str, object], marks: str) -> tuple[str, str] | None:
    """The image whose name a label's begins with, the longest, and what is left; None where there is none."""
    if name in items:
        return name, ""
    for i in range(len(name) - 1, 0, -1):
        if name[i] in marks and name[:i] in items:
            return name[:i], name[i:]
    return None


def _files(folder: Path, found: Layout) -> Iterable[tuple[str, Path]]:
    """Every file that can be read below a folder, with its path from there without suffix."""
    source = FolderFiles(folder)
    passed: list[str] = []
    for name in sorted(source.names(), key=natural):
        file = Path(source.where(name))
        suffix = suffix_of(file)
        if suffix in UNREAD:
            found.mistakes.append(f"{file}: {suffix} is not read; convert it to one of {', '.join(SUFFIXES)}")
        elif suffix not in SUFFIXES:
            passed.append(file.name)
        else:
            yield name.partition("/")[2].removesuffix(file.name[-len(suffix) :]), file
    if passed:
        found.notes.append(f"{folder}: passed over {counted(len(passed), 'file')} ({some(passed)})")


def _images(folder: Path, labels: set[str], found: Layout) -> Iterable[Item]:
    """The images below a folder. A folder of DICOM slices is one volume where a label has its name."""
    names: dict[str, list[Path]] = {}
    inside: defaultdict[str, list[Path]] = defaultdict(list)
    for stem, file in _files(folder, found):
        inside[stem.rpartition("/")[0]].append(file)
        names.setdefault(stem, []).append(file)
    series = {place: files for place, files in inside.items() if place and all(suffix_of(f) in DICOM for f in files)}
    claimed = {matched[0] for name in labels if (matched := _match(name, series, "_"))}
    volumes = {place: files for place, files in series.items() if place in claimed}
    yield from (Item(place, tuple(files)) for place, files in volumes.items())
    for stem, files in names.items():
        if len(files) > 1:
            found.mistakes.append(f"{files[0]} and {files[1]}: two images of one name; keep one")
        if stem.rpartition("/")[0] not in volumes:
            yield Item(stem, (files[0],))


def _groups_of_folders(found: Layout) -> None:
    """Groups and splits as folders tell them: images/SPLIT/PATIENT/NAME, of which each part may be left out."""
    parts = {item.name: PurePosixPath(item.name).parts for item in found.items}
    if parts and all(len(p) > 1 and p[0].lower() in SPLIT_WORDS for p in parts.values()):
        found.splits = "from folders"
        for item in found.items:
            item.split, parts[item.name] = parts[item.name][0], parts[item.name][1:]
    common = leading_parts([p[:-1] for p in parts.values()])
    for item in found.items:
        rest = parts[item.name][common:]
        item.group = rest[0] if len(rest) > 1 else item.name
    folders = any(len(p) - common > 1 for p in parts.values())
    volumes = any(suffix_of(item.image[0]) in NIFTI or len(item.image) > 1 for item in found.items)
    found.groups = "folder" if folders else "volume" if volumes else "image"


# -------------------------------------------------------------------------------------------------- all layouts


def _name_splits(found: Layout) -> None:
    for item in found.items:
        given = item.split
        item.split = SPLIT_WORDS.get(given.lower()) if given else None
        if given and item.split is None:
            found.mistakes.append(f"{item.image[0]}: split {given}; train, val and test are known")
        elif item.split is None and found.splits:
            found.mistakes.append(f"{item.image[0]}: no split, which others have {found.splits}; name one")


def _check_labelled(found: Layout, source: Path) -> None:
    found.mistakes += [f"{i.image[0]}: no label; add one or remove the image" for i in found.items if not i.labels]
    if not found.items and not found.mistakes:
        raise InputError(f"--source {source}: holds no image; {', '.join(SUFFIXES)} are read")


def _few_raters(found: Layout) -> None:
    """Where raters' names are of images rather than of persons, count the labels of each image instead.

    Every rater takes a map an image in the store, so names that hardly recur would fill it with missing ones.
    """
    most = max((len(item.labels) for item in found.items), default=0)
    if len(found.raters) > 2 * most:
        found.notes.append(
            f"{len(found.raters)} names of raters for at most {most} labels an image: raters are numbered in each image"
        )
        for item in found.items:
            ordered = sorted(item.labels, key=natural)
            item.labels = {str(n): item.labels[rater] for n, rater in enumerate(ordered, 1)}
