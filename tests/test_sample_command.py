"""Sampling image files: every format the same, samples that depend on nothing else, folders whole and never overwritten."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stochseg.config import CalibrationConfig, RefinementConfig
from stochseg.data.batches import in_order
from stochseg.data.image_files import list_images, read_image
from stochseg.data.store import open_store
from stochseg.errors import InputError
from stochseg.metrics.coverage import coverage_order, coverage_sets
from stochseg.models.calibrated import Calibrated, Coverage
from stochseg.models.car import CAR
from stochseg.sample_files import image_number, sample_files
from stochseg.sampling.latents import latents
from stochseg.sampling.write import write_sampled

from .conftest import write_blobs

FILES = {"samples.npz", "marginals.npz", "mean.png", "entropy.png", "sheet.png", "summary.json"}
TINY: dict[str, Any] = {
    "calibration": CalibrationConfig(widths=(4, 8)),
    "refinement": RefinementConfig(widths=(4, 8)),
}


def made(channels: int = 1, classes: int = 2) -> CAR:
    """An untrained model whose samples differ."""
    model = CAR(classes, channels, (32, 32), **TINY)
    g = torch.Generator().manual_seed(1)
    for name, p in model.networks.named_parameters():
        if name.startswith("refinement.head") or name.endswith("noise.weight"):
            p.data = torch.randn(p.shape, generator=g)
    return model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    made().save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def pixels() -> np.ndarray:
    rows, columns = np.mgrid[:29, :43]
    return (40 + 5 * rows + 60 * (np.hypot(rows - 12, columns - 20) < 8)).astype(np.uint8)


def saved(array: np.ndarray, file: Path, **options: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file, **options)
    return file


def maps_of(folder: Path) -> np.ndarray:
    return np.asarray(np.load(folder / "samples.npz")["maps"])


def test_a_file_gives_the_samples_of_the_store_it_came_from(tmp_path: Path) -> None:
    """With the very range of pixels that training and evaluation use; grey for a model of three channels too."""
    split = open_store(write_blobs(tmp_path / "store", {"val": 3})).split("val")
    for channels in (1, 3):
        car = made(channels)
        car.save(tmp_path / "model")
        for i in range(3):
            saved(split.images[i, ..., 0], tmp_path / "images" / f"{i}.png")
        out = tmp_path / f"out{channels}"
        done = sample_files(tmp_path / "model", [tmp_path / "images"], out, samples=5, seed=3, precision="float32")
        assert done.written == [out / str(i) for i in range(3)]
        batch = next(iter(in_order(split, 3, None)))
        numbers = [image_number(image) for image in batch.images]
        maps = car.sample(batch.images, z=latents(3, numbers, 5, car.latent))
        q = car.probabilities(batch.images)
        for i in range(3):
            assert np.array_equal(maps_of(out / str(i)), maps[i].numpy())
            marginals = np.load(out / str(i) / "marginals.npz")
            assert np.allclose(marginals["q"], q[i].numpy(), atol=1e-6)
            mean = np.stack([(maps[i] == c).double().mean(0) for c in range(2)])
            assert np.allclose(marginals["mean"], mean, atol=1e-7)
            assert marginals["mean"].dtype == marginals["q"].dtype == np.float32


def test_every_file_of_the_folder(model: Path, pixels: np.ndarray, tmp_path: Path) -> None:
    saved(pixels, tmp_path / "scan.png")
    (folder,) = sample_files(model, [tmp_path / "scan.png"], tmp_path / "out", samples=6).written
    assert {f.name for f in folder.iterdir()} == FILES
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["scan"]  # no partial folder is left
    maps = maps_of(folder)
    assert (maps.shape, maps.dtype) == ((6, 29, 43), np.uint8)
    summary = json.loads((folder / "summary.json").read_text())
    lesion = summary["classes"]["class 1"]
    areas = (maps == 1).sum((1, 2))
    assert areas.std() > 0
    assert lesion["present"] == (areas > 0).mean()
    assert lesion["area_quantiles"]["0.5"] == np.median(areas)
    assert (summary["seed"], summary["samples"], summary["model"]) == (0, 6, str(model))
    assert summary["size"] == [29, 43]
    mean = np.asarray(Image.open(folder / "mean.png"))
    assert mean.shape == (29, 43)
    assert np.abs(mean / 255 - (maps == 1).mean(0)).max() < 0.003
    entropy = np.asarray(Image.open(folder / "entropy.png"))
    assert entropy.shape == (29, 43)
    assert ((entropy > 0) == ((mean > 0) & (mean < 255))).all()
    sheet = Image.open(folder / "sheet.png")
    assert sheet.width > 1000
    assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 50


def test_samples_depend_on_seed_pixels_and_number_alone(model: Path, pixels: np.ndarray, tmp_path: Path) -> None:
    first, copy = saved(pixels, tmp_path / "a.png"), saved(pixels, tmp_path / "elsewhere" / "b.tif")
    other = saved(pixels[::-1].copy(), tmp_path / "c.png")

    def drawn(files: list[Path], out: str, **settings: Any) -> list[np.ndarray]:
        return [maps_of(f) for f in sample_files(model, files, tmp_path / out, **settings).written]

    alone = drawn([first], "1", samples=8)[0]
    among = drawn([other, copy, first], "2", samples=8)
    assert np.array_equal(alone, among[1])
    assert np.array_equal(alone, among[2])
    assert not np.array_equal(alone, among[0])
    assert np.array_equal(alone[:3], drawn([first], "3", samples=3)[0])
    assert not np.array_equal(alone, drawn([first], "4", samples=8, seed=1)[0])


def test_formats_depths_and_channels_give_the_same_image(pixels: np.ndarray, tmp_path: Path) -> None:
    wanted = read_image(saved(pixels, tmp_path / "8.png"), 1)
    assert wanted.shape == (1, 29, 43)
    assert wanted.dtype == torch.float32
    assert torch.equal(wanted[0], torch.from_numpy(pixels).float() / 255 * 2 - 1)
    colour = pixels[..., None].repeat(3, 2)
    exact = [
        saved(pixels, tmp_path / "8.tiff"),
        saved(colour, tmp_path / "colour.png"),
        saved(np.concatenate([colour, np.full_like(colour[..., :1], 255)], 2), tmp_path / "opaque.png"),
    ]
    np.save(tmp_path / "2d.npy", pixels)
    np.save(tmp_path / "3d.npy", pixels[..., None])
    for file in (*exact, tmp_path / "2d.npy", tmp_path / "3d.npy"):
        assert torch.equal(read_image(file, 1), wanted), file
    deep = pixels.astype(np.uint16) * 257
    np.save(tmp_path / "16.npy", deep)
    np.save(tmp_path / "big.npy", deep.astype(">u2"))
    np.save(tmp_path / "float.npy", pixels / 255)
    deep_files = [saved(deep, tmp_path / "16.png"), saved(deep, tmp_path / "16.tif")]
    for file in (*deep_files, tmp_path / "16.npy", tmp_path / "big.npy", tmp_path / "float.npy"):
        assert torch.allclose(read_image(file, 1), wanted, atol=1e-6), file
    assert torch.allclose(read_image(saved(pixels, tmp_path / "x.jpg", quality=95), 1), wanted, atol=0.1)
    painted = np.stack([pixels, pixels // 2, 255 - pixels], 2)
    assert torch.equal(
        read_image(saved(painted, tmp_path / "painted.png"), 3),
        torch.from_numpy(painted).permute(2, 0, 1).float() / 255 * 2 - 1,
    )
    assert read_image(saved(pixels, tmp_path / "grey.png"), 3).shape == (1, 29, 43)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    assert read_image(saved(pixels, tmp_path / "turned.jpg", exif=exif), 1).shape == (1, 43, 29)


def wrong_files(folder: Path) -> dict[str, str]:
    grey = np.full((8, 9), 100, np.uint8)
    saved(np.dstack([grey, grey, grey // 2]), folder / "colour.png")
    saved(np.dstack([grey] * 4), folder / "clear.png")
    Image.fromarray(grey).save(folder / "pages.tif", save_all=True, append_images=[Image.fromarray(grey)])
    whole = saved(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8), folder / "cut.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("not an image")
    saved(grey, folder / "disguised.gif")
    shutil.move(folder / "disguised.gif", folder / "disguised.png")
    Image.new("CMYK", (8, 9)).save(folder / "print.jpg")
    Image.fromarray(np.full((8, 9), 70000, np.int32)).save(folder / "int32.tif")
    np.save(folder / "nan.npy", np.full((8, 9), np.nan))
    np.save(folder / "centred.npy", np.linspace(-1, 1, 72).reshape(8, 9))
    np.save(folder / "long.npy", np.zeros((8, 9), np.int64))
    np.save(folder / "volume.npy", np.zeros((8, 9, 30), np.uint8))
    np.save(folder / "batch.npy", np.zeros((1, 1, 8, 9), np.uint8))
    np.save(folder / "pickle.npy", np.array([{}]), allow_pickle=True)
    np.save(folder / "none.npy", np.zeros((0, 9), np.uint8))
    return {
        "colour.png": "is colour, this model takes images that are grey",
        "clear.png": "transparent",
        "pages.tif": "holds 2 pages",
        "cut.png": "not readable",
        "empty.png": "not readable",
        "text.jpg": "not readable",
        "disguised.png": "not readable",
        "print.jpg": "mode 'CMYK'",
        "int32.tif": "8 or 16 bits",
        "nan.npy": "scale them",
        "centred.npy": "floats from -1 to 1; scale them",
        "long.npy": "array of int64",
        "volume.npy": "channels last",
        "batch.npy": "an image is",
        "pickle.npy": "not readable as an array",
        "none.npy": "array of shape",
    }


def test_what_is_no_image_is_named_and_left_out(
    model: Path, pixels: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    wrong = wrong_files(tmp_path / "images")
    for name, message in wrong.items():
        with pytest.raises(InputError, match=message) as caught:
            read_image(tmp_path / "images" / name, 1)
        assert str(tmp_path / "images" / name) in str(caught.value)
        assert "\n" not in str(caught.value)
    for on_error in ("stop", "skip"):
        with pytest.raises(InputError, match="batch.npy"):
            sample_files(model, [tmp_path / "images"], tmp_path / "out", on_error=on_error)
    assert not (tmp_path / "out").exists()
    saved(pixels, tmp_path / "images" / "good.png")
    with pytest.raises(InputError, match=r"batch\.npy.*0 images of \d+ done: go on with --resume.*--on-error skip"):
        sample_files(model, [tmp_path / "images"], tmp_path / "out", samples=2)
    done = sample_files(model, [tmp_path / "images"], tmp_path / "out", samples=2, on_error="skip")
    assert done.written == [tmp_path / "out" / "good"]
    assert {f.name for f in done.skipped} == wrong.keys()
    said = capsys.readouterr().err
    assert all(f"left out: {tmp_path / 'images' / name}" in said for name in wrong)


def test_files_folders_and_patterns(pixels: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.png", "a.PNG", "deep/c.png", "notes.txt", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        saved(pixels, tmp_path / name) if name != "notes.txt" else (tmp_path / name).write_text("")
    assert [f.name for f in list_images([tmp_path])] == ["a.PNG", "b.png"]
    assert [f.name for f in list_images([tmp_path / "**" / "*.png"])] == ["b.png", "c.png"]
    monkeypatch.chdir(tmp_path)
    assert list_images([".hidden.png"]) == [Path(".hidden.png")]  # where it is named
    assert list_images(["*/c.png"]) == [Path("deep/c.png")]
    saved(pixels, tmp_path / "odd[1].png")
    assert list_images([tmp_path / "odd[1].png"]) == [tmp_path / "odd[1].png"]  # a name, where there is such a file
    (tmp_path / "bare").mkdir()
    for given, message in (
        ("nowhere.png", "no such image; look at"),
        ("*.jpg", "matches no file; give"),
        ("bare", "no image right inside"),
        ("notes.txt", "convert it"),
    ):
        with pytest.raises(InputError, match=message):
            list_images([given])
    with pytest.raises(InputError, match="no image given"):
        list_images([])


def test_nothing_is_overwritten_in_silence(model: Path, pixels: np.ndarray, tmp_path: Path) -> None:
    one, two = saved(pixels, tmp_path / "a" / "x.png"), saved(pixels, tmp_path / "b" / "X.tif")
    out = tmp_path / "out"
    with pytest.raises(InputError, match="would both be written to") as caught:
        sample_files(model, [one, two], out)
    assert str(one) in str(caught.value)
    assert str(two) in str(caught.value)
    assert len(sample_files(model, [one, one.parent], out, samples=2).written) == 1  # the same file, named twice
    with pytest.raises(InputError, match="exists already.*--overwrite"):
        sample_files(model, [one], out)
    sample_files(model, [one], out, samples=3, overwrite=True)
    assert len(maps_of(out / "x")) == 3
    (out / "mine").mkdir()
    (out / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="not written by"):
        sample_files(model, [saved(pixels, tmp_path / "mine.png")], out, overwrite=True)
    assert (out / "mine" / "letter.txt").read_text() == "dear"
    for flag in ("samples", "seed"):
        with pytest.raises(InputError, match=f"--{flag} -1"):
            sample_files(model, [one], tmp_path / "new", **{flag: -1})


@pytest.mark.parametrize("samples", [2, 5, 9])
def test_coverage_is_that_of_its_own_number_of_samples(samples: int, pixels: np.ndarray, tmp_path: Path) -> None:
    car = made()
    car.size = (29, 43)
    car.calibrated = Calibrated((0.8, 1.2), Coverage((None, 0.7), 5, 0.9), {})
    car.save(tmp_path / "model")
    file = saved(pixels, tmp_path / "scan.png")
    out = tmp_path / "out"
    (folder,) = sample_files(tmp_path / "model", [file], out, samples=samples, precision="float32").written
    assert {f.name for f in folder.iterdir()} == FILES | {"coverage.png"}
    assert len(maps_of(folder)) == samples
    image = read_image(file, 1)[None]
    maps = car.sample(image, z=latents(0, [image_number(image[0])], 5, car.latent))
    expected = coverage_sets(coverage_order(maps, car.probabilities(image)), (None, 0.7))[0].numpy()
    found = np.load(folder / "marginals.npz")["coverage"]
    assert found.dtype == bool
    assert np.array_equal(found, expected)
    assert 0 < found[1].mean() < 1
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["temperature"] == [0.8, 1.2]
    assert summary["coverage"]["levels"] == {"class 0": None, "class 1": 0.7}
    assert summary["coverage_area"]["class 1"] == int(expected[1].sum())


def test_coverage_promises_nothing_at_another_size(
    pixels: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    car = made()
    car.calibrated = Calibrated(None, Coverage((None, 0.7), 5, 0.9, 1.0, (29, 43)), {})
    car.save(tmp_path / "model")
    files = [saved(pixels, tmp_path / "same.png"), saved(pixels.T.copy(), tmp_path / "turned.png")]
    words: dict[str, str] = {}

    def note(folder: Path, sampled: Any, *others: Any) -> None:
        words[folder.name] = " ".join([sampled.coverage_name, *sampled.notes])
        write_sampled(folder, sampled, *others)

    monkeypatch.setattr("stochseg.sample_files.write_sampled", note)
    same, turned = sample_files(tmp_path / "model", files, tmp_path / "out", samples=5).written
    err = capsys.readouterr().err
    assert "fitted at 43x29 pixels: no promise for 1 image of another size (turned.png)" in err
    assert [json.loads((f / "summary.json").read_text())["coverage"]["promise"] for f in (same, turned)] == [
        True,
        False,
    ]
    assert "90 % coverage: on average over patients" in words["same"]
    assert "coverage set: fitted at 43x29, no promise at this size" in words["turned"]
    assert "90 %" not in words["turned"]
    sample_files(tmp_path / "model", files[:1], tmp_path / "other")
    assert capsys.readouterr().err == ""
    (even,) = sample_files(tmp_path / "model", files[:1], tmp_path / "even", draws="stratified").written
    assert "fitted on independent draws: no promise for stratified ones" in capsys.readouterr().err
    assert json.loads((even / "summary.json").read_text())["coverage"]["promise"] is False
    assert "90 %" not in words["same"]


def test_going_on_after_a_calibration_is_refused(pixels: np.ndarray, tmp_path: Path) -> None:
    car = made()
    car.save(tmp_path / "model")
    file = saved(pixels, tmp_path / "scan.png")
    sample_files(tmp_path / "model", [file], tmp_path / "out", samples=5)
    Calibrated(None, Coverage((None, 0.7), 5, 0.9, 1.0, (29, 43)), {}).write(tmp_path / "model")
    with pytest.raises(InputError, match=r"scan: was sampled with coverage_levels None, not \[None, 0.7\]"):
        sample_files(tmp_path / "model", [file], tmp_path / "out", samples=5, resume=True)


def test_a_place_that_cannot_be_written_to_is_found_first(model: Path, pixels: np.ndarray, tmp_path: Path) -> None:
    file = saved(pixels, tmp_path / "scan.png")
    with pytest.raises(InputError, match=f"--out {file / 'out'}: nothing can be written in {file}") as caught:
        sample_files(model, [file], file / "out")
    assert "\n" not in str(caught.value)


def test_what_is_no_run_is_named_as_what_it_is(model: Path, pixels: np.ndarray, tmp_path: Path) -> None:
    file, store = saved(pixels, tmp_path / "scan.png"), write_blobs(tmp_path / "store", {"val": 3})
    for run, message in ((model / "model.safetensors", "is a file, no run"), (store, "is a store, no run")):
        with pytest.raises(InputError, match=message):
            sample_files(run, [file], tmp_path / "out")


def test_several_classes_large_and_tiny_images_and_many_samples(tmp_path: Path) -> None:
    car = made(3, 5)
    car.calibrated = Calibrated(None, Coverage((None, 0.3, None, 0.2, 0.01), 3, 0.9), {})
    car.save(tmp_path / "model")
    rng = np.random.default_rng(0)
    for name, size in (("tiny", (3, 1)), ("wide", (20, 500)), ("large", (230, 210))):
        saved(rng.integers(0, 256, (*size, 3), np.uint8), tmp_path / "images" / f"{name}.png")
    done = sample_files(tmp_path / "model", [tmp_path / "images"], tmp_path / "out", samples=50)
    assert [f.name for f in done.written] == ["large", "tiny", "wide"]
    for folder in done.written:
        size = Image.open(tmp_path / "images" / f"{folder.name}.png").size
        assert np.asarray(Image.open(folder / "mean.png")).shape == (*size[::-1], 3)
        assert Image.open(folder / "coverage.png").size == size
        assert maps_of(folder).shape == (50, *size[::-1])
        assert max(Image.open(folder / "sheet.png").size) < 5000


def test_the_most_different_samples_are_named_and_all_are_kept(model: Path, pixels: np.ndarray, tmp_path: Path) -> None:
    from stochseg.cli import main

    np.save(tmp_path / "a.npy", pixels)
    flags = ["--samples", "8", "--draws", "stratified", "--most-different", "3", "--out", str(tmp_path / "out")]
    assert main(["sample", str(model), str(tmp_path / "a.npy"), *flags]) == 0
    arrays = np.load(tmp_path / "out" / "a" / "samples.npz")
    facts = json.loads((tmp_path / "out" / "a" / "summary.json").read_text())
    assert arrays["maps"].shape[0] == 8
    assert facts["draws"] == "stratified"
    assert facts["most_different"]["samples"] == arrays["chosen"].tolist()
    assert sum(facts["most_different"]["shares"]) == pytest.approx(1)
    with pytest.raises(InputError, match="--most-different 3: must be from 1 to --samples 2"):
        sample_files(model, [tmp_path / "a.npy"], tmp_path / "other", samples=2, most_different=3)


def test_samples_in_orientations_are_those_of_the_model(pixels: np.ndarray, tmp_path: Path) -> None:
    car = made()
    car.save(tmp_path / "model")
    np.save(tmp_path / "a.npy", pixels)
    exact: dict[str, Any] = {"precision": "float32"}
    (folder,) = sample_files(
        tmp_path / "model", [tmp_path / "a.npy"], tmp_path / "out", 8, orientations=8, **exact
    ).written
    image = read_image(tmp_path / "a.npy", 1)[None]
    car.orientations = 8
    z = latents(0, [image_number(image[0])], 8, car.latent)
    assert np.array_equal(maps_of(folder), car.sample(image, z=z, tile="auto")[0].numpy())
    q = car.probabilities(image, tile="auto")[0].numpy()
    np.testing.assert_allclose(np.load(folder / "marginals.npz")["q"], q, atol=1e-6)
    assert json.loads((folder / "summary.json").read_text())["orientations"] == 8
    car.orientations = 1
    assert not np.array_equal(maps_of(folder), car.sample(image, z=z, tile="auto")[0].numpy())
    with pytest.raises(InputError, match="out/a: was sampled with orientations 8, not 1"):
        sample_files(tmp_path / "model", [tmp_path / "a.npy"], tmp_path / "out", 8, resume=True, **exact)
    car.calibrated = Calibrated((1.0, 1.0), Coverage((None, 0.7), 5, 0.9), {})
    car.save(tmp_path / "model")
    with pytest.raises(
        InputError, match="--orientations 2: the coverage levels of .*model were fitted on images as they are"
    ):
        sample_files(tmp_path / "model", [tmp_path / "a.npy"], tmp_path / "other", orientations=2)
    assert not (tmp_path / "other").exists()
