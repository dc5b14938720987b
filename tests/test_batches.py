"""Batches: joint, seeded, and a function of the step alone."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stochseg.config import InputConfig
from stochseg.data.add_blackbox import writing_blackbox
from stochseg.data.ahead import Ahead
from stochseg.data.batches import Batch, Batches, Portion, augment, centre_crop_for, in_order, read_rows, warp
from stochseg.data.class_flips import draw_flips, flip_classes
from stochseg.data.store import ClassInfo, open_store
from stochseg.data.store_writer import StoreWriter
from stochseg.errors import InputError

ALL = InputConfig(crop=None, flips="both", turns=True, intensity=0.2)
GEOMETRY = InputConfig(crop=None, flips="both", turns=True, intensity=0)


def test_a_step_gives_the_same_batch_whatever_came_before(tiny_store: Path) -> None:
    split = open_store(tiny_store).split("train")
    first, second = (Batches(split, 5, ALL, seed=3) for _ in range(2))
    for step in (0, 1, 2, 3):
        first.at(step)
    again = second.at(3)
    assert torch.equal(first.at(3).images, again.images)
    assert torch.equal(first.at(3).labels, again.labels)
    assert not torch.equal(first.at(2).images, again.images)
    assert not torch.equal(Batches(split, 5, ALL, seed=4).at(3).images, again.images)


def test_batches_drawn_ahead_are_the_same_in_any_order(tiny_store: Path) -> None:
    batches = Batches(open_store(tiny_store).split("train"), 5, ALL, seed=3)
    with Ahead(batches.at, workers=2) as ahead:
        for step in (0, 1, 2, 7, 8, 3, 3):
            assert torch.equal(ahead.at(step).images, batches.at(step).images)

    def fails(step: int) -> Batch:
        if step == 2:
            raise OSError("the disk is gone")
        return batches.at(step)

    with Ahead(fails, workers=2) as ahead:
        ahead.at(0)
        ahead.at(1)
        with pytest.raises(OSError, match="the disk is gone"):
            ahead.at(2)


KILLED = """
import os, signal, torch
from stochseg.data.ahead import Ahead
from stochseg.data.batches import Batch
from stochseg.errors import RunError

def dies(step):
    if step == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return Batch(torch.zeros(1), torch.zeros(1))

with Ahead(dies, workers=1) as ahead:
    try:
        for step in range(3):
            ahead.at(step)
    except RunError as error:
        print(error)
    except RuntimeError as error:  # torch's own, on SIGCHLD, wherever the process then is: it names its own cure
        print(error)
"""


def test_a_killed_worker_ends_the_waiting_and_the_cure_is_named() -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, timeout=120)
    assert re.search("--training.workers 0|DataLoader worker .* (killed|exited)", ended.stdout), ended.stderr


def test_an_epoch_holds_each_image_at_most_once_and_epochs_differ(tiny_store: Path) -> None:
    batches = Batches(open_store(tiny_store).split("train"), 6, ALL, seed=0)
    epochs = [np.concatenate([batches.rows_at(e * 4 + i) for i in range(4)]) for e in range(2)]
    assert [sorted(e) for e in epochs] == [list(range(24))] * 2
    assert list(epochs[0]) != list(epochs[1])


def test_a_split_smaller_than_a_batch_is_repeated(tiny_store: Path) -> None:
    batches = Batches(open_store(tiny_store).split("val"), 20, ALL, seed=0)
    assert batches.at(0).images.shape == (20, 1, 32, 32)
    assert set(batches.rows_at(0)) == set(range(9))


def test_image_and_raters_move_together() -> None:
    """Labels are cut from the image itself, so after any flip and turn they still must be."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(64, 1, 16, 16, generator=generator)
    cuts = torch.tensor([0.3, 0.5, 0.7])
    labels = (images > cuts[None, :, None, None]).to(torch.uint8)
    before = images.clone()
    batch = augment(images, labels, GEOMETRY, generator)
    restored = (batch.images + 1) / 2
    areas = batch.labels.flatten(2).sum(2).argsort(1, descending=True)  # undo the shuffling of raters: largest first
    ordered = batch.labels.gather(1, areas[:, :, None, None].expand_as(batch.labels))
    assert torch.equal(ordered, (restored > cuts[None, :, None, None]).to(torch.uint8))
    moved = (restored - before).abs().amax((1, 2, 3)) > 1e-3
    assert 0.7 < moved.float().mean() < 0.99  # of 16 ways to flip and turn (8 distinct), one in eight changes nothing


def test_all_eight_orientations_occur_equally_often() -> None:
    corner = torch.zeros(4000, 1, 8, 8)
    corner[:, :, 0, 1] = 1.0
    batch = augment(corner, torch.zeros(4000, 1, 8, 8, dtype=torch.uint8), GEOMETRY, torch.Generator().manual_seed(1))
    places = batch.images.flatten(1).argmax(1)
    counts = torch.unique(places, return_counts=True)[1]
    assert len(counts) == 8
    assert ((counts - 500).abs() < 5 * 500**0.5).all()


def test_raters_are_shuffled_evenly() -> None:
    labels = torch.arange(4, dtype=torch.uint8)[None, :, None, None].expand(4000, 4, 8, 8).clone()
    batch = augment(torch.zeros(4000, 1, 8, 8), labels, GEOMETRY, torch.Generator().manual_seed(2))
    first = torch.bincount(batch.labels[:, 0, 0, 0].long(), minlength=4)
    assert ((first - 1000).abs() < 5 * 1000**0.5).all()


def test_crop_is_central_without_jitter_and_moves_with_it(tiny_store: Path) -> None:
    split = open_store(tiny_store).split("train")
    still = InputConfig(crop=16, jitter=0, flips="none", turns=False, intensity=0)
    batches = Batches(split, 8, still, seed=0)
    rows = batches.rows_at(0)
    wanted = torch.from_numpy(np.array(split.images[rows, 8:24, 8:24])).permute(0, 3, 1, 2) / 127.5 - 1
    assert torch.allclose(batches.at(0).images, wanted, atol=1e-6)
    moved = Batches(split, 8, InputConfig(crop=16, jitter=1, flips="none", turns=False, intensity=0), seed=0)
    assert not torch.allclose(moved.at(0).images, wanted, atol=1e-2)


def test_intensity_keeps_the_range() -> None:
    batch = augment(
        torch.rand(32, 1, 8, 8), torch.zeros(32, 1, 8, 8, dtype=torch.uint8), ALL, torch.Generator().manual_seed(0)
    )
    assert batch.images.amin() >= -1
    assert batch.images.amax() <= 1


def test_in_order_gives_every_image_once(tiny_store: Path) -> None:
    split = open_store(tiny_store).split("val")
    batches = list(in_order(split, 4, None))
    assert [len(b.images) for b in batches] == [4, 4, 1]
    assert torch.equal(torch.cat([b.labels for b in batches]), torch.from_numpy(np.array(split.labels)))


def test_crop_larger_than_the_images_is_refused(tiny_store: Path) -> None:
    with pytest.raises(InputError, match=r"--input.crop 64.*32x32.*choose 32 or less"):
        Batches(open_store(tiny_store).split("train"), 4, InputConfig(crop=64), seed=0)


def test_warp_turns_images_and_labels_together() -> None:
    """An image that is its own label stays so, at any angle and scale; its area grows by the square of the scale."""
    rows, columns = np.mgrid[:64, :64]
    square = torch.from_numpy((abs(rows - 31.5) < 9) & (abs(columns - 31.5) < 9)).to(torch.uint8)
    labels = torch.stack([square, torch.full_like(square, 255)]).expand(64, 2, 64, 64)
    config = InputConfig(crop=32, rotate=45, scale=0.25)
    images, turned = warp(square.float().expand(64, 1, 64, 64), labels, config, torch.Generator().manual_seed(0))
    assert images.shape == (64, 1, 32, 32)
    assert turned.shape == (64, 2, 32, 32)
    assert (turned[:, 1] == 255).all()  # a missing rater stays missing
    different = ((images[:, 0] > 0.5) != (turned[:, 0] == 1)).sum((1, 2))
    assert different.max() <= 18  # of a border of 72 pixels
    areas = turned[:, 0].sum((1, 2)).float() / 18**2
    assert 0.6 < areas.min() < 0.75
    assert 1.35 < areas.max() < 1.65
    assert (turned[0, 0] != turned[1, 0]).any()


def test_what_is_mirrored_beyond_the_border_is_marked_there_too() -> None:
    """A square at the border, an image that is its own label: turned, its mirror image comes in beyond the border."""
    rows, columns = np.mgrid[:64, :64]
    square = torch.from_numpy((rows >= 2) & (rows < 10) & (abs(columns - 31.5) < 9)).to(torch.uint8)
    config = InputConfig(crop=None, rotate=45, scale=0.5)
    images, turned = warp(
        square.float().expand(64, 1, 64, 64), square.expand(64, 1, 64, 64), config, torch.Generator().manual_seed(0)
    )
    different = ((images[:, 0] > 0.5) != (turned[:, 0] == 1)).sum((1, 2))
    assert different.max() <= 12  # of the border of a square or two
    assert (turned.sum((1, 2, 3)) > 180).any()  # of 144 pixels, magnified: the mirror image is there somewhere


def test_a_warp_by_nothing_is_the_centre_crop(tiny_store: Path) -> None:
    split = open_store(tiny_store).split("train")
    config = InputConfig(crop=16)
    whole = read_rows(split, np.arange(4), InputConfig(crop=None), None)
    warped = warp(*whole, config, torch.Generator())
    expected = read_rows(split, np.arange(4), config, None)
    torch.testing.assert_close(warped[0], expected[0], atol=1e-5, rtol=0)
    assert torch.equal(warped[1], expected[1])


def test_a_share_of_the_images_is_warped_and_the_others_are_cropped_as_they_are() -> None:
    """Exactly: not resampled, so as sharp as what evaluation sees. Two processes with half of the batch each agree."""
    images = torch.rand(200, 1, 48, 48, generator=torch.Generator().manual_seed(1))
    maps = (images > 0.5).to(torch.uint8)
    config = InputConfig(crop=32, rotate=45, scale=0.2, warped=0.25)
    warped, turned = warp(images, maps, config, torch.Generator().manual_seed(0))
    kept = (warped - images[..., 8:-8, 8:-8]).abs().amax((1, 2, 3)) < 1e-4
    assert 130 <= kept.sum() <= 170
    assert torch.equal(turned[kept], maps[kept][..., 8:-8, 8:-8])
    rows = slice(100, 200)
    half = warp(images[rows], maps[rows], config, torch.Generator().manual_seed(0), Portion(200, rows))
    assert torch.equal(half[0], warped[rows])


FLIPS = [(1, 3, 8 / 17), (2, 4, 5 / 17)]


@pytest.fixture(scope="module")
def flipping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stripes of classes 0, 1, 2, of which 1 and 2 flip into 3 and 4: 40 images of 16x24, one label each."""
    path = tmp_path_factory.mktemp("store") / "flipping"
    classes = [ClassInfo(str(i), (i, i, i)) for i in range(5)]
    with StoreWriter(path, classes=classes, raters=1, flips=FLIPS) as writer:
        split = writer.add_split("train", [str(i) for i in range(40)], ["one"] * 40, (16, 24, 3), "made")
        split.labels[:] = np.arange(24) // 8
        split.images[:] = (np.arange(24) // 8 * 100)[:, None]
    return path


def test_flips_are_drawn_afresh_for_whole_images_and_independently(flipping: Path) -> None:
    store = open_store(flipping)
    still = InputConfig(crop=None, flips="none", turns=False, intensity=0, label_draws=3)
    batches = Batches(store.split("train"), 40, still, seed=5, flips=store.flips)
    labels = torch.cat([batches.at(step).labels for step in range(60)])  # [2400 3 16 24]
    assert torch.equal(labels[:40], Batches(store.split("train"), 40, still, 5, store.flips).at(0).labels)
    stripes = labels.view(-1, 3, 16, 3, 8)
    assert (stripes == stripes[:, :, :1, :, :1]).all()  # the whole image takes one side
    side = stripes[:, :, 0, 1:, 0] >= 3  # [2400 3 draws 2 flips]
    n = side[..., 0].numel()
    assert (stripes[:, :, 0, 0, 0] == 0).all()
    for i, (_, target, p) in enumerate(FLIPS):
        assert set(stripes[:, :, 0, 1 + i, 0].unique().tolist()) == {1 + i, target}
        assert abs(side[..., i].double().mean() - p) < 4 * (p * (1 - p) / n) ** 0.5
    together = (side[..., 0] & side[..., 1]).double().mean()
    p = FLIPS[0][2] * FLIPS[1][2]
    assert abs(together - p) < 4 * (p * (1 - p) / n) ** 0.5
    alike = (side[:, 0] & side[:, 1]).double().mean(0)  # draws of one image are independent too
    for i, (_, _, p) in enumerate(FLIPS):
        assert abs(alike[i] - p**2) < 4 * (p**2 * (1 - p**2) / 2400) ** 0.5
    assert (np.array(store.split("train").labels) < 3).all()  # those of the store stay as they are


def test_draws_of_flips_change_nothing_else_of_a_batch(flipping: Path) -> None:
    store = open_store(flipping)
    config = InputConfig(crop=(16, 16), jitter=1, zoom=(0.5,), flips="both", intensity=0.2)
    plain = Batches(store.split("train"), 8, config, seed=1).at(3)
    flipped = Batches(store.split("train"), 8, config, 1, store.flips).at(3)
    more = Batches(store.split("train"), 8, replace(config, label_draws=4), 1, store.flips).at(3)
    assert torch.equal(plain.images, flipped.images)
    assert torch.equal(plain.images, more.images)
    undone = more.labels.clone()
    for source, target, _ in FLIPS:
        undone[undone == target] = source
    assert torch.equal(undone, plain.labels.expand(-1, 4, -1, -1))


def test_a_second_map_is_flipped_with_the_same_draws() -> None:
    labels = torch.randint(3, (200, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    blackbox = labels[:, 0].roll(1, 0)
    happens = draw_flips(FLIPS, 200, 1, torch.Generator().manual_seed(1))
    flipped, other = flip_classes(labels, FLIPS, happens), flip_classes(blackbox[:, None], FLIPS, happens)[:, 0]
    for i, (source, target, _) in enumerate(FLIPS):
        there = happens[:, 0, i]
        assert (flipped[there][labels[there] == source] == target).all()
        assert (other[there][blackbox[there] == source] == target).all()
        assert (other[~there] != target).all()
    assert torch.equal(other == 0, blackbox == 0)


def test_a_black_box_flips_with_the_label_where_asked(flipping: Path, tmp_path: Path) -> None:
    path = tmp_path / "seen"
    shutil.copytree(flipping, path)
    store = open_store(path)
    with writing_blackbox(store, {"train": (16, 24)}, "made") as arrays:
        arrays["train"][:] = store.split("train").labels[:, 0]
    split = open_store(path).split("train")
    plain = InputConfig(crop=None, jitter=1, zoom=(0.5,), turns=False, blackbox=True)
    for config, alike in ((plain, False), (replace(plain, flip_blackbox=True), True)):
        batch = Batches(split, 40, config, 0, FLIPS).at(0)
        assert batch.blackbox is not None
        assert torch.equal(batch.blackbox, batch.labels[:, 0]) == alike
        assert alike or batch.blackbox.max() == 2  # it knows of no flip
    with pytest.raises(InputError, match="--input.flip_blackbox True: must be false unless"):
        replace(plain, flip_blackbox=True, label_draws=2)


def test_flips_need_one_label_an_image(tiny_store: Path) -> None:
    with pytest.raises(InputError, match="has 2 raters and classes that flip"):
        Batches(open_store(tiny_store).split("train"), 4, ALL, seed=0, flips=[(1, 0, 0.5)])


def test_crops_need_not_be_square_and_are_enlarged_parts(flipping: Path) -> None:
    split = open_store(flipping).split("train")
    batch = Batches(split, 40, InputConfig(crop=(16, 20), turns=True, flips="none", intensity=0), seed=0).at(0)
    assert batch.images.shape == (40, 3, 16, 20)
    assert torch.equal(batch.labels[0, 0, 0], torch.arange(2, 22, dtype=torch.uint8) // 8)
    zoomed = InputConfig(crop=None, zoom=(0.5,), jitter=1, flips="none", turns=False, intensity=0)
    batches = [Batches(split, 40, zoomed, seed=0).at(step) for step in range(10)]
    labels = torch.cat([b.labels for b in batches])[:, 0, 0]
    whole = (labels == torch.arange(24) // 8).all(1)
    assert 0.4 < whole.float().mean() < 0.6  # half of the images are as they are, the others half as wide
    assert all(len(set(row.tolist())) <= 3 for row in labels[~whole])
    starts = {tuple(row.tolist()) for row in labels[~whole]}
    assert len(starts) > 8  # anywhere
    images = torch.cat([b.images for b in batches])[:, 0, 0]
    inner = (labels[:, 1:-1] == labels[:, 2:]) & (labels[:, 1:-1] == labels[:, :-2])
    wanted = labels[:, 1:-1][inner] * 100 / 127.5 - 1
    assert torch.allclose(images[:, 1:-1][inner], wanted, atol=1e-5)  # image and label move together


def test_evaluation_takes_the_centre_of_what_training_saw(flipping: Path) -> None:
    split = open_store(flipping).split("train")
    assert centre_crop_for((16, 24), split) is None
    assert centre_crop_for((16, 16), split) == (16, 16)
    assert centre_crop_for((32, 16), split) is None
    batch = next(iter(in_order(split, 4, (16, 16))))
    assert (batch.labels == torch.arange(4, 20) // 8).all()
    with pytest.raises(InputError, match=r"--input.crop \[16, 32\].*16x24; choose \[16, 24\] or less"):
        Batches(split, 4, InputConfig(crop=(16, 32)), seed=0)
