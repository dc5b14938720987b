"""Predictions saved by any segmenter, and those of a run, into a store: read as they were written, or not at all."""

import json
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import stochseg
from stochseg.blackbox import import_predictions, predict
from stochseg.cli import main
from stochseg.data.batches import in_order
from stochseg.data.store import ClassInfo, open_store
from stochseg.data.store_writer import StoreWriter
from stochseg.errors import InputError

from .test_cli import refused

H, W = 12, 20
LABEL_ID_OF = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
NAMES = {"train": [f"aachen/aachen_000000_0000{i}" for i in (19, 20, 21)], "val": ["ulm/ulm_000001_000001"]}


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Street-like: 25 classes, of which 19 are in labels, 24 is ignored."""
    path = tmp_path_factory.mktemp("streets") / "store"
    rng = np.random.default_rng(0)
    classes = [ClassInfo(f"class {i}", (i, i, i)) for i in range(24)] + [ClassInfo("unlabelled", (0, 0, 0))]
    with StoreWriter(path, classes=classes, raters=1, ignore=24, group_name="city") as writer:
        for name, ids in NAMES.items():
            split = writer.add_split(name, ids, [i.split("/")[0] for i in ids], (H, W, 3), "made")
            for row in range(len(ids)):
                split.images[row] = rng.integers(0, 255, (H, W, 3))
                split.labels[row, 0] = rng.integers(0, 19, (H // 4, W // 4)).repeat(4, 0).repeat(4, 1)
                split.labels[row, 0, :2] = 24
    return path


@pytest.fixture
def store(untouched: Path, tmp_path: Path) -> Path:
    return shutil.copytree(untouched, tmp_path / "store")


def truth(store: Path) -> dict[str, np.ndarray]:
    """By id, what a perfect black box says: the label, and class 3 where nothing is labelled."""
    maps = {}
    for split in open_store(store).splits.values():
        for name, labels in zip(split.ids, split.labels):
            maps[name] = np.where(labels[0] == 24, 3, labels[0]).astype(np.uint8)
    return maps


def save(file: Path, array: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".png":
        Image.fromarray(array).save(file)
    else:
        np.save(file, array)


def saved(store: Path, folder: Path, name: Callable[[str], str], change: Any = lambda m: m) -> Path:
    for image, answer in truth(store).items():
        save(folder / name(image), change(answer))
    return folder


def blackbox_of(store: Path) -> dict[str, np.ndarray]:
    splits = open_store(store, verify=True).splits.values()
    return {name: m for s in splits if "blackbox" in s.extras for name, m in zip(s.ids, s.extras["blackbox"])}


def last(image: str) -> str:
    return image.split("/")[1]


@pytest.mark.parametrize(
    "name",
    [
        lambda i: f"{i}.png",
        lambda i: f"{last(i)}.npy",
        lambda i: f"{last(i)}_leftImg8bit.png",
        lambda i: f"out/{last(i)}-pred.npy",
        lambda i: f"{'val' if 'ulm' in i else 'train'}/{i}.png",
    ],
)
def test_files_are_matched_by_name(name: Callable[[str], str], store: Path, tmp_path: Path) -> None:
    folder = saved(store, tmp_path / "maps", name)
    save(folder / "aachen_000000_0000190.png", np.zeros((3, 3), np.uint8))  # another image, which the store lacks
    added = import_predictions(store, folder)
    assert [(a.split, a.images, a.soft, a.agreement) for a in added] == [
        ("train", 3, False, 1.0),
        ("val", 1, False, 1.0),
    ]
    found = blackbox_of(store)
    assert all(np.array_equal(found[image], answer) for image, answer in truth(store).items())


def test_a_palette_png_holds_its_indices(store: Path, tmp_path: Path) -> None:
    for image, answer in truth(store).items():
        picture = Image.fromarray(answer, mode="P")
        picture.putpalette(list(np.random.default_rng(0).integers(0, 255, 768)))
        picture.save(tmp_path / f"{last(image)}.png")
    import_predictions(store, tmp_path)
    found = blackbox_of(store)
    assert all(np.array_equal(found[image], answer) for image, answer in truth(store).items())


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mark", ["_leftImg8bit_prior_preds_trainIds", "prior_preds_trainIds_0"])
def test_the_published_predictions(packed: bool, mark: str, store: Path, tmp_path: Path) -> None:
    """SET/CITY/bb_preds/*prior_preds_trainIds*.npy with label ids, under other sets than the store's, beside arrays."""
    ids = np.array(LABEL_ID_OF)

    def label_ids(answer: np.ndarray) -> np.ndarray:
        found = ids[answer].astype(np.int64)
        found[0, :2] = -1, 4
        return found

    root = tmp_path / "cityscapes_bb_preds"
    saved(store, root, lambda i: f"test/{i.split('/')[0]}/bb_preds/{last(i)}{mark}.npy", label_ids)
    saved(store, root, lambda i: f"test/{i}_gtFine_trainIds.npy")
    source = root
    if packed:
        source = tmp_path / "cityscapes_bb_preds.tar.gz"
        with tarfile.open(source, "w:gz") as archive:
            archive.add(root, "cityscapes_bb_preds")
        shutil.rmtree(root)
    import_predictions(store, source)
    found = blackbox_of(store)
    for image, answer in truth(store).items():
        answer[0, :2] = 24  # what is not scored is the ignore class
        assert np.array_equal(found[image], answer)


def test_soft_arrays_come_within_half_a_step(store: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    soft = {}
    for image, answer in truth(store).items():
        logits = rng.normal(size=(19, H, W)) + 9 * (answer == np.arange(19)[:, None, None])
        soft[image] = np.exp(logits) / np.exp(logits).sum(0)
        save(tmp_path / "maps" / f"{last(image)}.npy", soft[image].astype(np.float16))
    added = import_predictions(store, tmp_path / "maps")
    assert added[0].soft
    assert added[0].agreement > 0.95
    split = open_store(store).split("train")
    assert split.extras["blackbox"].shape == (3, 19, H, W)
    seen = next(iter(in_order(split, 3, None, blackbox=True))).blackbox
    assert seen is not None
    for row, image in enumerate(split.ids):
        assert np.abs(seen[row].numpy() - soft[image]).max() < 0.5 / 255 + 1e-3
    model = stochseg.CAR(25, 3, (H, W), blackbox="saved")
    assert model.probabilities(torch.zeros(3, 3, H, W), seen).shape == (3, 25, H, W)


def test_a_table_of_ids(store: Path, tmp_path: Path) -> None:
    folder = saved(store, tmp_path / "maps", lambda i: f"{last(i)}.png", lambda m: (m + 100).astype(np.uint8))
    table = tmp_path / "ids.yaml"
    table.write_text("\n".join(f"{c + 100}: {c if c % 2 else f'class {c}'}" for c in range(18)) + "\n118: null\n")
    import_predictions(store, folder, ids=str(table))
    found = blackbox_of(store)
    for image, answer in truth(store).items():
        assert np.array_equal(found[image], np.where(answer == 18, 255, answer))
    for text, message in (
        ("1: tree", "1: tree is no class; there are 0 to 24"),
        ("a: 1", "'a' is no id"),
        ("- 1", "no mapping"),
        ("{", "not readable"),
    ):
        table.write_text(text)
        with pytest.raises(InputError, match=message):
            import_predictions(store, folder, ids=str(table), overwrite=True)
    with pytest.raises(InputError, match="neither auto, classes, labelIds nor a file"):
        import_predictions(store, folder, ids="trainIds")


def test_another_size_is_refused_or_resized(store: Path, tmp_path: Path) -> None:
    def larger(m: np.ndarray) -> np.ndarray:
        return m.repeat(4, 0).repeat(4, 1)

    folder = saved(store, tmp_path / "maps", lambda i: f"{last(i)}.png", larger)
    with pytest.raises(InputError, match=r"80x48 pixels, its image has 20x12; --resize"):
        import_predictions(store, folder)
    import_predictions(store, folder, resize=True)
    found = blackbox_of(store)
    assert all(np.array_equal(found[image], answer) for image, answer in truth(store).items())


def test_all_mistakes_are_in_one_list_and_nothing_changes(store: Path, tmp_path: Path) -> None:
    folder = saved(store, tmp_path / "maps", lambda i: f"{last(i)}.png")
    first, second, third = (folder / f"{last(i)}.png" for i in NAMES["train"])
    save(first, np.full((H, W), 40, np.uint8))
    save(second, np.zeros((H, H), np.uint8))
    third.unlink()
    (folder / "ulm_000001_000001.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    before = {f.name: f.read_bytes() for f in store.iterdir()}
    with pytest.raises(InputError) as caught:
        import_predictions(store, folder)
    text = str(caught.value)
    assert text.startswith("4 mistakes: ")
    for part in (
        "no prediction for 1 image of split 'train' (aachen/aachen_000000_000021)",
        f"{first}: holds the id 40; class ids are 0 to 24 and 255",
        f"{second}: 12x12 pixels, other proportions than its image, which has 20x12",
        "ulm_000001_000001.png: the PNG is truncated",
    ):
        assert part in text
    assert {f.name: f.read_bytes() for f in store.iterdir()} == before


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((19, H, W), np.uint8), "probabilities are floats"),
        (np.ones((19, H, W)), "do not add up to 1 over the classes; save the softmax"),
        (np.full((26, H, W), 1 / 26), "26 classes, there are 25"),
        (np.full((19, H, W), 1 / 19), r"probabilities of 19 classes, others are class ids"),
        (np.full((H, W), 0.5), "holds 0.5 in a map"),
        (np.full((H, W), np.nan), "holds nan in a map"),
        (np.zeros((2, 2, H, W)), r"\[2, 2, 12, 20\]; a map of ids is \[h w\]"),
        (np.array([{}]), "Object arrays cannot be loaded"),
        (np.full((H, W), -1), "holds the id -1"),
    ],
)
def test_what_is_no_prediction_is_named(array: np.ndarray, message: str, store: Path, tmp_path: Path) -> None:
    folder = saved(store, tmp_path / "maps", lambda i: f"{last(i)}.npy")
    np.save(folder / "ulm_000001_000001.npy", array)
    with pytest.raises(InputError, match=rf"1 mistake: .*ulm_000001_000001.npy: .*{message}"):
        import_predictions(store, folder)


def test_two_files_of_one_image_and_other_sources(store: Path, tmp_path: Path) -> None:
    folder = saved(store, tmp_path / "maps", lambda i: f"{last(i)}.png")
    save(folder / "aachen_000000_000019_b.npy", np.zeros((H, W), np.uint8))
    with pytest.raises(InputError, match=r"aachen/aachen_000000_000019 has 2 predictions"):
        import_predictions(store, folder)
    (tmp_path / "empty").mkdir()
    for path, message in (
        (tmp_path / "none", "is not there"),
        (tmp_path / "empty", "no prediction in it"),
        (store / "index.json", "neither a folder nor an archive"),
    ):
        with pytest.raises(InputError, match=message):
            import_predictions(store, path)
    other = tmp_path / "other"
    save(other / "bonn_1.png", np.zeros((H, W), np.uint8))
    with pytest.raises(
        InputError, match=r"no file is named as an image .*wanted is such as aachen/aachen_000000_000019"
    ):
        import_predictions(store, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m[:, ::-1], "when mirrored left to right"),
        (lambda m: m[::-1], "when mirrored top to bottom"),
        (lambda m: m[::-1, ::-1], "when turned by 180 degrees"),
    ],
)
def test_maps_that_lie_otherwise_than_their_images(change: Any, message: str, store: Path, tmp_path: Path) -> None:
    folder = saved(store, tmp_path / "maps", lambda i: f"{last(i)}.png", change)
    with pytest.raises(InputError, match=rf"split 'train': the maps agree with the labels at .* {message}"):
        import_predictions(store, folder)
    assert not blackbox_of(store)


def test_maps_of_other_images(store: Path, tmp_path: Path) -> None:
    answers = truth(store)
    for image, following in zip(NAMES["train"], [*NAMES["train"][1:], NAMES["train"][0]]):
        save(tmp_path / "maps" / f"{last(image)}.png", answers[following])
    with pytest.raises(InputError, match="when given to the next image"):
        import_predictions(store, tmp_path / "maps")


def test_only_the_splits_that_are_asked_for(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved(store, tmp_path / "maps", lambda i: f"{last(i)}.png")
    for image in NAMES["train"]:
        (folder / f"{last(image)}.png").unlink()
    code = main(["blackbox", "import", "--data", str(store), "--predictions", str(folder)])
    err = capsys.readouterr().err
    assert code == 0
    assert "nothing taken for train" in err
    assert "val: class maps of 1 image, right at 100.0% of the pixels" in err
    assert list(blackbox_of(store)) == NAMES["val"]
    again = ["blackbox", "import", "--data", store, "--predictions", folder]
    assert "split 'val' holds a black box already; pass --overwrite" in refused(capsys, *again)
    assert "no prediction for 3 images of split 'train'" in refused(
        capsys, *again, "--split", "train", "val", "--overwrite"
    )
    assert list(blackbox_of(store)) == NAMES["val"]
    assert main([str(a) for a in [*again, "--split", "val", "--overwrite"]]) == 0


def test_a_kill_at_any_moment_leaves_a_whole_store(store: Path, tmp_path: Path) -> None:
    """Killed before the index forgets, before the file is moved, before the index names it: never a wrong black box."""
    folder = saved(store, tmp_path / "maps", lambda i: f"{last(i)}.png")
    import_predictions(store, folder, ["val"])
    code = (
        "import os, signal, sys; from stochseg.data.add_blackbox import writing_blackbox\n"
        "from stochseg.data.store import open_store\n"
        "replace, count = os.replace, [0]\n"
        "def killing(a, b):\n"
        "    count[0] += 1\n"
        "    if count[0] == int(sys.argv[2]): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    replace(a, b)\n"
        "os.replace = killing\n"
        "with writing_blackbox(open_store(sys.argv[1]), {'val': (12, 20)}, 'made') as arrays: arrays['val'][:] = 5\n"
    )
    for moment, there in ((1, True), (2, False), (3, False)):
        copy = shutil.copytree(store, tmp_path / f"copy{moment}")
        ended = subprocess.run([sys.executable, "-c", code, copy, str(moment)], check=False)
        assert ended.returncode == -signal.SIGKILL
        assert bool(blackbox_of(copy)) == there, moment
    subprocess.run([sys.executable, "-c", code, copy, "99"], check=True)
    assert (blackbox_of(copy)["ulm/ulm_000001_000001"] == 5).all()


def test_a_network_of_ours_fills_the_store_and_a_model_goes_on_top(
    tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands as a user types them: train, predict, train on top, evaluate, sample from files."""
    data = shutil.copytree(tiny_store, tmp_path / "store")
    box, run = tmp_path / "box", tmp_path / "run"

    def done(*words: object) -> str:
        code = main([str(w) for w in words])
        out = capsys.readouterr()
        assert code == 0, out.err
        return out.err

    small = ["--training.batch", 6, "--validation.images", 3, "--validation.samples", 2]
    err = done("blackbox", "train", "--data", data, "--out", box, "--steps", 30, "--baseline.widths", "[8,16]", *small)
    assert f"stochseg blackbox predict {box} --data {data}" in err
    assert json.loads((box / "model/config.json").read_text())["method"] == "deterministic"
    assert "class_flips: false" in (box / "config.yaml").read_text()
    assert "stochseg blackbox train sets it to deterministic" in refused(
        capsys, "blackbox", "train", "--data", data, "--method", "ssn"
    )
    assert "--input.blackbox true" in done("blackbox", "predict", box, "--data", data)
    split = open_store(data, verify=True).split("val")
    assert split.extras["blackbox"].dtype == np.uint8
    network = stochseg.load(box)
    batch = next(iter(in_order(split, 9, None)))
    wanted = network.probabilities(batch.images)
    said = torch.from_numpy(np.array(split.extras["blackbox"]))  # where the machine has bfloat16, it is in that
    assert float((said == wanted.argmax(1)).float().mean()) > 0.99
    predict(box, data, ["val"], soft=True, precision="float32", overwrite=True)
    soft = open_store(data).split("val").extras["blackbox"]
    assert np.abs(soft / 255 - wanted.numpy()).max() < 0.5 / 255 + 1e-5
    predict(box, data, ["val"], precision="float32", overwrite=True)

    on_top = ["--config", "demo", "--calibration.net", "convnet", "--calibration.width", 8, "--input.blackbox", "true"]
    done("train", "--data", data, "--out", run, "--steps", 2, *on_top, "--refinement.widths", "[8,16]", *small)
    done("evaluate", run, "--data", data, "--split", "val", "--samples", 2)
    with pytest.raises(InputError, match="is itself built on a black box"):
        predict(run, data, overwrite=True)

    images, maps = tmp_path / "images", tmp_path / "maps"
    for row in range(2):
        save(images / f"scan{row}.png", np.array(split.images[row, ..., 0]))
        save(maps / f"scan{row}_pred.npy", wanted[row].argmax(0).numpy())
    sample = ["sample", run, images, "--samples", 2, "--precision", "float32", "--out"]
    assert "give --blackbox DIR" in refused(capsys, *sample, tmp_path / "a")
    done(*sample, tmp_path / "of_maps", "--blackbox", maps)
    done(*sample, tmp_path / "of_run", "--blackbox", box)
    for row in range(2):
        ours, theirs = (np.load(tmp_path / k / f"scan{row}/marginals.npz")["q"] for k in ("of_maps", "of_run"))
        assert np.allclose(ours, theirs, atol=1e-5)
    predict(box, data, soft=True, precision="float32", overwrite=True)
    seeing = tmp_path / "seeing"
    done("train", "--data", data, "--out", seeing, "--steps", 2, *on_top, "--refinement.widths", "[8,16]", *small)
    done(
        *["sample", seeing, images, "--samples", 2, "--precision", "float32", "--out"],
        tmp_path / "soft",
        "--blackbox",
        box,
    )
    q = stochseg.CAR.load(seeing).probabilities(batch.images[:1], blackbox=wanted[:1])
    assert np.allclose(np.load(tmp_path / "soft/scan0/marginals.npz")["q"], q[0], atol=1e-5)
    assert "built without a black box" in refused(
        capsys, "sample", box, images, "--out", tmp_path / "b", "--blackbox", maps
    )
    (maps / "scan1_pred.npy").unlink()
    assert main([str(w) for w in [*sample, tmp_path / "c", "--blackbox", maps, "--on-error", "skip"]]) == 3
    assert "scan1: has no prediction" in capsys.readouterr().err


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path) -> None:
    file = Path(__file__).parents[1] / "examples/blackbox.py"
    words = [file, "--out", tmp_path, "--minutes", "0.001", "--images", "32"]
    ended = subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True)
    first, second = ended.stdout.splitlines()
    assert re.fullmatch(r"GED of the samples \d\.\d{3}, of the likeliest map of q \d\.\d{3}", first)
    assert re.fullmatch(r"pixels marked in four samples of one image: \[\d+, \d+, \d+, \d+\]", second)
