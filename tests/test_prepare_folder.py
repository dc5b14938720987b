"""`prepare folder`: the same store from every layout and format, all that is wrong told at once, nothing half-written."""

import json
import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stochseg.cli import main
from stochseg.data.folder import Mistakes, prepare_folder
from stochseg.data.folder_fit import cut, places, resized, resized_label
from stochseg.data.store import Store, open_store
from stochseg.errors import InputError

from .conftest import SHARED
from .own_data import RATERS, Made, make, save, write_labels, write_raters, write_table
from .test_training import SMALL, flags

MADE = make()


def prepared(source: Path, out: Path, **options: Any) -> Store:
    assert prepare_folder(source, out, **options) == out
    return open_store(out, verify=True)


def rows_of(store: Store) -> dict[bytes, np.ndarray]:
    """The labels of each image by its pixels."""
    return {
        split.images[row].tobytes(): np.array(split.labels[row])
        for split in store.splits.values()
        for row in range(len(split))
    }


def expected(made: Made) -> np.ndarray:
    missing = np.full(made.image.shape, 255, np.uint8)
    return np.stack([made.masks[r].astype(np.uint8) if r in made.masks else missing for r in RATERS])


def mistakes_of(source: Path, **options: Any) -> list[str]:
    out = source.parent / "refused"
    with pytest.raises(Mistakes) as caught:
        prepare_folder(source, out, **options)
    assert not out.exists()
    return caught.value.found


# -------------------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("write", [write_raters, write_labels, write_table])
def test_every_layout_gives_the_same_store(write: Any, tmp_path: Path) -> None:
    store = prepared(write(tmp_path / "source", MADE), tmp_path / "store")
    rows = rows_of(store)
    assert len(rows) == len(MADE)
    for one in MADE:
        assert (rows[one.image.tobytes()] == expected(one)).all()
    assert [c.name for c in store.classes] == ["background", "foreground"]
    assert store.notes["raters"] == list(RATERS)
    groups = {name: set(split.groups) for name, split in store.splits.items()}
    assert set().union(*groups.values()) == {"p0", "p1", "p2", "p3"}
    assert [len(groups[name]) for name in ("train", "val", "test")] == [2, 1, 1]


def test_workers_write_what_one_process_writes(tmp_path: Path) -> None:
    source = write_raters(tmp_path / "source", MADE[:6])
    one = prepared(source, tmp_path / "one", workers=1, splits="1/1")
    two = prepared(source, tmp_path / "two", workers=2, splits="1/1")
    arrays = [json.loads((s.path / "index.json").read_text())["splits"] for s in (one, two)]
    assert arrays[0] == arrays[1]  # with the sha256 of every array


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".nii.gz"])
def test_formats_give_the_same_store(suffix: str, tmp_path: Path) -> None:
    if suffix == ".nii.gz":
        pytest.importorskip("nibabel")
    source = write_raters(tmp_path / "source", MADE[:6], suffix, white=1)
    rows = rows_of(prepared(source, tmp_path / "store", splits="1/1"))
    for one in MADE[:6]:
        assert (rows[one.image.tobytes()] == expected(one)).all()


def test_splits_and_groups_from_folders(tmp_path: Path) -> None:
    for one in MADE:
        split = {"p0": "train", "p1": "train", "p2": "Validation"}.get(one.patient, "test")
        save(one.image, tmp_path / f"s/images/{split}/{one.name}.png")
        for rater, mask in one.masks.items():
            where = f"{split}/{one.name}" if rater != "ann" else one.name  # raters need not repeat the split
            save((mask * 255).astype(np.uint8), tmp_path / f"s/raters/{rater}/{where}.png")
    store = prepared(tmp_path / "s", tmp_path / "store")
    assert {name: sorted(set(split.groups)) for name, split in store.splits.items()} == {
        "train": ["p0", "p1"],
        "val": ["p2"],
        "test": ["p3"],
    }
    assert store.group_name == "folder"
    assert store.split("val").ids[0] == "p2/scan06"
    parts = tmp_path / "parts"  # the same as a folder a split
    for split in ("train", "val"):
        write_labels(parts / split, MADE[:3] if split == "train" else MADE[3:6])
    assert [len(s) for s in prepared(parts, tmp_path / "store2").splits.values()] == [3, 3]


def test_splits_and_groups_from_a_table_beside_folders(tmp_path: Path) -> None:
    source = write_labels(tmp_path / "source", MADE[:6])
    lines = [f"{m.name}.png,{'train' if n < 4 else 'val'},case{n // 2}" for n, m in enumerate(MADE[:6])]
    (source / "splits.csv").write_text("\n".join(["image,split,group", *lines]))
    store = prepared(source, tmp_path / "store")
    assert store.split("train").groups == ["case0", "case0", "case1", "case1"]
    assert store.split("val").groups == ["case2", "case2"]


def test_drawn_splits_keep_identical_images_together_and_depend_on_the_seed(tmp_path: Path) -> None:
    source = write_raters(tmp_path / "source", MADE)
    copy = source / "images/p9/copy.png"
    save(MADE[0].image, copy)
    save((MADE[0].masks["ann"] * 255).astype(np.uint8), source / "raters/ann/p9/copy.png")
    seen = set()
    for seed in range(4):
        store = prepared(source, tmp_path / f"store{seed}", seed=seed)
        split = next(split for split in store.splits.values() if "p9" in split.groups)
        assert "p0" in split.groups
        seen.add(tuple(sorted(set(store.split("test").groups))))
    assert len(seen) > 1


# --------------------------------------------------------------------------------------------- classes and values


def labelled(root: Path, *maps: np.ndarray, suffix: str = ".png") -> Path:
    """One image a map, each labelled by one rater."""
    rng = np.random.default_rng(1)
    for n, one in enumerate(maps):
        save(rng.integers(0, 255, one.shape[:2]).astype(np.uint8), root / f"images/{n}.png")
        save(one, root / f"raters/a/{n}{suffix}")
    return root


def quarters(*values: Any) -> np.ndarray:
    """A map of 16x16 with a value in each quarter."""
    return np.array(values, np.uint8)[np.kron([[0, 1], [2, 3]], np.ones((8, 8), int))]


def classes_of(source: Path, tmp_path: Path, **options: Any) -> tuple[Store, np.ndarray]:
    """The store, and the corners of the first label."""
    store = prepared(source, tmp_path / "store", splits="1", **options)
    return store, store.split("train").labels[0, 0, [0, 0, 15, 15], [0, 15, 0, 15]]


def test_numbers_are_classes_in_order(tmp_path: Path) -> None:
    store, corners = classes_of(labelled(tmp_path / "s", quarters(0, 100, 200, 100)), tmp_path)
    assert [c.name for c in store.classes] == ["background", "class 100", "class 200"]
    assert corners.tolist() == [0, 1, 2, 1]
    assert store.ignore is None


def test_white_among_classes_is_ignored_and_a_white_map_is_a_missing_rater(tmp_path: Path) -> None:
    source = labelled(tmp_path / "s", quarters(0, 1, 2, 255), quarters(0, 1, 1, 0))
    save(quarters(255, 255, 255, 255), source / "raters/b/0.png")
    store, corners = classes_of(source, tmp_path)
    assert corners.tolist() == [0, 1, 2, 3]
    assert (store.ignore, store.classes[3].name) == (3, "ignore")
    assert (store.split("train").labels[:, 1] == 255).all()


def test_an_image_that_every_rater_missed_is_a_mistake(tmp_path: Path) -> None:
    source = labelled(tmp_path / "s", quarters(0, 1, 2, 1), quarters(255, 255, 255, 255))
    assert mistakes_of(source, splits="1") == [
        f"{source}/images/1.png: every label of it is a whole map of 255, a missing rater; remove the image"
    ]


def test_white_alone_is_a_whole_mask(tmp_path: Path) -> None:
    source = labelled(tmp_path / "s", quarters(255, 255, 255, 255), quarters(0, 255, 0, 255))
    assert classes_of(source, tmp_path)[1].tolist() == [1, 1, 1, 1]


def test_colours_are_classes_and_a_yaml_names_them(tmp_path: Path) -> None:
    red, blue, black = (230, 0, 0), (0, 0, 250), (0, 0, 0)
    source = labelled(tmp_path / "s", quarters(black, red, blue, red), quarters(black, black, black, black))
    store, corners = classes_of(source, tmp_path)
    assert [c.name for c in store.classes] == ["background", "#0000fa", "#e60000"]
    assert corners.tolist() == [0, 2, 1, 2]
    assert store.classes[2].color == red
    text = 'classes:\n- {name: ground, color: "#000000"}\n- {name: roof, color: [230, 0, 0]}\n'
    (source / "classes.yaml").write_text(text + '- {name: sea, color: "#1010ff", values: "#0000fa", ignore: true}\n')
    store = prepared(source, tmp_path / "named", splits="1")
    assert [c.name for c in store.classes] == ["ground", "roof", "sea"]
    assert store.split("train").labels[0, 0, 0, 15] == 1
    assert (store.ignore, store.classes[2].color) == (2, (16, 16, 255))


def test_a_yaml_joins_values_and_unknown_ones_are_named_with_their_files(tmp_path: Path) -> None:
    source = labelled(tmp_path / "s", quarters(0, 1, 2, 3), quarters(0, 7, 7, 0), quarters(0, 7, 1, 0))
    (tmp_path / "c.yaml").write_text("- ground\n- {name: tumour, values: [1, 2, 3]}\n")
    (found,) = mistakes_of(source, classes=tmp_path / "c.yaml")[:1]
    assert "1.png" in found
    assert "2.png: the value 7 is no class of" in found
    (tmp_path / "c.yaml").write_text("{0: ground, 1: rest, 2: tumour, 3: x, 4: x4, 5: x5, 6: x6, 7: x7}")
    assert len(classes_of(source, tmp_path, classes=tmp_path / "c.yaml")[0].classes) == 8
    for text, message in {
        "- ground": "at least two classes",
        "- {name: a, colour: red}\n- b": "name, color, values and ignore are known",
        "- {name: a, values: 1}\n- {name: b, values: 1}": "both have the value 1",
        "- {name: a, color: red}\n- b": "write",
    }.items():
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(InputError) as caught:
            prepare_folder(source, tmp_path / "no", classes=tmp_path / "c.yaml")
        assert message in " ".join(getattr(caught.value, "found", [str(caught.value)]))


def test_palettes_and_few_bits_are_class_ids(tmp_path: Path) -> None:
    source = labelled(tmp_path / "s", quarters(0, 1, 2, 3))
    picture = Image.fromarray(quarters(0, 1, 2, 3), mode="P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 9, 9, 9])
    picture.save(source / "raters/a/0.png")
    assert classes_of(source, tmp_path)[1].tolist() == [0, 1, 2, 3]


def test_masks_that_were_smoothed_are_refused(tmp_path: Path) -> None:
    smooth = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found = mistakes_of(labelled(tmp_path / "s", quarters(0, 1, 1, 0), smooth), splits="1")
    assert len(found) == 1
    assert re.search(
        r"raters/a/1.png: 1 label of more than 64 different values, such as a mask that was resized", found[0]
    )
    mixed = labelled(tmp_path / "m", quarters(0, 1, 1, 0), quarters(0, 255, 255, 0))
    assert "say in a YAML" in mistakes_of(mixed)[0]


# ------------------------------------------------------------------------------------------ intensities and sizes


def test_sixteen_bits_are_spread_over_what_the_images_hold(tmp_path: Path) -> None:
    ramp = np.arange(10000, dtype=np.uint16).reshape(100, 100)
    for n in range(2):
        save(ramp + n * 20000, tmp_path / f"s/images/{n}.tif")
        save((ramp > 5000).astype(np.uint8), tmp_path / f"s/raters/a/{n}.png")
    store = prepared(tmp_path / "s", tmp_path / "auto", splits="1")
    low, high = store.notes["windows"]
    assert (low, high) == pytest.approx((50, 29949), abs=1)  # all but half a percent of each end
    images = store.split("train").images
    assert (images[0].min(), images[1].max()) == (0, 255)
    wanted = (ramp.astype(float) - low) / (high - low) * 255
    assert abs(images[0, ..., 0] - wanted.clip(0, 255)).max() <= 0.5 + 1e-3
    exact = prepared(tmp_path / "s", tmp_path / "exact", splits="1", window="0,51000")
    assert (exact.split("train").images[1, ..., 0] == np.rint((ramp + 20000) / 200).astype(np.uint8)).all()
    own = prepared(tmp_path / "s", tmp_path / "own", splits="1", window="image").split("train")
    assert (own.images[0] == own.images[1]).all()


def test_a_model_sees_files_as_its_training_did(tmp_path: Path) -> None:
    from stochseg.data.image_files import read_image
    from stochseg.models.segmenter import load
    from stochseg.training.run import train

    ramp = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32)
    for n in range(4):
        save(ramp + n, tmp_path / f"s/images/{n}.png")
        save((ramp > 500).astype(np.uint8), tmp_path / f"s/raters/a/{n}.png")
    store = prepared(tmp_path / "s", tmp_path / "store", splits="1/1")
    run = train(None, store.path, tmp_path / "run", **(SMALL | {"steps": 1}))
    model = load(run)
    assert model.windows == tuple(store.notes["windows"])
    split = store.split("train")
    seen = read_image(tmp_path / f"s/images/{split.ids[0]}.png", model.channels, model.windows)
    assert (((seen + 1) * 127.5).round().numpy()[0] == split.images[0, ..., 0]).all()
    raw = read_image(tmp_path / f"s/images/{split.ids[0]}.png", model.channels)
    assert raw.max() < -0.9  # 1,024 of 65,536 levels: nearly black


def test_grey_images_among_coloured_ones_are_repeated(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grey, colour = rng.integers(0, 255, (16, 16)).astype(np.uint8), rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)
    for name, image in {"a": grey, "b": colour, "c": grey[..., None].repeat(3, 2) // 2}.items():
        save(image, tmp_path / f"s/images/{name}.png")
        save(quarters(0, 1, 1, 0), tmp_path / f"s/raters/r/{name}.png")
    images = prepared(tmp_path / "s", tmp_path / "store", splits="1").split("train").images
    assert (images[0] == grey[..., None]).all()
    assert (images[1] == colour).all()
    assert (images[2] == grey[..., None] // 2).all()


def sizes(root: Path) -> Path:
    rng = np.random.default_rng(2)
    for n, size in enumerate([(40, 70), (32, 48)]):
        save(rng.integers(0, 255, size).astype(np.uint8), root / f"images/{n}.png")
        save((rng.random(size) > 0.5).astype(np.uint8), root / f"raters/a/{n}.png")
    return root


def test_images_of_several_sizes_want_a_decision(tmp_path: Path) -> None:
    source = sizes(tmp_path / "s")
    (found,) = mistakes_of(source, splits="1")
    assert "images have 2 sizes, 48x32 to 70x40 (2 sizes)" in found
    assert "--size 32 --fit crop" in found
    assert mistakes_of(source, splits="1", size="36") == [
        f"{source}/images/1.png: 48x32 pixels, smaller than --size 36; choose a smaller size, or --fit resize"
    ]


def test_crops_tiles_and_resizes(tmp_path: Path) -> None:
    source = sizes(tmp_path / "s")
    image, label = (np.asarray(Image.open(source / f"{kind}/0.png")) for kind in ("images", "raters/a"))
    crop = prepared(source, tmp_path / "crop", splits="1", size="32").split("train")
    assert (crop.images[0, ..., 0] == image[4:36, 19:51]).all()
    assert (crop.labels[0, 0] == label[4:36, 19:51]).all()
    tiles = prepared(source, tmp_path / "tiles", splits="1", size="32", fit="tiles").split("train")
    assert tiles.ids == [f"0@{t},{x}" for t in (0, 8) for x in (0, 19, 38)] + ["1@0,0", "1@0,16"]
    assert set(tiles.groups) == {"0", "1"}
    whole = np.full(image.shape, -1)
    for row, (top, left) in enumerate([(t, x) for t in (0, 8) for x in (0, 19, 38)]):
        assert (cut(image, (32, 32), (top, left)) == tiles.images[row, ..., 0]).all()
        whole[top : top + 32, left : left + 32] = tiles.labels[row, 0]
    assert (whole == label).all()  # nothing is lost
    resize = prepared(source, tmp_path / "resize", splits="1", size="20,35", fit="resize").split("train")
    assert (resize.labels[0, 0] == label[1::2, 1::2]).all()
    assert abs(resize.images[0, ..., 0].astype(float).mean() - image.mean()) < 1


def test_resizing_invents_no_class_and_moves_nothing() -> None:
    label = np.zeros((30, 50), np.uint8)
    label[10:20, 20:30] = 7
    small = resized_label(label, (15, 25))
    assert set(np.unique(small)) == {0, 7}
    assert (small[5:10, 10:15] == 7).all()
    assert (small == 7).sum() == 25
    image = resized(label[..., None] * 30, (15, 25))[..., 0]
    assert ((image > 105) == (small == 7)).all()
    assert places((32, 32), (32, 32), "tiles") == [(0, 0)]


# --------------------------------------------------------------------------------------------------------- volumes


def volumes(root: Path) -> np.ndarray:
    """Two NIfTI volumes, 12x10 pixels in 4 slices along the last axis; a label on slices 1 and 2."""
    pytest.importorskip("nibabel")
    rng = np.random.default_rng(3)
    volume = rng.integers(-1000, 2000, (12, 10, 4)).astype(np.int16)
    for n in range(2):
        label = np.zeros((12, 10, 4), np.uint8)
        label[3:6, 2:9, 1:3] = 1
        save(volume + n, root / f"images/case{n}.nii.gz")
        save(label, root / f"raters/a/case{n}_seg.nii.gz")
        label[..., 3] = 255  # this rater did not look at the last slice
        save(label, root / f"raters/b/case{n}.nii")
    return volume


def test_slices_of_volumes_are_rows_of_one_group(tmp_path: Path) -> None:
    volume = volumes(tmp_path / "s")
    store = prepared(tmp_path / "s", tmp_path / "store", splits="1/1", window="-1000,1040")
    assert store.group_name == "volume"
    split = next(split for split in store.splits.values() if split.groups[0] == "case0")
    assert split.ids == [f"case0:{n:03d}" for n in range(4)]
    assert (split.images[2, ..., 0] == np.rint((volume[..., 2].clip(-1000, 1040) + 1000.0) / 8)).all()
    assert split.labels[2, 0].sum() == 21
    assert [int(split.labels[n, 1].max()) for n in range(4)] == [0, 1, 1, 255]
    marked = prepared(tmp_path / "s", tmp_path / "marked", splits="1/1", slices="marked")
    assert [id[-3:] for id in marked.split("train").ids] == ["001", "002"]
    shutil.rmtree(tmp_path / "s/raters/b")
    other = prepared(tmp_path / "s", tmp_path / "other", splits="1/1", axis=0, slices="marked", window="-1000,1040")
    assert other.split("train").images.shape == (3, 10, 4, 1)
    assert (other.split("train").labels[:, 0] == 1).sum() == 42


def test_volumes_on_another_grid_are_refused(tmp_path: Path) -> None:
    volumes(tmp_path / "s")
    import nibabel

    label = np.zeros((12, 10, 4), np.uint8)
    moved = np.diag([0.5, 0.5, 2, 1])
    moved[0, 3] = 3
    nibabel.save(nibabel.Nifti1Image(label, moved), tmp_path / "s/raters/b/case0.nii")
    nibabel.save(nibabel.Nifti1Image(label[..., :3], np.diag([0.5, 0.5, 2, 1])), tmp_path / "s/raters/b/case1.nii")
    found = mistakes_of(tmp_path / "s", splits="1/1")
    assert "its affine differs from that of the image by up to 3" in found[0]
    assert "10x12 pixels in 3 slices, its image has 10x12 pixels in 4 slices" in found[1]


def test_dicom_series_with_segmentations(tmp_path: Path) -> None:
    from .made_dicom import write_segmentation, write_series

    rng = np.random.default_rng(4)
    stored = rng.integers(0, 2000, (2, 4, 24, 20)).astype(np.int16)
    truth = np.zeros((2, 4, 24, 20), np.uint8)
    truth[:, 1, 4:9, 5:9], truth[:, 2, 4:9, 5:12] = 1, 2
    for n in range(2):
        uids = write_series(tmp_path / f"s/images/case{n}", stored[n], f"1.2.3.{n}", backwards=True)
        write_segmentation(tmp_path / f"s/raters/a/case{n}.dcm", truth[n], uids)
    store = prepared(tmp_path / "s", tmp_path / "store", splits="1/1", window="-1024,1016")
    for split in store.splits.values():
        n = int(split.groups[0][-1])
        assert (split.images[..., 0] == np.rint(stored[n] / 8)).all()  # in the order of z, not of names
        assert (split.labels[:, 0] == truth[n]).all()


# -------------------------------------------------------------------------------------------------------- mistakes


def broken(root: Path) -> Path:
    """A folder with a mistake of every kind."""
    write_raters(root, MADE[:9])
    for n, split in enumerate(["train", "train", "val", "val", "train", "train", "test", "test", "trial"]):
        (root / "splits.csv").open("a").write(
            ("image,split,group\n" if n == 0 else "") + f"{MADE[n].name},{split},g{n}\n"
        )
    text = (root / "splits.csv").read_text().replace(",g3", ",g0")
    (root / "splits.csv").write_text(text + "p9/none,train,g9\n")
    save(MADE[4].image, root / "images/p1/scan03.png")  # a copy of a training image in val
    save(MADE[0].image[:40], root / "raters/ann/p0/scan00.png")
    save(MADE[0].image, root / "raters/bob/p0/scan77.png")
    save(MADE[0].image, root / "images/p0/alone.png")
    (root / "images/p0/scan01.png").write_bytes(b"no picture")
    save(MADE[0].image, root / "images/p0/twice.bmp")
    save(np.zeros((48, 64), np.uint8), root / "raters/ann/p0/scan02.jpg")
    (root / "raters/ann/p0/scan02.png").unlink()
    return root


def test_every_mistake_is_told_at_once_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = broken(tmp_path / "s")
    assert main(["prepare", "folder", "--source", str(source), "--out", str(tmp_path / "store")]) == 2
    err = capsys.readouterr().err
    told = [line for line in err.split("mistakes in the data:")[1].splitlines() if line.startswith("  ")]
    for words in (
        "scan77.png: no image is called p0/scan77",
        "alone.png: no label",
        "scan01.png: not readable",
        "scan00.png: 64x40 pixels, its image has 64x48 pixels",
        "twice.bmp: .bmp is not read",
        "scan02.jpg: JPEG changes values",
        "split trial; train, val and test are known",
        "line 11: no image is called p9/none",
        "hold the same picture",
        "group g0 is in two splits",
    ):
        assert sum(words in line for line in told) == 1, words
    assert err.splitlines()[-1].startswith(f"stochseg: error: --source {source}: {len(told)} mistakes, listed above")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["s"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "nowhere"}, "no such folder"),
        ({"source": "."}, "no folder images/ in it"),
        ({"axis": 3}, "--axis 3"),
        ({"size": "big"}, "--size big"),
        ({"window": "5"}, "--window 5"),
        ({"slices": "some"}, "--slices some"),
        ({"workers": 0}, "--workers 0"),
        ({"csv": Path("nothing.csv")}, "--csv nothing.csv: is not there"),
        ({"classes": Path("nothing.yaml")}, "--classes nothing.yaml: cannot be read"),
        ({"out": None}, "missing --out"),
    ],
)
def test_flags_that_do_not_fit(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_raters(tmp_path / "mine", MADE[:3])
    with pytest.raises(InputError, match=message):
        prepare_folder(**{"source": Path("mine"), "out": Path("store")} | options)


def test_images_that_tie_groups_together_are_said_where_splits_stay_empty(tmp_path: Path) -> None:
    write_raters(tmp_path / "s", MADE[:6])
    save(MADE[0].image, tmp_path / "s/images/p1/copy.tif")
    save(np.zeros((48, 64), np.uint8), tmp_path / "s/raters/ann/p1/copy.png")
    assert mistakes_of(tmp_path / "s", splits="1/1") == [
        "1 folder cannot fill the splits train/val, since those with the same picture stay together: add images, name "
        "splits yourself, or ask for fewer with --splits 80/20"
    ]


def test_a_table_without_lines_is_said(tmp_path: Path) -> None:
    (tmp_path / "all.csv").write_text("image,label\n")
    with pytest.raises(InputError, match="all.csv: has no line below its first"):
        prepare_folder(tmp_path, tmp_path / "store")


def test_a_name_that_fits_two_images_is_in_doubt(tmp_path: Path) -> None:
    for name in ("a", "a_1"):
        save(quarters(0, 1, 1, 0) + len(name), tmp_path / f"s/images/{name}.png")
    for name in ("a_1", "a_2", "a_1_1"):
        save(quarters(0, 1, 1, 0), tmp_path / f"s/labels/{name}.png")
    assert "a_1.png: a label of the image a_1, or of a?" in mistakes_of(tmp_path / "s", splits="1")[0]


def test_names_of_raters_that_hardly_recur_are_numbers(tmp_path: Path) -> None:
    for n in range(6):
        save(quarters(n, n, 9, 9), tmp_path / f"s/images/i{n}.png")
        for part in ("x", "y"):
            save(quarters(0, 1, 1, 0), tmp_path / f"s/labels/i{n}_2026{n}{part}.png")
    store = prepared(tmp_path / "s", tmp_path / "store", splits="1")
    assert store.raters == 2


# ------------------------------------------------------------------------------------------------------ end to end


def test_real_slices_become_what_they_are(tmp_path: Path) -> None:
    script = SHARED / "data/unpack_lidc.py"
    if not script.exists():
        pytest.skip("needs real LIDC slices in ../shared/data")
    names, images, masks = runpy.run_path(str(script))["load"]("val", 30)
    for name, image, four in zip(names, images, masks, strict=True):
        save(image, tmp_path / f"s/images/{name}.png")
        for rater, mask in enumerate(four):
            save(mask * 255, tmp_path / f"s/labels/{name}_l{rater}.png")
    split = prepared(tmp_path / "s", tmp_path / "store", splits="1").split("train")
    order = [split.ids.index(name) for name in names]
    assert (split.images[order][..., 0] == images).all()
    assert (split.labels[order] == masks).all()
    assert [split.groups[row] for row in order] == [name.split("/")[0] for name in names]


def test_from_a_folder_to_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_raters(tmp_path / "mine", MADE)
    store, run = tmp_path / "store", tmp_path / "run"
    assert main(["prepare", "folder", "--source", str(source), "--check"]) == 0
    shown = capsys.readouterr().err
    assert not store.exists()
    assert main(["prepare", "folder", "--source", str(source), "--out", str(store)]) == 0
    written = capsys.readouterr().err
    assert written.startswith(shown)  # --check shows what is then written
    assert "raters   4: ann 12, bob 12, cem 8, dora 4 of 12 images; 2 to 4 an image" in written
    assert "train 6 2 18 6 0 %" in " ".join(written.split())  # images, folders, label maps, missing, empty
    settings = flags(SMALL | {"steps": 4, "validation.images": None, "validation.every": 2})
    assert main(["train", "--config", "lidc", "--data", str(store), "--out", str(run), *settings]) == 0
    assert main(["evaluate", str(run), "--data", str(store), "--split", "test", "--samples", "4"]) == 0
    scores = json.loads((run / "evaluation/test.json").read_text())
    assert scores["images"] == 3
    assert 0 <= scores["ged"] <= 2
