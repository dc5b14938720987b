"""Images of a user's own with the labels of one or more raters, made into a store.

folder_layout   which files belong together     (names only)
folder_scan     what is in them                 (every file once, on all cores)
folder_classes  what the values of labels mean
folder_plan     splits, sizes, intensities; everything that is wrong with the data
folder_table    what was understood, shown before anything is written
folder_rows     the rows of the store           (every file once more, on all cores)
"""

from pathlib import Path

from stochseg.data.folder_fit import Fit
from stochseg.data.folder_items import Item, Slices
from stochseg.data.folder_layout import find_layout
from stochseg.data.folder_plan import Plan, make_plan
from stochseg.data.folder_rows import RowsOfItem, write
from stochseg.data.folder_scan import scan
from stochseg.data.folder_table import plan_text
from stochseg.data.splits import SPLIT_NAMES, parse_shares
from stochseg.data.store import LESION_CLASSES
from stochseg.data.store_writer import StoreWriter
from stochseg.data.workers import FEW_FILES, Workers, cores
from stochseg.errors import InputError
from stochseg.progress import say, track
from stochseg.wording import counted

FEW_BYTES = 16 * 2**20
"""With less than this to read, and few files, starting workers takes longer than the work."""


class Mistakes(InputError):
    """All that is wrong with the data; `found` has a line for each."""

    def __init__(self, source: Path, found: list[str]) -> None:
        super().__init__(f"--source {source}: {counted(len(found), 'mistake')}, listed above; nothing was written")
        self.found = found


def prepare_folder(
    source: Path,
    out: Path | None = None,
    csv: Path | None = None,
    classes: Path | None = None,
    size: str | None = None,
    fit: Fit = "crop",
    window: str = "auto",
    axis: int = 2,
    slices: Slices = "all",
    splits: str = "60/20/20",
    seed: int = 0,
    check: bool = False,
    workers: int | None = None,
    overwrite: bool = False,
) -> Path | None:
    """Make a store of images of your own with the labels of one or more raters.

    Layouts: images/NAME.png with raters/RATER/NAME.png, or with labels/NAME_RATER.png, or a CSV with the columns image,
    label, rater, split, group. PNG, JPEG, TIFF, NPY, NIfTI, DICOM. Prints what it understood before it writes, and
    every mistake in the data at once.

    Args:
        source: The folder with images/, or that the paths of the CSV begin in.
        out: The store to make.
        csv: Columns image and label, and rater, split, group where wanted; without label it gives splits and groups of
            images in folders. Default: the one CSV in the source, if any.
        classes: YAML with the classes: names, colours, values in the label files. Default: classes.yaml in the source, or
            guessed from the values.
        size: Size of the store's images, H,W or one number for a square. Default: that of the images, if all have one.
        fit: How images of other sizes come to it: crop (their centre), resize (all of it), tiles (all of it in pieces).
        window: Values that become black and white, LOW,HIGH; auto: bytes as they are, otherwise what nearly all values of
            all images lie in; image: the same for each image; file: what a DICOM file names.
        axis: Along which the slices of a NIfTI volume lie, 0, 1 or 2.
        slices: Which slices of volumes to take: all, or marked: those where a rater marks anything.
        splits: Shares of the groups for train/val/test, where the source has no splits of its own.
        seed: Decides which groups go to which split, where the source has no splits of its own.
        check: Show what would be written, and all mistakes, and write nothing.
        workers: Processes that read. Default: one a core where there is much to read.
        overwrite: Replace a store that is there already.
    """
    source = Path(source)
    if out is None and not check:
        raise InputError("stochseg prepare folder: missing --out; or look at the data first with --check")
    if out is not None and not check:  # before long work begins
        StoreWriter(out, classes=LESION_CLASSES, raters=1, overwrite=overwrite)
    shares = parse_shares(splits)
    layout = find_layout(source, Path(csv) if csv else None)
    count = workers if workers is not None else _workers_for(layout.items)
    if count < 1:
        raise InputError(f"--workers {workers}: at least 1 is needed")
    tasks = [(item, axis) for item in layout.items]
    with Workers(count) as pool:
        facts = list(track(pool.each(scan, tasks), len(tasks), "reading"))
        plan = make_plan(source, layout, facts, classes, size, fit, window, axis, slices, shares, seed)
        say(plan_text(plan))
        if plan.mistakes:
            listed = [f"  {mistake}" for mistake in plan.mistakes]
            say("\n".join(["", f"{counted(len(listed), 'mistake')} in the data:", *listed]))
            raise Mistakes(source, plan.mistakes)
        if check or out is None:
            return None
        _write(plan, Path(out), pool, overwrite)
    return Path(out)


def _workers_for(items: list[Item]) -> int:
    files = [file for item in items for group in (item.image, *item.labels.values()) for file in group]
    few = len(files) < FEW_FILES and sum(file.stat().st_size for file in files) < FEW_BYTES
    return 1 if few else cores()


def _write(plan: Plan, out: Path, pool: Workers, overwrite: bool) -> None:
    recipe = plan.recipe
    with StoreWriter(
        out,
        classes=recipe.classes.classes,
        raters=len(recipe.raters),
        ignore=recipe.classes.ignore,
        group_name=plan.layout.groups,
        notes=plan.notes,
        overwrite=overwrite,
    ) as writer:
        tasks: list[RowsOfItem] = []
        for name in SPLIT_NAMES:
            planned = [entry for entry in plan.entries if entry.split == name]
            if not planned:
                continue
            ids = [id for entry in planned for id in entry.ids]
            groups = [entry.group for entry in planned for _ in entry.ids]
            shape = (*recipe.size, recipe.channels)
            split = writer.add_split(name, ids, groups, shape, f"{plan.source.name}, {plan.layout.kind}")
            files = Path(split.images.filename), Path(split.labels.filename)  # type: ignore[attr-defined]
            row = 0
            for entry in planned:
                rows = tuple((row + n, s, place) for n, (s, place) in enumerate(entry.rows))
                tasks.append(RowsOfItem(entry.item, entry.facts, recipe, *files, rows))
                row += len(rows)
        for _ in track(pool.each(write, tasks), len(tasks), "writing"):
            pass
