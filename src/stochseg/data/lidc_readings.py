"""What the radiologists of LIDC-IDRI drew: XML readings to outlines, outlines to masks, and which outlines are of one nodule.

A reading session has for each nodule of 3 mm or more one closed outline or more a slice. An outline is drawn around what
is meant, through the first pixels outside of it: **its own pixels do not belong to it**. An outline of inclusion adds
what it surrounds, one of exclusion (a hole) takes it away; the hole's own pixels therefore stay in the nodule.
(Armato et al. 2011, section II.C; the XML is that of http://www.nih.gov, LidcReadMessage.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from stochseg.data.reading import reads
from stochseg.errors import InputError

Points = NDArray[np.int64]

READERS = 4
TIGHTER, LEAST = 0.9, 0.1
"""Where too many readings seem to be of one nodule, the distance in mm is reduced by this factor, down to this."""


@dataclass(frozen=True)
class Outline:
    """One closed outline: points [m 2], x (column) and y (row) from 0; the slice's SOP instance UID and z in mm."""

    uid: str
    z: float
    include: bool
    points: Points


@dataclass(frozen=True)
class Reading:
    """One nodule as one reader outlined it. reader: number of the session, from 0."""

    reader: int
    id: str
    outlines: tuple[Outline, ...]


@dataclass(frozen=True)
class Readings:
    """All nodules of 3 mm or more in one scan. sessions: how many readers there were."""

    series: str
    sessions: int
    nodules: tuple[Reading, ...]


@reads
def read_readings(file: Path) -> Readings | None:
    """The readings in an XML file; None where it is of another kind, such as those of chest X-rays.

    A nodule of 3 mm or more is one with characteristics that are filled in; smaller ones and what is no nodule have one
    point each and are left out, and so are stray outlines of a single point. InputError for a damaged file.
    """
    try:
        root = ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise InputError(f"{file}: cannot be read as XML ({error}); copy it again") from error
    if _name(root) != "LidcReadMessage":
        return None
    series = _text(root, "ResponseHeader", "SeriesInstanceUid") or _text(root, "ResponseHeader", "SeriesInstanceUID")
    sessions = [child for child in root if _name(child) == "readingSession"]
    if not series or not sessions:
        raise InputError(f"{file}: names no series or holds no reading session; copy it again")
    if len(sessions) > READERS:
        raise InputError(f"{file}: {len(sessions)} reading sessions; LIDC-IDRI has {READERS} readers a scan")
    try:
        found = tuple(
            Reading(n, _text(nodule, "noduleID"), outlines)
            for n, session in enumerate(sessions)
            for nodule in session
            if _name(nodule) == "unblindedReadNodule" and _is_large(nodule) and (outlines := _outlines(nodule))
        )
    except ValueError as error:
        raise InputError(f"{file}: an outline cannot be read ({error}); copy it again") from error
    return Readings(series, len(sessions), found)


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _child(element: ElementTree.Element, name: str) -> ElementTree.Element | None:
    return next((child for child in element if _name(child) == name), None)


def _text(element: ElementTree.Element, *path: str) -> str:
    found: ElementTree.Element | None = element
    for name in path:
        found = None if found is None else _child(found, name)
    return "" if found is None else (found.text or "").strip()


def _is_large(nodule: ElementTree.Element) -> bool:
    """Characteristics are rated of nodules of 3 mm or more alone; some smaller ones have them empty or 0."""
    rated = _child(nodule, "characteristics")
    return rated is not None and len(rated) > 0 and all((c.text or "").strip() not in ("", "0") for c in rated)


def _outlines(nodule: ElementTree.Element) -> tuple[Outline, ...]:
    found = []
    for roi in (child for child in nodule if _name(child) == "roi"):
        edges = [child for child in roi if _name(child) == "edgeMap"]
        points = np.array([[int(_text(e, "xCoord")), int(_text(e, "yCoord"))] for e in edges], np.int64).reshape(-1, 2)
        if len(points) > 1:
            include = _text(roi, "inclusion").upper() != "FALSE"
            found.append(Outline(_text(roi, "imageSOP_UID"), float(_text(roi, "imageZposition")), include, points))
    return tuple(found)


def interior(points: Points, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels strictly inside a closed outline, bool [h w]; those on it, vertices and straight lines, are outside.

    points: whole numbers [m 2], x and y; the last is joined to the first. In whole numbers, so exact. What an outline
    goes around twice counts as inside (non-zero winding), a spur that goes out and back surrounds nothing.
    """
    mask = np.zeros(size, bool)
    x0, y0 = points.min(0).clip(0)
    x1, y1 = np.minimum(points.max(0), (size[1] - 1, size[0] - 1))
    if x1 < x0 or y1 < y0:
        return mask
    ys, xs = np.mgrid[y0 : y1 + 1, x0 : x1 + 1]
    winding, on = np.zeros(ys.shape, int), np.zeros(ys.shape, bool)
    for (ax, ay), (bx, by) in zip(points.tolist(), np.roll(points, -1, 0).tolist()):
        side = (bx - ax) * (ys - ay) - (by - ay) * (xs - ax)
        winding += (ay <= ys) & (ys < by) & (side > 0)
        winding -= (by <= ys) & (ys < ay) & (side < 0)
        on |= (side == 0) & (xs >= min(ax, bx)) & (xs <= max(ax, bx)) & (ys >= min(ay, by)) & (ys <= max(ay, by))
    mask[y0 : y1 + 1, x0 : x1 + 1] = (winding != 0) & ~on
    return mask


def mask_of(outlines: Sequence[Outline], size: tuple[int, int]) -> NDArray[np.bool_]:
    """What outlines on one slice mark, bool [h w]: inside any of inclusion and inside none of exclusion."""
    inside, holes = np.zeros(size, bool), np.zeros(size, bool)
    for outline in outlines:
        area = interior(outline.points, size)
        if outline.include:
            inside |= area
        else:
            holes |= area
    return inside & ~holes


def same_nodule(readings: Sequence[Reading], spacing: tuple[float, float]) -> list[list[Reading]]:
    """The readings of each nodule: those whose outlines come within a pixel of each other, directly or over others.

    As pylidc does it: the distance of two readings is the least between points of their outlines, in mm, and they belong
    together below the pixel spacing; where more readings than there are readers come together, it is reduced by a tenth
    until they do not. Two outlines of which one lies wholly inside the other on a slice belong together too, however far
    apart. Several readings of one reader in a nodule are parts of it. spacing: mm from row to row and column to column.
    """
    if not readings:
        return []
    clouds = [cKDTree(_in_space(reading, spacing)) for reading in readings]
    n = len(readings)
    distance = np.full((n, n), np.inf)
    for i in range(n):
        for j in range(i):
            nearest, _ = clouds[i].query(clouds[j].data)
            distance[i, j] = 0.0 if _nested(readings[i], readings[j]) else float(np.min(nearest))
    within = min(spacing)
    while True:
        count, of = connected_components(coo_matrix(distance <= within), directed=False)
        groups = [[readings[i] for i in range(n) if of[i] == g] for g in range(count)]
        if within < LEAST or all(len(group) <= READERS for group in groups):
            return sorted(groups, key=lambda group: min(o.z for reading in group for o in reading.outlines))
        within *= TIGHTER


def _in_space(reading: Reading, spacing: tuple[float, float]) -> NDArray[np.float64]:
    return np.concatenate(
        [np.c_[o.points * np.array(spacing)[::-1], np.full(len(o.points), o.z)] for o in reading.outlines]
    )


def _nested(a: Reading, b: Reading) -> bool:
    """Whether on some slice a point of one lies inside an outline of the other."""
    for one in a.outlines:
        for other in b.outlines:
            if one.uid != other.uid or not (one.include and other.include):
                continue
            if _holds(one.points, other.points) or _holds(other.points, one.points):
                return True
    return False


def _holds(outer: Points, inner: Points) -> bool:
    """Whether any point of `inner` is inside `outer`."""
    if (inner.max(0) < outer.min(0)).any() or (inner.min(0) > outer.max(0)).any():
        return False
    w, h = np.maximum(outer.max(0), inner.max(0)) + 1
    return bool(interior(outer, (int(h), int(w)))[inner[:, 1], inner[:, 0]].any())
