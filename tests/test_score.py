"""`score`: what lies in folders, in whatever layout, scores what the metrics say of the same maps."""

import json
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from stochseg import metrics
from stochseg.data.predictions import open_folders
from stochseg.errors import InputError
from stochseg.report.score_table import score_table
from stochseg.scoring.folders import BATCH, score

Maps = dict[str, NDArray[Any]]


def some_maps(count: int, images: int = 5, classes: int = 2, size: tuple[int, int] = (12, 9), seed: int = 0) -> Maps:
    """Discs of random classes: uint8 [count h w] for each image."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    made = {}
    for i in range(images):
        maps = np.zeros((count, *size), np.uint8)
        for one in maps:
            centre, radius = rng.uniform(2, 8, 2), rng.uniform(0, 5)
            one[np.hypot(y - centre[0], x - centre[1]) < radius] = rng.integers(1, classes)
        made[f"img{i}"] = maps
    return made


def as_npy(folder: Path, maps: Maps) -> None:
    for name, each in maps.items():
        np.save(place(folder / f"{name}.npy"), each)


def as_bool_npy(folder: Path, maps: Maps) -> None:
    as_npy(folder, {name: each.astype(bool) for name, each in maps.items()})


def as_float_npy(folder: Path, maps: Maps) -> None:
    as_npy(folder, {name: each.astype(np.float64) for name, each in maps.items()})


def as_one_hot_npy(folder: Path, maps: Maps) -> None:
    as_npy(folder, {name: one_hot(each).astype(np.uint8) for name, each in maps.items()})


def as_probabilities_npy(folder: Path, maps: Maps) -> None:
    as_npy(folder, {name: (0.7 * one_hot(each) + 0.15).astype(np.float32) for name, each in maps.items()})


def as_npz(folder: Path, maps: Maps) -> None:
    for name, each in maps.items():
        np.savez_compressed(place(folder / f"{name}.npz"), whatever=each)


def as_sample_writes(folder: Path, maps: Maps) -> None:
    for name, each in maps.items():
        np.savez_compressed(place(folder / name / "samples.npz"), maps=each)
        np.savez_compressed(folder / name / "marginals.npz", marginals=one_hot(each).mean(0))
        save_png(folder / name / "mean.png", each[0] * 77)
        (folder / name / "summary.json").write_text("{}")


def as_png(folder: Path, maps: Maps) -> None:
    """Eleven and more maps in natural order: 10.png comes after 9.png."""
    for name, each in maps.items():
        for i, one in enumerate(each):
            save_png(folder / name / f"sample-{i}.PNG", one)


def as_white_png(folder: Path, maps: Maps) -> None:
    as_png(folder, {name: each * 255 for name, each in maps.items()})


def as_loose_png(folder: Path, maps: Maps) -> None:
    for name, each in maps.items():
        for i, one in enumerate(each):
            save_png(folder / f"{name}_{i}.png", one * 255)


def as_palette_png(folder: Path, maps: Maps) -> None:
    for name, each in maps.items():
        for i, one in enumerate(each):
            image = Image.fromarray(one)
            image.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200, 90, 90, 90])
            assert image.mode == "P"
            image.save(place(folder / name / f"{i}.png"))


def as_one_bit_png(folder: Path, maps: Maps) -> None:
    for name, each in maps.items():
        for i, one in enumerate(each):
            Image.fromarray(one * 255).convert("1").save(place(folder / name / f"{i}.png"))


def as_four_bit_png(folder: Path, maps: Maps) -> None:
    """Grey of 4 bits, which PIL reads and does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for name, each in maps.items():
        for i, one in enumerate(each):
            h, w = one.shape
            even = np.pad(one, ((0, 0), (0, w % 2)))
            rows = np.pad(even[:, ::2] << 4 | even[:, 1::2], ((0, 0), (1, 0))).tobytes()  # a filter byte 0 starts each
            header = struct.pack(">IIBBBBB", w, h, 4, 0, 0, 0, 0)
            data = (
                b"\x89PNG\r\n\x1a\n"
                + chunk(b"IHDR", header)
                + chunk(b"IDAT", zlib.compress(rows))
                + chunk(b"IEND", b"")
            )
            place(folder / name / f"{i}.png").write_bytes(data)


def as_nifti_files(folder: Path, maps: Maps) -> None:
    for name, each in maps.items():
        for i, one in enumerate(each):
            save_nifti(folder / name / f"seg{i}.nii.gz", one if i % 2 else one[..., None])


def as_nifti_stack(folder: Path, maps: Maps) -> None:
    for name, each in maps.items():
        save_nifti(folder / f"{name}.nii", each.transpose(1, 2, 0)[:, :, None].astype(np.float32))


def one_hot(maps: NDArray[Any], classes: int = 2) -> NDArray[Any]:
    return np.stack([maps == c for c in range(classes)], 1)


def place(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def save_png(file: Path, pixels: NDArray[Any]) -> None:
    Image.fromarray(pixels).save(place(file), format="PNG")


def save_nifti(file: Path, array: NDArray[Any], affine: NDArray[Any] | None = None) -> None:
    nibabel = pytest.importorskip("nibabel", reason='needs nibabel: pip install "stochseg[medical]"')
    nibabel.save(nibabel.Nifti1Image(array, np.diag([0.5, 0.5, 2, 1]) if affine is None else affine), place(file))


def expected(samples: Maps, labels: Maps, name: str = "ged", **options: Any) -> float:
    function: Callable[..., torch.Tensor] = {
        "ged": metrics.generalized_energy_distance,
        "hm_iou": metrics.hungarian_iou,
        "dice": metrics.dice_of_mean,
    }[name]
    each = [function(torch.from_numpy(samples[i][None]), torch.from_numpy(labels[i][None]), **options) for i in labels]
    return float(torch.cat(each).mean())


@pytest.mark.parametrize(
    "write",
    [
        as_npy,
        as_bool_npy,
        as_float_npy,
        as_one_hot_npy,
        as_probabilities_npy,
        as_npz,
        as_sample_writes,
        as_png,
        as_white_png,
        as_loose_png,
        as_palette_png,
        as_one_bit_png,
        as_four_bit_png,
        as_nifti_files,
        as_nifti_stack,
    ],
)
def test_every_layout_gives_the_numbers_of_its_maps(write: Callable[[Path, Maps], None], tmp_path: Path) -> None:
    samples, labels = some_maps(12), some_maps(4, seed=1)
    write(tmp_path / "samples", samples)
    write(tmp_path / "labels", labels)
    (found,), truth = open_folders([tmp_path / "samples"], tmp_path / "labels", 2)
    assert list(found.images) == list(truth.images) == list(labels)
    for name in labels:
        assert found.count(name) == 12
        np.testing.assert_array_equal(found.read(name).maps, samples[name])
        np.testing.assert_array_equal(truth.read(name).maps, labels[name])
    result = score(tmp_path / "samples", tmp_path / "labels", 2)
    for name in ("ged", "hm_iou", "dice"):
        assert result[name] == pytest.approx(expected(samples, labels, name), abs=1e-12)
    assert (result["images"], result["samples"], result["raters_per_image"]) == (5, 12, 4)


def test_layouts_mix_and_several_classes(tmp_path: Path) -> None:
    samples, labels = some_maps(6, classes=4), some_maps(3, classes=4, seed=1)
    as_palette_png(tmp_path / "samples", {name: samples[name] for name in ("img0", "img1")})
    as_npz(tmp_path / "samples", {name: samples[name] for name in ("img2", "img3", "img4")})
    as_png(tmp_path / "labels", labels)
    result = score(tmp_path / "samples", tmp_path / "labels", 4)
    assert result["ged"] == pytest.approx(expected(samples, labels, classes=4), abs=1e-12)


def test_known_answers(tmp_path: Path) -> None:
    labels = some_maps(4)
    as_npy(tmp_path / "labels", labels)
    perfect = score(tmp_path / "labels", tmp_path / "labels", 2)
    assert perfect["ged"] == pytest.approx(0, abs=1e-12)
    assert perfect["hm_iou"] == perfect["dice"] == perfect["max_dice"] == 1
    assert perfect["ece_mean"] == pytest.approx(0, abs=1e-6)
    as_npy(tmp_path / "full", {"a": np.ones((2, 4, 4), int), "b": np.ones((2, 4, 4), int)})
    as_npy(tmp_path / "empty", {"a": np.zeros((2, 4, 4), int), "b": np.zeros((2, 4, 4), int)})
    worst = score(tmp_path / "empty", tmp_path / "full", 2)
    assert (worst["ged"], worst["hm_iou"], worst["dice"], worst["diversity"]) == (2, 0, 0, 0)
    assert (worst["brier"], worst["ece_mean"]) == (2, 1)
    assert worst["ged_interval"] == [2, 2]
    assert score(tmp_path / "empty", tmp_path / "empty", 2)["ged"] == 0


def test_what_is_written(tmp_path: Path) -> None:
    samples, labels = some_maps(4), some_maps(2, seed=1)
    as_npy(tmp_path / "samples", samples)
    as_npy(tmp_path / "labels", labels)
    for _ in range(2):  # the second time over the first
        result = score(tmp_path / "samples", tmp_path / "labels", 2, out=tmp_path / "new/scores.json")
    assert result == json.loads((tmp_path / "new/scores.json").read_text())
    assert {"ged", "hm_iou", "diversity", "distance_to_labels", "images", "samples", "convention", "seconds"} <= set(
        result
    )
    assert result["ged_interval"][0] <= result["ged"] <= result["ged_interval"][1]
    with np.load(tmp_path / "new/scores.npz") as arrays:
        assert list(arrays["ids"]) == list(labels)
        assert arrays["ged"].mean() == pytest.approx(result["ged"])
    assert {file.name for file in (tmp_path / "new").iterdir()} == {"scores.json", "scores.npz"}
    table = score_table(result)
    assert f"{result['ged']:.3f}" in table
    assert "5 images, 2 raters, 2 classes, convention car; 4 samples of an image" in table


def test_images_of_many_sizes_in_whatever_batches(tmp_path: Path) -> None:
    samples, labels = {}, {}
    for i, size in enumerate([(12, 9), (16, 16), (9, 12)]):  # read in turn
        samples |= {f"{k}-{i}": m for k, m in some_maps(4, images=BATCH, size=size, seed=i).items()}
        labels |= {f"{k}-{i}": m for k, m in some_maps(2, images=BATCH, size=size, seed=i + 9).items()}
    as_npy(tmp_path / "samples", samples)
    as_npy(tmp_path / "labels", labels)
    result = score(tmp_path / "samples", tmp_path / "labels", 2, out=tmp_path / "o.json")
    assert result["images"] == 3 * BATCH
    with np.load(tmp_path / "o.npz") as arrays:
        for name, value in zip(arrays["ids"], arrays["ged"], strict=True):
            one = metrics.generalized_energy_distance(
                torch.from_numpy(samples[name][None]), torch.from_numpy(labels[name][None])
            )
            assert value == pytest.approx(float(one), abs=1e-12)


def test_fewer_raters_are_missing_ones(tmp_path: Path) -> None:
    samples, labels = some_maps(4), some_maps(4, seed=1)
    labels = {name: each[: 2 if name == "img2" else 4] for name, each in labels.items()}
    as_npy(tmp_path / "samples", samples)
    as_png(tmp_path / "few", labels)
    filled = {
        name: np.concatenate([m, np.full((4 - len(m), *m.shape[1:]), 255, np.uint8)]) for name, m in labels.items()
    }
    as_npy(tmp_path / "filled", filled)
    few, same = (score(tmp_path / "samples", tmp_path / folder, 2) for folder in ("few", "filled"))
    assert few["ged"] == same["ged"] == pytest.approx(expected(samples, filled), abs=1e-12)
    assert few["hm_iou"] == same["hm_iou"]
    assert few["missing_raters"] == same["missing_raters"] == 2
    assert "4 raters (2 maps missing)" in score_table(few)


def test_raters_that_do_not_divide_the_samples(tmp_path: Path) -> None:
    as_npy(tmp_path / "samples", some_maps(4))
    as_npy(tmp_path / "labels", some_maps(3, seed=1))
    with pytest.raises(InputError, match="ccdm"):
        score(tmp_path / "samples", tmp_path / "labels", 2)
    result = score(tmp_path / "samples", tmp_path / "labels", 2, "ccdm")
    assert result["hm_iou"] == pytest.approx(
        expected(some_maps(4), some_maps(3, seed=1), "hm_iou", convention="ccdm"), abs=1e-12
    )
    assert "hm_iou" not in score(tmp_path / "samples", tmp_path / "labels", 2, "phiseg")


def test_weights_of_samples(tmp_path: Path) -> None:
    """A sample of weight 3 is a sample there three times."""
    labels = some_maps(4, seed=1)
    as_npy(tmp_path / "labels", labels)
    for name, maps in some_maps(2).items():
        np.savez(place(tmp_path / "weighted" / f"{name}.npz"), maps=maps, weights=[0.75, 0.25])
        np.save(place(tmp_path / "repeated" / f"{name}.npy"), maps[[0, 0, 0, 1]])
    weighted, repeated = (score(tmp_path / f, tmp_path / "labels", 2, "mose") for f in ("weighted", "repeated"))
    assert weighted["ged"] == pytest.approx(repeated["ged"])
    assert weighted["hm_iou"] == pytest.approx(repeated["hm_iou"])
    assert "dice" in repeated
    assert "dice" not in weighted  # which would count every sample once
    with pytest.raises(InputError, match="mose"):
        score(tmp_path / "weighted", tmp_path / "labels", 2)
    with pytest.raises(InputError, match="weights of labels are not counted"):
        score(tmp_path / "labels", tmp_path / "weighted", 2)


def test_classes_that_flip(tmp_path: Path) -> None:
    samples, labels = some_maps(4, classes=4), some_maps(1, classes=4, seed=1)
    as_npy(tmp_path / "samples", samples)
    as_npy(tmp_path / "labels", labels)
    flips = [(1, 2, 0.3), (3, 0, 0.6)]
    result = score(tmp_path / "samples", tmp_path / "labels", 4, "car-cityscapes", out=tmp_path / "o.json", flips=flips)
    assert result == json.loads((tmp_path / "o.json").read_text())
    each = [
        metrics.generalized_energy_distance(
            torch.from_numpy(samples[i][None]), torch.from_numpy(labels[i][None]), 4, "car-cityscapes", flips=flips
        )
        for i in labels
    ]
    assert result["ged"] == pytest.approx(float(torch.cat(each).nanmean()))
    assert not {"hm_iou", "dice", "empty"} & set(result)  # of none, and of labels as they are, which flip
    marginals = {i: np.stack([(maps == k).mean(0) for k in range(4)], -1) for i, maps in samples.items()}
    errors = []
    for name, (label,) in labels.items():
        for pixel, q in zip(label.flat, marginals[name].reshape(-1, 4)):
            flip = {source: (target, p) for source, target, p in flips}.get(pixel, (pixel, 0.0))
            mixed = (1 - flip[1]) * (q - np.eye(4)[pixel]) ** 2 + flip[1] * (q - np.eye(4)[flip[0]]) ** 2
            errors.append(mixed.sum())
    assert result["brier"] == pytest.approx(np.mean(errors))
    assert 0 < result["ece_mean"] < 1


def test_ignored_pixels_and_undefined_images(tmp_path: Path) -> None:
    samples, labels = some_maps(4, classes=3), some_maps(2, classes=3, seed=1)
    for maps in labels.values():
        maps[:, :3] = 3
    labels["img1"][:] = 3  # nothing is left of it
    as_npy(tmp_path / "samples", samples)
    as_npy(tmp_path / "labels", labels)
    result = score(tmp_path / "samples", tmp_path / "labels", 4, ignore=3, out=tmp_path / "o.json")
    kept = {name: maps for name, maps in labels.items() if name != "img1"}
    with np.load(tmp_path / "o.npz") as arrays:
        several = dict(zip(arrays["ids"], arrays["ged"]))
        assert np.isnan(arrays["brier"]).tolist() == [name == "img1" for name in arrays["ids"]]
    assert np.mean([several[name] for name in kept]) == pytest.approx(expected(samples, kept, classes=4, ignore=3))
    assert result["undefined"]["brier"] == 1
    table = [line.split() for line in score_table(result).splitlines()]
    assert next(line for line in table if line[:4] == ["Brier", "score", "of", "the"])[-1] == "1"


def test_groups(tmp_path: Path) -> None:
    samples, labels = some_maps(4, images=6), some_maps(2, images=6, seed=1)
    as_npy(tmp_path / "samples", samples)
    as_npy(tmp_path / "labels", labels)
    file = tmp_path / "groups.csv"
    patients = ["p0", "p0", "p0", "p1", "p1", "p2"]
    file.write_text("group,image\n" + "".join(f"{p},{name}\n" for name, p in zip(labels, patients)))
    result = score(tmp_path / "samples", tmp_path / "labels", 2, groups=file, out=tmp_path / "o.json")
    with np.load(tmp_path / "o.npz") as arrays:
        assert list(arrays["groups"]) == patients
        assert result["ged_interval"] == list(metrics.bootstrap_interval(arrays["ged"], patients))
    assert result["groups"] == 3
    assert "6 images of 3 groups" in score_table(result)
    file.write_text("image,group\nimg0,p0\n")
    with pytest.raises(InputError, match=r"groups.csv: no group of img1, img2, img3, ..., 5 in all"):
        score(tmp_path / "samples", tmp_path / "labels", 2, groups=file)
    file.write_text("img0,p0\n")
    with pytest.raises(
        InputError, match=r"groups.csv: its first line is img0,p0; it must name the columns image,group"
    ):
        score(tmp_path / "samples", tmp_path / "labels", 2, groups=file)
    file.write_text("image,group\nimg0,p0\nimg0,p1\n")
    with pytest.raises(InputError, match="image img0 has two groups"):
        score(tmp_path / "samples", tmp_path / "labels", 2, groups=file)


def test_one_image_has_no_interval(tmp_path: Path) -> None:
    as_npy(tmp_path / "samples", some_maps(4, images=1))
    as_npy(tmp_path / "labels", some_maps(2, images=1, seed=1))
    result = score(tmp_path / "samples", tmp_path / "labels", 2)
    assert result["ged_interval"] is None
    assert "no intervals: they need at least 2 images" in score_table(result)


def test_two_methods_on_the_same_images(tmp_path: Path) -> None:
    labels = some_maps(2, images=20, seed=1)
    good = {name: maps[[0, 1, 0, 1]] for name, maps in labels.items()}  # the raters themselves
    bad = some_maps(4, images=20, seed=2)
    for name, maps in (("labels", labels), ("good", good), ("bad", bad)):
        as_npy(tmp_path / name, maps)
    result = score([tmp_path / "good", tmp_path / "bad"], tmp_path / "labels", 2, out=tmp_path / "o.json")
    assert result == json.loads((tmp_path / "o.json").read_text())
    ged = result["difference"]["ged"]
    assert (result["a"]["ged"], ged["a"]) == (0, 0)
    assert ged["b"] == result["b"]["ged"] == pytest.approx(expected(bad, labels))
    assert ged["difference"] == pytest.approx(-ged["b"])
    assert ged["interval"] == pytest.approx([-x for x in reversed(result["b"]["ged_interval"])], abs=0.05)
    assert ged["interval"][1] < 0
    assert ged["p_value"] < 0.001
    assert ged["images"] == 20
    assert result["difference"]["ece_mean"]["difference"] < 0
    assert "raters_diversity" not in result["difference"]
    with np.load(tmp_path / "o.npz") as arrays:
        assert (arrays["b_ged"] - arrays["a_ged"]).mean() == pytest.approx(-ged["difference"])
    rows = {line.split()[0]: line.split() for line in score_table(result).splitlines() if line}
    assert rows["GED"][-4:] == [f"{ged['interval'][1]:.3f}]", "<0.001", "A", "20"]
    other_way = score([tmp_path / "bad", tmp_path / "good"], tmp_path / "labels", 2)["difference"]["ged"]
    assert other_way["difference"] == -ged["difference"]
    same = score([tmp_path / "bad", tmp_path / "bad"], tmp_path / "labels", 2)["difference"]
    assert all(entry["difference"] == 0 and entry["interval"] == [0, 0] for entry in same.values())


def test_two_methods_with_other_numbers_of_samples_say_so(tmp_path: Path) -> None:
    as_npy(tmp_path / "labels", some_maps(2, seed=1))
    as_npy(tmp_path / "a", some_maps(4))
    as_npy(tmp_path / "b", some_maps(2))
    table = score_table(score([tmp_path / "a", tmp_path / "b"], tmp_path / "labels", 2))
    assert "A has 4 samples of an image and B 2" in table


def test_images_on_one_side_only(tmp_path: Path) -> None:
    samples, labels = some_maps(4, images=8), some_maps(2, images=8, seed=1)
    as_npy(tmp_path / "samples", {name: maps for name, maps in samples.items() if name > "img4"})
    as_npy(tmp_path / "labels", {name: maps for name, maps in labels.items() if name != "img7"})
    with pytest.raises(
        InputError, match=r"samples: no samples of img0, img1, img2, ..., which .*labels has, in all 5 of 8"
    ):
        score(tmp_path / "samples", tmp_path / "labels", 2)
    result = score(tmp_path / "samples", tmp_path / "labels", 2, on_missing="skip")
    assert (result["images"], result["skipped"]) == (2, 6)
    assert result["ged"] == pytest.approx(expected(samples, {name: labels[name] for name in ("img5", "img6")}))
    assert "skipped: 6 images without samples or labels" in score_table(result)
    as_npy(tmp_path / "others", {"x": samples["img0"]})
    with pytest.raises(InputError, match="name both alike"):
        score(tmp_path / "others", tmp_path / "labels", 2, on_missing="skip")


def test_loose_png_are_maps_or_images(tmp_path: Path) -> None:
    """NAME_3.png is a map of NAME, an image of its own where that fits the labels, and refused where both may be."""
    labels = some_maps(3)
    for name, maps in labels.items():
        for i, one in enumerate(maps):
            save_png(tmp_path / "crops" / f"{name}_l{i}.png", one)
            save_png(tmp_path / "cases" / f"case_{name[3:]}" / f"{i}.png", one)
        save_png(tmp_path / "single" / f"case_{name[3:]}.png", maps[0])
        save_png(tmp_path / "frames" / f"{name}.png", maps[0])
    (crops,), _ = open_folders([tmp_path / "crops"], tmp_path / "crops", 2)
    assert list(crops.images) == list(labels)
    assert crops.count("img1") == 3
    (single,), cases = open_folders([tmp_path / "single"], tmp_path / "cases", 2)
    assert list(single.images) == list(cases.images) == [f"case_{i}" for i in range(5)]
    assert single.count("case_1") == 1
    (cases,), single_labels = open_folders([tmp_path / "cases"], tmp_path / "single", 2)
    assert list(cases.images) == list(single_labels.images)
    (frames,), _ = open_folders([tmp_path / "frames"], tmp_path / "crops", 2)
    assert list(frames.images) == list(labels)
    with pytest.raises(
        InputError, match=r"both hold case_0.png: is it an image of its own, or a map of the image case\?"
    ):
        open_folders([tmp_path / "single"], tmp_path / "single", 2)


def test_images_in_folders_of_patients(tmp_path: Path) -> None:
    samples, labels = some_maps(4), some_maps(2, seed=1)
    as_png(tmp_path / "samples" / "patient", samples)
    as_png(tmp_path / "labels" / "patient", labels)
    result = score(tmp_path / "samples", tmp_path / "labels", 2, out=tmp_path / "o.json")
    with np.load(tmp_path / "o.npz") as arrays:
        assert list(arrays["ids"]) == [f"patient/{name}" for name in labels]
    assert result["ged"] == pytest.approx(expected(samples, labels))


def test_slices_of_volumes(tmp_path: Path) -> None:
    samples, labels = some_maps(4, images=3), some_maps(2, images=3, seed=1)
    volume, truth = (np.stack(list(maps.values()), 2) for maps in (samples, labels))  # [m h slices w]
    for case in ("c1", "c2"):
        save_nifti(tmp_path / "samples" / f"{case}.nii.gz", volume.transpose(1, 3, 2, 0))  # [h w slices maps]
        for rater, one in enumerate(truth):
            save_nifti(tmp_path / "labels" / case / f"rater{rater}.nii.gz", one.transpose(0, 2, 1))
    result = score(tmp_path / "samples", tmp_path / "labels", 2, out=tmp_path / "o.json")
    assert (result["images"], result["groups"], result["group_name"]) == (6, 2, "volume")
    assert result["ged"] == pytest.approx(expected(samples, labels))
    with np.load(tmp_path / "o.npz") as arrays:
        assert list(arrays["ids"]) == [f"{case}:{i:03d}" for case in ("c1", "c2") for i in range(3)]
    (tmp_path / "g.csv").write_text("image,group\nc1,left\nc2,right\n")
    assert score(tmp_path / "samples", tmp_path / "labels", 2, groups=tmp_path / "g.csv")["groups"] == 2
    moved = np.diag([0.5, 0.5, 3, 1])
    save_nifti(tmp_path / "labels" / "c2" / "rater1.nii.gz", truth[1].transpose(0, 2, 1), moved)
    with pytest.raises(InputError, match=r"rater0.nii.gz and .*rater1.nii.gz: their affines differ by up to 1"):
        score(tmp_path / "samples", tmp_path / "labels", 2)
    for rater in range(2):
        save_nifti(tmp_path / "labels" / "c2" / f"rater{rater}.nii.gz", truth[rater].transpose(0, 2, 1), moved)
    with pytest.raises(InputError, match=r"samples/c2.nii.gz.* and .*labels/c2.*: their affines differ"):
        score(tmp_path / "samples", tmp_path / "labels", 2)
    save_nifti(tmp_path / "labels" / "c2" / "rater1.nii.gz", truth[1].transpose(0, 2, 1)[..., :2])
    with pytest.raises(InputError, match=r"rater0.nii.gz has 3 slices and .*rater1.nii.gz 2"):
        score(tmp_path / "samples", tmp_path / "labels", 2)


def test_nifti_without_nibabel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nibabel", None)
    place(tmp_path / "labels/a.nii.gz").write_bytes(b"x")
    with pytest.raises(InputError, match=r'a.nii.gz: NIfTI takes nibabel.*pip install "stochseg\[medical\]"'):
        score(tmp_path / "labels", tmp_path / "labels", 2)


def rgb(file: Path) -> None:
    save_png(file, np.random.default_rng(0).integers(0, 255, (4, 4, 3), np.uint8))


def npz(file: Path, **arrays: Any) -> None:
    np.savez(place(file), **arrays)


GOOD = np.zeros((2, 4, 4), np.uint8)
BAD: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "objects": ("a.npy", lambda f: np.save(f, np.array([GOOD, 1], object), allow_pickle=True), "Python objects"),
    "objects in npz": ("a.npz", lambda f: npz(f, maps=np.array([GOOD, 1], object)), "Python objects"),
    "no npy": ("a.npy", lambda f: f.write_bytes(b"hello"), "cannot be read as NPY"),
    "empty npy": ("a.npy", lambda f: f.write_bytes(b""), "cannot be read as NPY"),
    "cut npy": ("a.npy", lambda f: (np.save(f, GOOD), f.write_bytes(f.read_bytes()[:-5])), "cannot be read as NPY"),
    "no npz": ("a.npz", lambda f: f.write_bytes(b"hello"), "cannot be read as NPZ"),
    "cut npz": ("a.npz", lambda f: (npz(f, maps=GOOD), f.write_bytes(f.read_bytes()[:150])), "cannot be read as NPZ"),
    "two arrays": ("a.npz", lambda f: npz(f, x=GOOD, y=GOOD), r"holds the arrays x, y; one array is read"),
    "weights": (
        "a.npz",
        lambda f: npz(f, x=GOOD, weights=[1, 2, 3]),
        r"weights are int64 of shape \[3\]; give one number a map, 2",
    ),
    "negative weights": ("a.npz", lambda f: npz(f, x=GOOD, weights=[1, -1]), "weights hold -1; give numbers from 0 up"),
    "class": ("a.npy", lambda f: np.save(f, GOOD + 2), r"holds class 2, --classes 2 takes 0 to 1"),
    "negative": ("a.npy", lambda f: np.save(f, GOOD.astype(int) - 1), "holds class -1"),
    "255": ("a.npy", lambda f: np.save(f, np.eye(4, dtype=np.uint8)[None] * 255), "renumber masks 0/255 to 0/1"),
    "missing sample": ("a.npy", lambda f: np.save(f, GOOD + 255), "which only labels may have"),
    "soft": ("a.npy", lambda f: np.save(f, GOOD + 0.3), r"holds the value 0.3; class ids are whole numbers"),
    "nan": ("a.npy", lambda f: np.save(f, GOOD * np.nan), "holds the value nan"),
    "inf": ("a.npy", lambda f: np.save(f, GOOD + np.inf), "holds class inf"),
    "text": ("a.npy", lambda f: np.save(f, np.array([["a"]])), "array of <U1"),
    "axes": ("a.npy", lambda f: np.save(f, np.zeros((1, 1, 2, 4, 4))), r"shape \[1, 1, 2, 4, 4\]"),
    "no maps": ("a.npy", lambda f: np.save(f, GOOD[:0]), r"shape \[0, 4, 4\] holds no pixel"),
    "other classes": ("a.npy", lambda f: np.save(f, np.zeros((2, 3, 4, 4))), r"\[n k h w\] with k = 2 classes"),
    "logits": ("a.npy", lambda f: np.save(f, np.full((2, 2, 4, 4), 1.5)), "do not add up to 1"),
    "one-hot of one map": (
        "a.npy",
        lambda f: np.save(f, one_hot(GOOD)[0].astype(float)),
        r"may be one map, one-hot, or 2 maps",
    ),
    "colours": ("a/0.png", rgb, "mode 'RGB', 8-bit grey is needed"),
    "16 bits": ("a/0.png", lambda f: save_png(f, np.zeros((4, 4), np.uint16)), "8-bit grey is needed"),
    "grey values": (
        "a/0.png",
        lambda f: save_png(f, np.full((4, 4), 7, np.uint8)),
        "the mask holds the value 7; masks hold 0 and 255 only",
    ),
    "no png": ("a/0.png", lambda f: f.write_bytes(b"hello"), "not a PNG"),
    "jpeg": ("a/0.jpg", lambda f: f.write_bytes(b""), r".jpg is not read; convert it"),
    "two formats": ("a/0.png", lambda f: (save_png(f, GOOD[0]), np.save(f.parent / "1.npy", GOOD)), "in two formats"),
    "twice": ("a.npy", lambda f: (np.save(f, GOOD), npz(f.parent / "a.npz", m=GOOD)), "both of the image a"),
    "size": (
        "a.npy",
        lambda f: np.save(f, np.zeros((2, 5, 4), int)),
        r"maps of \[5, 4\] pixels \[h w\], .*a.npy: of \[4, 4\]",
    ),
    "sizes": (
        "a/0.png",
        lambda f: (save_png(f, GOOD[0]), save_png(f.parent / "1.png", GOOD[0, 1:])),
        r"0.png: maps of \[4, 4\] pixels \[h w\], .*1.png: of \[3, 4\]",
    ),
    "several images": (
        "a/x_0.png",
        lambda f: [save_png(f.parent / f"{n}_{i}.png", GOOD[0]) for n in "xy" for i in range(2)],
        r"maps of several images \(x, y\) in one folder",
    ),
    "number of samples": ("a.npy", lambda f: np.save(f, GOOD[:1]), r"b.npy: 2 samples, .*a.npy has 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_scored_is_named(case: str, tmp_path: Path) -> None:
    name, write, message = BAD[case]
    as_npy(tmp_path / "labels", {"a": GOOD[:1], "b": GOOD[:1]})
    as_npy(tmp_path / "samples", {"b": GOOD})
    write(place(tmp_path / "samples" / name))
    with pytest.raises(InputError, match=message) as caught:
        score(tmp_path / "samples", tmp_path / "labels", 2)
    assert f"{tmp_path / 'samples'}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_arguments_that_do_not_fit(tmp_path: Path) -> None:
    as_npy(tmp_path / "labels", {"a": GOOD})
    labels = tmp_path / "labels"
    for match, arguments in (
        ("is not there; give a folder", (tmp_path / "none", labels, 2)),
        ("is no folder", (labels / "a.npy", labels, 2)),
        ("3 folders of samples", ([labels] * 3, labels, 2)),
        ("--classes 1: give", (labels, labels, 1)),
        ("--convention best: not known; choose one of car, ", (labels, labels, 2, "best")),
        ("must be a .json file", (labels, labels, 2, "car", tmp_path / "x.txt")),
        ("whose files are read as maps", (labels, labels, 2, "car", labels / "x.json")),
    ):
        with pytest.raises(InputError, match=match):
            score(*arguments)  # type: ignore[arg-type]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: no map in it"):
        score(tmp_path / "empty", labels, 2)
    as_npy(tmp_path / "nobody", {"a": GOOD + 255})
    with pytest.raises(InputError, match=r"nobody/a.npy: every map is of a missing rater"):
        score(labels, tmp_path / "nobody", 2)


def test_a_declared_size_is_not_believed(tmp_path: Path) -> None:
    """A header may promise more than its file holds; no memory is taken for it."""
    as_npy(tmp_path / "labels", {"a": GOOD})
    liar = place(tmp_path / "samples/a.npy")
    with liar.open("wb") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": (2_000_000, 40_000, 40_000)}
        np.lib.format.write_array_header_1_0(stream, header)
    with pytest.raises(InputError, match=r"a.npy: cannot be read as NPY"):
        score(tmp_path / "samples", tmp_path / "labels", 2)
    with zipfile.ZipFile(tmp_path / "samples/a.npz", "w") as archive:
        archive.write(liar, "maps.npy")
    liar.unlink()
    with pytest.raises(InputError, match=r"a.npz: damaged: it declares \d+ bytes"):
        score(tmp_path / "samples", tmp_path / "labels", 2)
