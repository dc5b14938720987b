"""`score`: which files are the maps of one image, where folders are those of patients; what is in doubt is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stochseg.data.predictions import open_folders
from stochseg.errors import InputError
from stochseg.scoring.folders import score

RNG = np.random.default_rng(0)


def some(count: int | None) -> NDArray[Any]:
    """Random maps [count h w], or one [h w]."""
    return RNG.integers(0, 2, (6, 5) if count is None else (count, 6, 5)).astype(np.uint8)


def fill(folder: Path, names: list[str], count: int | None = None) -> None:
    """A map in each file, or `count` of them."""
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        match file.suffix:
            case ".npy":
                np.save(file, some(count))
            case ".npz":
                np.savez(file, maps=some(count))
            case ".png":
                Image.fromarray(some(None) * 255).save(file)
            case _:
                nibabel = pytest.importorskip("nibabel", reason='needs nibabel: pip install "stochseg[medical]"')
                maps = some(count or 1).transpose(1, 2, 0)[:, :, None]
                nibabel.save(nibabel.Nifti1Image(maps, np.eye(4)), file)


def names_of(samples: Path, labels: Path) -> list[str]:
    (ours,), theirs = open_folders([samples], labels, 2)
    assert list(ours.images) == list(theirs.images)
    return list(ours.images)


SLICES = [f"{patient}/slice{i}" for patient in ("P1", "P2") for i in range(2)]


@pytest.mark.parametrize("of_samples", [".npy", ".npz", ".nii.gz"])
@pytest.mark.parametrize("of_labels", [".npy", ".npz", ".nii.gz"])
def test_files_of_many_maps_in_folders_of_patients_are_images(of_samples: str, of_labels: str, tmp_path: Path) -> None:
    fill(tmp_path / "S", [f"{name}{of_samples}" for name in SLICES], 8)
    fill(tmp_path / "L", [f"{name}{of_labels}" for name in SLICES], 4)
    assert names_of(tmp_path / "S", tmp_path / "L") == SLICES
    result = score(tmp_path / "S", tmp_path / "L", 2, out=tmp_path / "o.json")
    assert (result["images"], result["samples"], result["raters_per_image"]) == (4, 8, 4)
    flat = tmp_path / "flat"  # the same files as images without folders
    for side in "SL":
        for file in (tmp_path / side).rglob("*.n*"):
            target = flat / side / f"{file.parent.name}-{file.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    assert result["ged"] == pytest.approx(score(flat / "S", flat / "L", 2)["ged"])


def test_one_rater_or_a_folder_for_each_slice(tmp_path: Path) -> None:
    """Labels of such samples may be one PNG a slice, or a folder of PNGs a slice."""
    fill(tmp_path / "S", [f"{name}.npy" for name in SLICES], 8)
    fill(tmp_path / "one", [f"{name}.png" for name in SLICES])
    fill(tmp_path / "four", [f"{name}/{i}.png" for name in SLICES for i in range(4)])
    for labels, raters in (("one", 1), ("four", 4)):
        result = score(tmp_path / "S", tmp_path / labels, 2)
        assert (result["images"], result["raters_per_image"], result["samples"]) == (4, raters, 8)
    assert names_of(tmp_path / "four", tmp_path / "S") == SLICES
    both = score([tmp_path / "S", tmp_path / "four"], tmp_path / "four", 2)
    assert (both["images"], both["b"]["samples"], both["b"]["ged"]) == (4, 4, pytest.approx(0))


def test_patients_of_one_slice_and_missing_slices(tmp_path: Path) -> None:
    """A folder of one file is read as the others are; a slice that one side lacks is named."""
    fill(tmp_path / "S", [f"{name}.npy" for name in [*SLICES, "P3/slice7"]], 4)
    fill(tmp_path / "L", [f"{name}.npy" for name in [*SLICES, "P3/slice7"]], 4)
    assert names_of(tmp_path / "S", tmp_path / "L") == [*SLICES, "P3/slice7"]
    fill(tmp_path / "L", ["P4/a.npy", "P4/b.npy"], 4)
    (tmp_path / "L/P1/slice1.npy").unlink()
    (tmp_path / "L/P3/slice7.npy").rename(tmp_path / "L/P3/slice8.npy")
    with pytest.raises(InputError, match=r"no samples of P3/slice8, P4/a, P4/b, which .*L has"):
        score(tmp_path / "S", tmp_path / "L", 2)
    result = score(tmp_path / "S", tmp_path / "L", 2, on_missing="skip")
    assert result["images"] == 3
    assert sorted(result["skipped_images"]) == ["P1/slice1", "P3/slice7", "P3/slice8", "P4/a", "P4/b"]


def test_maps_of_one_image_in_several_files_are_so_still(tmp_path: Path) -> None:
    fill(tmp_path / "S", [f"{p}/batch{i}.npy" for p in ("a", "b") for i in range(2)], 4)
    fill(tmp_path / "rater", [f"{p}/rater{i}.npy" for p in ("a", "b") for i in range(4)])
    fill(tmp_path / "number", [f"{p}/{i}.npy" for p in ("a", "b") for i in range(4)])
    fill(tmp_path / "flat", ["a.npy", "b.npy"], 4)
    for labels in ("rater", "number", "flat"):
        result = score(tmp_path / "S", tmp_path / labels, 2)
        assert (result["images"], result["samples"], result["raters_per_image"]) == (2, 8, 4)
    assert score(tmp_path / "number", tmp_path / "number", 2)["images"] == 2  # bare numbers are maps
    fill(tmp_path / "written", ["a/samples.npz", "b/samples.npz"], 4)  # by `stochseg sample`
    fill(tmp_path / "written", ["a/mean.png", "b/mean.png"])
    assert score(tmp_path / "written", tmp_path / "number", 2)["images"] == 2


def test_files_of_many_maps_under_other_names_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "S", [f"{name}_pred.npy" for name in SLICES], 4)
    fill(tmp_path / "L", [f"{name}_gt.npy" for name in SLICES], 4)
    with pytest.raises(
        InputError, match=r"P1/slice0_pred.npy and .*P1/slice0_gt.npy: is each file of the folder P1 an image"
    ):
        score(tmp_path / "S", tmp_path / "L", 2)


@pytest.mark.parametrize("suffix", [".png", ".npy", ".nii.gz"])
def test_files_of_one_map_under_the_same_names_are_refused(suffix: str, tmp_path: Path) -> None:
    for side in "SL":
        fill(tmp_path / side, [f"P1/z{i}{suffix}" for i in range(4)])
    with pytest.raises(
        InputError,
        match=rf"both hold P1/z0{suffix}: is it an image of its own, or a map of the image P1\? .*P1/0{suffix}",
    ):
        score(tmp_path / "S", tmp_path / "L", 2)


def test_folders_of_raters_are_refused(tmp_path: Path) -> None:
    cure = "folders are images: IMAGE/RATER.png, not RATER/IMAGE.png"
    for side in ("S", "L"):
        fill(tmp_path / side, [f"{rater}/im{i}.png" for rater in range(4) for i in range(3)])
    fill(tmp_path / "raters", [f"rater{rater}/im{i}.png" for rater in range(4) for i in range(3)])
    fill(tmp_path / "images", [f"im{i}/{rater}.png" for rater in range(4) for i in range(3)])
    for samples, labels in (("S", "L"), ("S", "raters"), ("S", "images"), ("images", "raters")):
        with pytest.raises(InputError, match=cure):
            score(tmp_path / samples, tmp_path / labels, 2)
    fill(tmp_path / "others", [f"case{i}/{rater}.png" for rater in range(4) for i in range(3)])
    with pytest.raises(InputError, match="name both alike"):
        score(tmp_path / "images", tmp_path / "others", 2)


def test_loose_numbered_files_that_are_no_png(tmp_path: Path) -> None:
    fill(tmp_path / "S", [f"c{c}_s{i}.nii.gz" for c in range(2) for i in range(4)])
    fill(tmp_path / "L", [f"c{c}_l{i}.nii" for c in range(2) for i in range(4)])
    with pytest.raises(InputError, match=r"put the maps of each image into a folder on both sides, c0/c0_"):
        score(tmp_path / "S", tmp_path / "L", 2)


def test_the_maps_of_an_image_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "S", ["a/0.png", "a/1.png", "a/2.png", "a/3.png"])
    fill(tmp_path / "L", ["a.npy"], 1)
    score(tmp_path / "S", tmp_path / "L", 2)
    assert capsys.readouterr().err.splitlines() == [
        f"maps of the image a: 4 samples in {tmp_path / 'S/a'}: 0.png, 1.png, 2.png, ...; "
        f"1 label in {tmp_path / 'L/a.npy'}"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "image,group\nP1,x\nP2/slice0,y\nP2/slice1,y\n",
        "\ufeffimage ; group\n P1; x\nP2 ;y \n",
        "group, image\nx, P1\n\ny, P2\n",
    ],
)
def test_groups_in_any_spelling_and_of_folders(text: str, tmp_path: Path) -> None:
    for side in "SL":
        fill(tmp_path / side, [f"{name}.npy" for name in SLICES], 4)
    file = tmp_path / "g.csv"
    file.write_text(text, encoding="utf-8")
    score(tmp_path / "S", tmp_path / "L", 2, groups=file, out=tmp_path / "o.json")
    with np.load(tmp_path / "o.npz") as arrays:
        assert list(arrays["groups"]) == ["x", "x", "y", "y"]
