"""`prepare lidc --dicom`: outlines to masks exactly, readings of one nodule together, series with readings to a store."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stochseg.cli import main
from stochseg.data.lidc_readings import Outline, Reading, interior, mask_of, read_readings, same_nodule
from stochseg.data.store import open_store
from stochseg.errors import InputError

from .made_dicom import ROOT, Roi, nodule, write_readings, write_series, write_slice

Points = Sequence[tuple[int, int]]


def square(left: int, top: int, side: int) -> list[tuple[int, int]]:
    """The pixels around a square, from pixel to neighbour as the readers' program stores them."""
    s = range(side)
    return (
        [(left + i, top) for i in s]
        + [(left + side, top + i) for i in s]
        + [(left + side - i, top + side) for i in s]
        + [(left, top + side - i) for i in s]
    )


def block(left: int, top: int, side: int, size: tuple[int, int] = (64, 64)) -> np.ndarray:
    """What an outline `square` of the same numbers surrounds."""
    mask = np.zeros(size, bool)
    mask[top + 1 : top + side, left + 1 : left + side] = True
    return mask


def slow_interior(points: Points, size: tuple[int, int]) -> np.ndarray:
    """The same by angles: how often the outline turns around a pixel, in exact fractions of a turn."""
    mask = np.zeros(size, bool)
    edges = list(zip(points, [*points[1:], points[0]], strict=True))
    for y in range(size[0]):
        for x in range(size[1]):
            crossings, on = 0, False
            for (ax, ay), (bx, by) in edges:
                if ay == by:
                    on = on or (y == ay and min(ax, bx) <= x <= max(ax, bx))
                    continue
                if not min(ay, by) <= y <= max(ay, by):
                    continue
                at = ax + Fraction(bx - ax) * Fraction(y - ay, by - ay)
                on = on or at == x
                if y < max(ay, by) and at > x:
                    crossings += 1 if by > ay else -1
            mask[y, x] = crossings != 0 and not on
    return mask


def test_the_pixels_of_the_outline_are_outside() -> None:
    assert (interior(np.array(square(10, 20, 8)), (64, 64)) == block(10, 20, 8)).all()
    corners = np.array([(10, 20), (18, 20), (18, 28), (10, 28)])  # the same square, as four corners
    assert (interior(corners, (64, 64)) == block(10, 20, 8)).all()
    diamond = interior(np.array([(5, 1), (9, 5), (5, 9), (1, 5)]), (11, 11))
    rows, columns = np.mgrid[:11, :11]
    assert (diamond == (abs(rows - 5) + abs(columns - 5) < 4)).all()


def test_spurs_surround_nothing_and_what_is_gone_around_twice_is_inside() -> None:
    spur = [(10, 20), (18, 20), (30, 20), (18, 20), (18, 28), (10, 28)]
    assert (interior(np.array(spur), (64, 64)) == block(10, 20, 8)).all()
    assert (interior(np.array(square(10, 20, 8) * 2), (64, 64)) == block(10, 20, 8)).all()
    assert not interior(np.array([(3, 3), (9, 3)]), (16, 16)).any()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-2, 13), st.integers(-2, 13)), min_size=3, max_size=9))
def test_any_polygon_as_an_independent_program_fills_it(points: list[tuple[int, int]]) -> None:
    assert (interior(np.array(points), (12, 11)) == slow_interior(points, (12, 11))).all()


def outline(points: Points, include: bool = True, z: float = 0.0) -> Outline:
    return Outline(f"slice at {z}", z, include, np.array(points))


def test_holes_are_taken_away_without_their_own_pixels() -> None:
    found = mask_of([outline(square(10, 10, 20)), outline(square(16, 16, 6), include=False)], (64, 64))
    assert (found == (block(10, 10, 20) & ~block(16, 16, 6))).all()
    assert found[16, 16]  # on the outline of the hole
    two = mask_of([outline(square(5, 5, 6)), outline(square(30, 30, 6))], (64, 64))
    assert (two == (block(5, 5, 6) | block(30, 30, 6))).all()


def reading(reader: int, name: str, *outlines: Outline) -> Reading:
    return Reading(reader, name, outlines)


def ids(groups: list[list[Reading]]) -> list[set[str]]:
    return [{f"{r.reader}{r.id}" for r in group} for group in groups]


def test_readings_of_one_nodule_come_together_and_neighbours_stay_apart() -> None:
    near = [reading(0, "a", outline(square(10, 10, 8))), reading(1, "x", outline(square(12, 10, 9)))]
    inside = reading(2, "q", outline(square(13, 13, 2)))  # farther than a pixel from both outlines, and within them
    below = reading(3, "u", outline(square(12, 12, 5), z=0.4))
    other = reading(0, "b", outline(square(40, 40, 6), z=-5.0))
    beside = reading(1, "y", outline(square(23, 10, 5)))  # two pixels from the next outline
    groups = ids(same_nodule([*near, inside, below, other, beside], (0.5, 0.5)))
    assert groups == [{"0b"}, {"0a", "1x", "2q", "3u"}, {"1y"}]
    assert same_nodule([], (0.5, 0.5)) == []


def test_where_more_readings_than_readers_meet_the_distance_is_reduced() -> None:
    first = [reading(n, "a", outline(square(10, 10, 8 + n % 2))) for n in range(4)]
    second = [reading(n, "b", outline(square(20, 10, 8 + n % 2))) for n in range(4)]
    assert ids(same_nodule([*first, *second], (1.0, 1.0))) == [
        {"0a", "1a", "2a", "3a"},
        {"0b", "1b", "2b", "3b"},
    ]


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Three patients. P1: one nodule on two slices, read by three of four, one with a hole; a small one; another alone."""
    root = tmp_path / "LIDC-IDRI"
    for number in (1, 2, 3):
        series = f"{ROOT}{number}"
        rng = np.random.default_rng(number)
        stored = rng.integers(0, 2000, (5, 64, 64)).astype(np.int16)
        folder = root / f"P{number}" / "study" / "series"
        uids = []
        for n in range(5):
            uid = f"{series}.{n}"
            uids.append(uid)
            write_slice(folder / f"{5 - n:03d}.dcm", stored[n], uid, series, 2.0 * n, PatientID=f"P{number}")

        def roi(n: int, points: Points, include: bool = True, uids: list[str] = uids) -> Roi:
            return uids[n], 2.0 * n, include, points

        hole = [roi(2, square(20, 20, 12)), roi(2, square(24, 24, 4), include=False)]
        sessions = [
            [
                nodule("n1", [roi(1, square(20, 20, 10)), roi(2, square(21, 20, 10))]),
                nodule("s", [roi(3, [(5, 5)])], ""),
            ],
            [nodule("n2", hole)],
            [nodule("n3", [roi(2, square(20, 21, 11))]), nodule("n4", [roi(4, square(50, 50, 8))])],
            [nodule("n5", [roi(2, square(2, 2, 6))], rated="0")],  # below 3 mm, though rated
        ]
        write_readings(folder / "readings.xml", series, sessions)
    write_slice(root / "P9/xray/1.dcm", np.zeros((64, 64), np.int16), f"{ROOT}77.1", f"{ROOT}77", 0.0)
    (root / "P9/xray/readings.xml").write_text('<IdriReadMessage xmlns="http://www.nih.gov"/>')
    return root


def test_series_become_squares_around_nodules_with_the_masks_of_four_readers(scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    flags = ["--size", "32", "--window", "-1024,975", "--splits", "1/1/1"]
    assert main(["prepare", "lidc", "--dicom", str(scans), "--out", str(out), *flags]) == 0
    store = open_store(out, verify=True)
    assert sorted(store.splits) == ["test", "train", "val"]
    assert (
        sorted(group for split in store.splits.values() for group in split.groups)
        == ["P1"] * 3 + ["P2"] * 3 + ["P3"] * 3
    )
    for split in store.splits.values():
        number = int(split.groups[0][1])
        stored = np.random.default_rng(number).integers(0, 2000, (5, 64, 64)).astype(np.int16)
        assert [id.split("/", 2)[2] for id in split.ids] == [
            "nodule-0/slice-001",
            "nodule-0/slice-002",
            "nodule-1/slice-004",
        ]
        # the outlines of nodule 0 span 20 to 32 both ways, so its middle is 26 and the square begins at 10
        top = left = 10
        expected = np.zeros((3, 4, 64, 64), bool)
        expected[0, 0] = block(20, 20, 10)
        expected[1, 0] = block(21, 20, 10)
        expected[1, 1] = block(20, 20, 12) & ~block(24, 24, 4)
        expected[1, 2] = block(20, 21, 11)
        expected[2, 2] = block(50, 50, 8)
        part = np.s_[top : top + 32, left : left + 32]
        assert (split.labels[0] == expected[0][:, *part]).all()
        assert (split.labels[1] == expected[1][:, *part]).all()
        assert (split.labels[2] == expected[2][:, 32:, 32:]).all()  # moved back into the scan
        grey = np.rint(stored * (255 / 1999)).astype(int)
        assert abs(split.images[1, :, :, 0].astype(int) - grey[2][part]).max() <= 1
        assert abs(split.images[2, :, :, 0].astype(int) - grey[4][32:, 32:]).max() <= 1


def test_a_series_that_does_not_fit_its_readings_is_named_and_left_out(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (scans / "P2/study/series/003.dcm").unlink()  # the slice at z = 4
    (scans / "P3/study/series/readings.xml").write_text("<LidcReadMessage>")
    flags = ["--out", str(tmp_path / "s"), "--size", "32", "--splits", "1"]
    assert main(["prepare", "lidc", "--dicom", str(scans), *flags]) == 3  # done, with inputs left out
    err = capsys.readouterr().err
    assert "left out" in err
    assert "at z = 4, which its XML outlines, is not there" in err
    assert "readings.xml: cannot be read as XML" in err
    assert set(open_store(tmp_path / "s").split("train").groups) == {"P1"}


def test_outlines_without_a_uid_are_placed_by_z(scans: Path, tmp_path: Path) -> None:
    file = scans / "P1/study/series/readings.xml"
    before = read_readings(file)
    text = file.read_text()
    for n in range(5):
        text = text.replace(f"<imageSOP_UID>{ROOT}1.{n}</imageSOP_UID>", "")
    file.write_text(text)
    assert before is not None
    flags = ["--size", "32", "--splits", "1"]
    assert main(["prepare", "lidc", "--dicom", str(scans / "P1"), "--out", str(tmp_path / "s"), *flags]) == 0
    split = open_store(tmp_path / "s").split("train")
    assert split.ids[1].endswith("nodule-0/slice-002")
    assert split.labels[1].sum((1, 2)).tolist() == [81, 121 - 9, 100, 0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dicom", "nowhere"], "no such folder"),
        (["--dicom", ".", "--download"], "not several"),
        (["--dicom", "empty"], "give no nodule of 3 mm or more"),
        (["--dicom", "scans", "--size", "100"], "smaller than --size 100"),
        (["--dicom", "scans", "--window", "400,-1000"], "give LOW,HIGH"),
    ],
)
def test_mistakes_are_one_line(
    flags: list[str],
    message: str,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    scans.rename(tmp_path / "scans")
    (tmp_path / "empty").mkdir()
    assert main(["prepare", "lidc", "--out", "store", *flags]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert not (tmp_path / "store").exists()


def test_too_many_readers_are_refused(tmp_path: Path) -> None:
    file = write_readings(tmp_path / "x.xml", ROOT + "1", [[]] * 5)
    with pytest.raises(InputError, match="5 reading sessions"):
        read_readings(file)


def test_a_session_that_is_not_there_is_a_missing_rater(tmp_path: Path) -> None:
    uids = write_series(tmp_path / "ct", np.zeros((1, 40, 40), np.int16), ROOT + "5")
    roi = (uids[0], 0.0, True, square(10, 10, 5))
    write_readings(tmp_path / "ct/r.xml", ROOT + "5", [[nodule("a", [roi])], []])
    flags = ["--size", "40", "--splits", "1"]
    assert main(["prepare", "lidc", "--dicom", str(tmp_path / "ct"), "--out", str(tmp_path / "s"), *flags]) == 0
    labels = open_store(tmp_path / "s").split("train").labels[0]
    assert [int(one.max()) for one in labels] == [1, 0, 255, 255]
