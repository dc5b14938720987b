"""Street scenes in the layout of Cityscapes: every split rule, every id, and everything that can be wrong with a source."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stochseg.cli import main
from stochseg.data.cityscapes import prepare_cityscapes
from stochseg.data.cityscapes_classes import LABEL_IDS, STREET_CLASSES, VOID_LABEL_IDS
from stochseg.data.store import Store, open_store
from stochseg.errors import InputError

from .conftest import SHARED

SIZE = (64, 128)
PAPER = {"train": ["aachen", "darmstadt", "monchengladbach", "ulm"], "val": ["frankfurt"], "test": ["berlin"]}


def write_streets(
    root: Path,
    cities: dict[str, list[str]],
    kind: str = "labelIds",
    frames: int = 2,
    size: tuple[int, int] = SIZE,
) -> Path:
    """Scenes of blocks of 8x8 pixels: the image's first channel is the label value, so that both can be told to match."""
    values = np.array((*LABEL_IDS, 0), np.uint8) if kind == "labelIds" else np.array((*range(19), 255), np.uint8)
    rng = np.random.default_rng(0)
    for split, names in cities.items():
        for city in names:
            for n in range(frames):
                blocks = values[rng.integers(len(values), size=(size[0] // 8, size[1] // 8))]
                label = blocks.repeat(8, 0).repeat(8, 1)
                image = np.stack([label, label // 2, 255 - label], 2)
                for folder, mark, pixels in (
                    ("leftImg8bit", "leftImg8bit", image),
                    ("gtFine", f"gtFine_{kind}", label),
                ):
                    file = root / folder / split / city / f"{city}_{n:06}_000019_{mark}.png"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(file)
    return root


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_streets(tmp_path_factory.mktemp("cityscapes"), PAPER)


def cities_of(store: Store) -> dict[str, list[str]]:
    return {name: sorted(set(split.groups)) for name, split in store.splits.items()}


def test_the_papers_cities_and_classes(paper: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(prepare_cityscapes(tmp_path / "store", paper, scale=0.5))
    assert cities_of(store) == {"train": ["aachen"], "val": PAPER["train"][1:], "test": ["frankfurt"]}
    assert [c.name for c in store.classes][:2] == ["road", "sidewalk"]
    names = ["sidewalk 2", "person 2", "car 2", "vegetation 2", "road 2", "unlabelled"]
    assert [c.name for c in store.classes][19:] == names
    assert len({c.color for c in store.classes}) == 25
    wanted = [(1, 19, 8 / 17), (11, 20, 7 / 17), (13, 21, 6 / 17), (8, 22, 5 / 17), (0, 23, 4 / 17)]
    assert store.flips == wanted
    assert (store.ignore, store.convention, store.raters) == (24, "car-cityscapes", 1)
    assert store.split("train").images.shape == (2, 32, 64, 3)
    assert "official val is test" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_every_pixel_has_the_class_its_label_says(kind: str, tmp_path: Path) -> None:
    source = write_streets(tmp_path / "source", {"train": ["a"], "val": ["b"]}, kind, frames=6)
    store = open_store(prepare_cityscapes(tmp_path / "store", source, scale=1))
    split = store.split("train")
    ids = dict(zip(LABEL_IDS, range(19))) | {0: 24} if kind == "labelIds" else {i: i for i in range(19)} | {255: 24}
    first = split.images[..., 0]
    assert set(np.unique(first)) == set(ids)
    for value, wanted in ids.items():
        assert (split.labels[:, 0][first == value] == wanted).all()


def test_train_ids_win_over_label_ids(tmp_path: Path) -> None:
    source = write_streets(tmp_path / "source", {"train": ["a"], "val": ["b"]})
    label = source / "gtFine/train/a/a_000000_000019_gtFine_labelTrainIds.png"
    Image.fromarray(np.full(SIZE, 13, np.uint8)).save(label)
    store = open_store(prepare_cityscapes(tmp_path / "store", source, scale=1))
    assert (store.split("train").labels[0] == 13).all()
    assert not (store.split("train").labels[1] == 13).all()


def test_ids_are_those_of_the_public_table() -> None:
    """A few facts that can be looked up, and that every label id is either a class or void."""
    names = [c.name for c in STREET_CLASSES]
    assert dict(zip(names, LABEL_IDS))["road"] == 7
    assert dict(zip(names, LABEL_IDS))["sky"] == 23
    assert dict(zip(names, LABEL_IDS))["bicycle"] == 33
    assert names.index("car") == 13
    assert sorted((*LABEL_IDS, *VOID_LABEL_IDS)) == list(range(34))


def test_shrinking_is_bilinear_for_images_and_nearest_for_labels(paper: Path, tmp_path: Path) -> None:
    store = open_store(prepare_cityscapes(tmp_path / "store", paper, scale=0.25))
    scene = "aachen/aachen_000000_000019"
    assert store.split("train").ids[0] == scene
    with Image.open(paper / f"leftImg8bit/train/{scene}_leftImg8bit.png") as image:
        wanted = np.asarray(image.resize((32, 16), Image.Resampling.BILINEAR))
    with Image.open(paper / f"gtFine/train/{scene}_gtFine_labelIds.png") as image:
        values = np.asarray(image)[4::8, 4::8]  # blocks of 8x8 become blocks of 2x2
    assert np.array_equal(store.split("train").images[0], wanted)
    assert np.array_equal(store.split("train").labels[0, 0, ::2, ::2], np.array([*range(19), 24])[_places(values)])


def _places(values: np.ndarray) -> np.ndarray:
    return np.array([[(*LABEL_IDS, 0).index(int(v)) for v in row] for row in values])


def test_other_sources_keep_their_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A city in two splits is said, and each part is a group of its own; splits without labels are left out."""
    source = write_streets(tmp_path / "source", {"train": ["a", "b"], "val": ["b"], "test": ["c"]})
    for file in source.glob("gtFine/test/*/*.png"):
        Image.fromarray(np.full(SIZE, 3, np.uint8)).save(file)
    store = open_store(prepare_cityscapes(tmp_path / "store", source))
    assert cities_of(store) == {"train": ["a", "train/b"], "val": ["val/b"]}
    said = capsys.readouterr().err
    assert "the source has b in two splits" in said
    assert "test: left out, its labels hold no class that is scored" in said
    shutil.rmtree(source / "gtFine/test")
    prepare_cityscapes(tmp_path / "again", source)
    assert "leftImg8bit/test: left out, it has no labels" in capsys.readouterr().err


def test_splits_of_ones_own(paper: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: [aachen, val/frankfurt]\nval: [ulm]\n")
    store = open_store(prepare_cityscapes(tmp_path / "store", paper, splits=file, limit=3))
    assert cities_of(store) == {"train": ["aachen", "frankfurt"], "val": ["ulm"]}
    assert [len(s) for s in store.splits.values()] == [3, 2]
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"val": ["berlin"]}))
    assert cities_of(open_store(prepare_cityscapes(tmp_path / "other", paper, splits=file))) == {"val": ["berlin"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [atlantis]", "no city 'atlantis' in the source; there are .*train/aachen"),
        ("train: [ulm]\nval: [ulm]", r"'ulm' is named twice \(train and val\)"),
        ("train: ulm", "'train' is no list of cities"),
        ("training: [ulm]", "must map train, val and test to lists"),
        ("[ulm", "not readable as YAML"),
    ],
)
def test_bad_splits_files(text: str, message: str, paper: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=f"--splits {file}: {message}"):
        prepare_cityscapes(tmp_path / "store", paper, splits=file)


def test_any_table_of_flips(paper: Path, tmp_path: Path) -> None:
    def flips(text: str) -> Store:
        return open_store(prepare_cityscapes(tmp_path / "store", paper, flips=text, overwrite=True, limit=1))

    store = flips("road=8/17")
    assert (store.flips, store.ignore) == ([(0, 19, 8 / 17)], 20)
    store = flips("car:truck=0.3, person : pedestrian=0.25")
    assert store.flips == [(13, 14, 0.3), (11, 19, 0.25)]
    assert store.classes[19].name == "pedestrian"
    store = flips("none")
    assert (store.flips, store.ignore, store.convention) == ([], 19, "ccdm")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("road=1.2", "'1.2' is no probability"),
        ("road=-0.1", "'-0.1' is no probability"),
        ("road=nan", "'nan' is no probability"),
        ("road=1/0", "'1/0' is no probability"),
        ("roads=0.2", "no class 'roads'; there are road, sidewalk"),
        ("road:x=0.2, car:x=0.3", "'x' is what two flips end in"),
        ("road:car=0.2, car=0.3", "'car' is in two flips"),
        ("road=0.2, road:x=0.3", "'road' is in two flips"),
        ("road:road=0.2", "'road' flips into itself"),
        ("road", "'road' is no flip; write CLASS=PROBABILITY"),
        ("", "'' is no flip"),
    ],
)
def test_bad_flips(text: str, message: str, paper: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"--flips .*{message}"):
        prepare_cityscapes(tmp_path / "store", paper, flips=text)


def test_what_is_wrong_with_a_source_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    def refused(message: str, **options: object) -> None:
        with pytest.raises(InputError, match=message):
            prepare_cityscapes(tmp_path / "store", source, **options)  # type: ignore[arg-type]
        assert not list(tmp_path.glob("*store*"))

    source = tmp_path / "nothing"
    refused("--source .*nothing: must hold leftImg8bit/SPLIT/CITY")
    source = write_streets(tmp_path / "source", {"train": ["a"], "val": ["b"]})
    label = source / "gtFine/val/b/b_000001_000019_gtFine_labelIds.png"
    image = source / "leftImg8bit/val/b/b_000001_000019_leftImg8bit.png"
    good_label, good_image = label.read_bytes(), image.read_bytes()
    Image.fromarray(np.full(SIZE, 34, np.uint8)).save(label)
    refused("b_000001_000019_gtFine_labelIds.png: holds the value 34, which is none of labelIds")
    Image.fromarray(np.full((32, 64), 7, np.uint8)).save(label)
    refused("label of 64x32 pixels, its image has 128x64")
    label.write_bytes(good_label[:200])
    refused("the PNG is truncated")
    label.unlink()
    refused(r"b_000001_000019_leftImg8bit.png: an image without its label in gtFine/val \(1 image in all\)")
    label.write_bytes(good_label)
    image.unlink()
    refused("b_000001_000019_gtFine_labelIds.png: a label without its image")
    Image.fromarray(np.zeros((32, 64, 3), np.uint8)).save(image)
    refused("image of 64x32 pixels, the first has 128x64")
    image.write_bytes(good_image)
    refused("--scale 1.5: must be above 0, up to 1", scale=1.5)
    refused("--scale 0.1: makes images of 13x6 pixels of 128x64", scale=0.1)
    refused("--limit 0", limit=0)


def test_the_command(paper: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["prepare", "cityscapes", "--source", str(paper), "--out", str(tmp_path / "store")]
    assert main([*given, "--flips", "road=2"]) == 2
    assert "'2' is no probability" in capsys.readouterr().err
    assert main(given) == 0
    assert "train --config cityscapes" in capsys.readouterr().err
    assert main(given) == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.skipif(not (SHARED / "data/camvid_val.tar").is_file(), reason="no CamVid archives beside the checkout")
def test_real_streets(tmp_path: Path) -> None:
    unpack = [
        sys.executable,
        str(SHARED / "data/unpack_camvid.py"),
        str(tmp_path / "camvid"),
        "--split",
        "val",
        "--limit",
        "4",
    ]
    subprocess.run(unpack, check=True, capture_output=True)
    store = open_store(prepare_cityscapes(tmp_path / "store", tmp_path / "camvid"))
    assert store.split("val").images.shape == (4, 90, 120, 3)
    here = set(np.unique(store.split("val").labels))
    assert {0, 1, 8, 11, 13, 24} <= here
    assert not here & set(range(19, 24))  # labels are kept as they are
