"""LIDC-IDRI lung nodule slices, each with the masks of up to four radiologists, made into a store.

The data: Armato et al., "The Lung Image Database Consortium (LIDC) and Image Database Resource Initiative (IDRI)",
Medical Physics 38(2), 2011; CC BY 3.0.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from stochseg.data.archives import ARCHIVE_SUFFIXES
from stochseg.data.download import download_bucket
from stochseg.data.lidc_arrays import read_npz, read_pickle
from stochseg.data.lidc_files import RATERS, find_files
from stochseg.data.pixel_files import Window, parse_window
from stochseg.data.reading import check_regular
from stochseg.data.splits import SPLIT_NAMES, parse_shares, split_by_group
from stochseg.data.store import LESION_CLASSES, MISSING_RATER, Split
from stochseg.data.store_writer import StoreWriter
from stochseg.errors import InputError
from stochseg.progress import say

BUCKET, PREFIX = "hpunet-data", "lidc_crops/"
"""Where the crops of Kohl et al. 2019 (arXiv 1905.13077) are public: 8843, 1993 and 1980 images of 180x180."""


class Slice(Protocol):
    """What is known of a slice before its pixels are read."""

    @property
    def id(self) -> str: ...
    @property
    def patient(self) -> str: ...
    @property
    def split(self) -> str | None:
        """None in all slices of a source without splits of its own."""


class Source(Protocol):
    """One kind of source: its slices, and how to fill rows of a store with them."""

    @property
    def kind(self) -> str: ...
    @property
    def slices(self) -> Sequence[Slice]: ...
    @property
    def raters(self) -> int: ...
    @property
    def image_shape(self) -> tuple[int, int, int]: ...
    @property
    def left_out(self) -> Sequence[str]:
        """What could not be used, a line each."""

    def fill(self, split: Split, chosen: Sequence[int]) -> None: ...


def prepare_lidc(
    out: Path,
    source: Path | None = None,
    download: bool = False,
    dicom: Path | None = None,
    size: int = 128,
    window: str = "-1000,400",
    cache: Path | None = None,
    splits: str = "60/20/20",
    seed: int = 0,
    limit: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Make a store of LIDC-IDRI slices.

    Reads the crops of the Hierarchical Probabilistic U-Net (folders or archives), slice folders
    (PATIENT/nodule-N/images and mask-0 to mask-3), data_lidc.pickle, an .npz with images and labels, or with --dicom the
    CT series and XML readings themselves.

    Args:
        out: The store to make.
        source: HPU-Net crops (folders or archives), slice folders, data_lidc.pickle or an .npz; recognised by content.
        download: Fetch the crops from their public bucket instead of reading a source.
        dicom: Folder with the DICOM series of The Cancer Imaging Archive and, anywhere in it, their XML readings.
        size: Side of the squares that are cut around nodules of --dicom, in pixels of the scan.
        window: Hounsfield units of --dicom that become black and white.
        cache: Where downloads are kept. Default: lidc_crops beside the store.
        splits: Shares of the patients for train/val/test, used only where the source has no splits of its own.
        seed: Decides which patients go to which split, where the source has no splits of its own.
        limit: Take only the first so many images of each split, for a try.
        overwrite: Replace a store that is there already.
    """
    out = Path(out)
    shares = parse_shares(splits)
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit}: at least 1 is needed")
    ways = [source is not None, download, dicom is not None]
    if sum(ways) != 1:
        more = ", not several" if any(ways) else ""
        raise InputError(f"one of --source PATH, --dicom DIR and --download is needed{more}")
    if size < 1:
        raise InputError(f"--size {size}: at least 1 is needed")
    units = parse_window(window)
    # Made here only for its check that `out` may be written, before long work begins.
    StoreWriter(out, classes=LESION_CLASSES, raters=RATERS, overwrite=overwrite)
    if download:
        source = cache or out.parent / "lidc_crops"
        download_bucket(BUCKET, PREFIX, source)
    place = Path(dicom or source or "")
    found = _open(place) if dicom is None else _open_dicom(place, size, units)
    split_of, rule = _split(found.slices, shares, f"by patient, seed {seed}, shares {splits}", seed)
    patients = {item.patient for item in found.slices}
    say(f"{place}: {found.kind}, {len(found.slices)} slices of {len(patients)} patients, split {rule}")

    notes: dict[str, Any] = {"source": found.kind, "split": rule, "limit": limit}
    if dicom is not None:
        notes |= {"windows": units, "left_out": list(found.left_out)}
    with StoreWriter(
        out, classes=LESION_CLASSES, raters=found.raters, group_name="patient", notes=notes, overwrite=overwrite
    ) as writer:
        for name in SPLIT_NAMES:
            chosen = [n for n, split in enumerate(split_of) if split == name][:limit]
            if chosen:
                ids = [found.slices[n].id for n in chosen]
                groups = [found.slices[n].patient for n in chosen]
                split = writer.add_split(name, ids, groups, found.image_shape, f"LIDC-IDRI, {found.kind}")
                found.fill(split, chosen)
                say(f"{name}: {len(ids)} slices of {len(set(groups))} patients, {_empty(split):.0%} of the masks empty")
    say(f"{out}: done")
    return out


def _open(source: Path) -> Source:
    if not source.exists():
        raise InputError(f"--source {source}: no such file or folder")
    check_regular(source)
    if found := find_files(source):
        return found
    candidates = [source] if source.is_file() else sorted(source.iterdir())
    files = [file for file in candidates if file.is_file() and file.suffix in _READERS]
    if len(files) > 1:
        raise InputError(f"--source {source}: holds {files[0].name} and {files[1].name}; name one of them")
    if not files:
        raise InputError(
            f"--source {source}: none of the layouts SPLIT/images/PATIENT/NAME.png with SPLIT/gt/PATIENT/NAME_l0.png "
            "to _l3.png, PATIENT/nodule-N/{images,mask-0..mask-3}/slice-K.png, either of them in "
            f"{' '.join(ARCHIVE_SUFFIXES)}, data_lidc.pickle, or .npz; see `stochseg prepare lidc --help`"
        )
    return _READERS[files[0].suffix](files[0])


def _open_dicom(folder: Path, size: int, window: Window) -> Source:
    from stochseg.data.lidc_dicom import find_dicom  # its libraries take a while to load

    return find_dicom(folder, size, window)


_READERS: dict[str, Callable[[Path], Source]] = {
    ".pickle": lambda file: read_pickle(file, RATERS),
    ".pkl": lambda file: read_pickle(file, RATERS),
    ".npz": read_npz,
}


def _split(slices: Sequence[Slice], shares: dict[str, float], rule: str, seed: int) -> tuple[list[str], str]:
    """The split of each slice, and how it was found."""
    own = [item.split for item in slices if item.split is not None]
    if len(own) == len(slices):
        return own, "as in the source"
    return split_by_group([item.patient for item in slices], shares, seed), rule


def _empty(split: Split) -> float:
    """The share of empty masks among those that are not missing."""
    empty = present = 0
    for start in range(0, len(split), 256):
        labels = split.labels[start : start + 256]
        there = labels[:, :, 0, 0] != MISSING_RATER
        present += int(there.sum())
        empty += int((there & ~labels.any(axis=(2, 3))).sum())
    return empty / present
