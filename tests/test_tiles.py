"""Tiles under one z: geometry, blending against a slow implementation, no seam, agreement where tiles overlap, the choice."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from stochseg.baselines.ssn import StochasticSegmentationNetwork
from stochseg.config import BaselineConfig, CalibrationConfig, RefinementConfig
from stochseg.data.ambiguous import ambiguous_image, prepare_ambiguous
from stochseg.errors import InputError
from stochseg.models.car import CAR
from stochseg.models.interfaces import FIELD
from stochseg.sampling import sample, tiles
from stochseg.sampling.latents import latents
from stochseg.sampling.tiles import tiled_marginals, without_doubtful
from stochseg.sampling.tiling import Tiling, tiling_of
from stochseg.training.run import train

SIDE = 32


Net = Literal["film", "hypotheses", "paper"]


def small(choice: bool = False, net: Net = "film") -> CAR:
    """An untrained model whose samples differ much: blobs that its noise moves."""
    refinement = RefinementConfig(net, widths=(4, 8), width=4, choice=choice)
    model = CAR(2, 1, (SIDE, SIDE), CalibrationConfig(widths=(4, 8)), refinement)
    g = torch.Generator().manual_seed(1)
    for name, p in model.networks.named_parameters():
        if name in ("refinement.head.weight", "refinement.query.1.2.weight"):
            p.data = 100 * torch.randn(p.shape, generator=g)
        elif name.endswith("noise.weight"):
            p.data = 5 * torch.randn(p.shape, generator=g)
    return model


def cut(size: tuple[int, int], side: int = SIDE) -> Tiling:
    found = tiling_of(size, side, (SIDE, SIDE))
    assert found is not None
    return found


def mosaic(seed: int, count: int = 4) -> Tensor:
    """count x count generated patches side by side, moved so that their borders are not those of tiles: [1 1 h w]."""
    rng = np.random.default_rng(seed)
    rows = [np.concatenate([ambiguous_image(rng, SIDE).image[..., 0] for _ in range(count)], 1) for _ in range(count)]
    pixels = np.roll(np.concatenate(rows), rng.integers(0, SIDE, 2), (0, 1))
    return torch.from_numpy(pixels.astype(np.float32))[None, None] / 127.5 - 1


def test_tiles_cover_the_image_and_begin_where_cells_do() -> None:
    for length in (33, 40, 47, 48, 100, 513):
        axis = cut((length, 20)).rows
        assert axis.starts[0] == 0
        assert axis.starts[-1] + axis.tile == axis.padded
        assert length <= axis.padded < length + 4
        assert all(start % 4 == 0 for start in axis.starts)
        assert all(0 < b - a <= SIDE // 2 for a, b in zip(axis.starts, axis.starts[1:]))
        assert axis.cells * 4 == axis.padded
    assert cut((100, 20)).columns.starts == (0,)
    assert cut((100, 20)).columns.cells == FIELD
    window = cut((64, 64)).rows.window(torch.device("cpu"))
    assert torch.allclose(window[:16] + window[16:], torch.ones(16))
    assert tiling_of((32, 32), "auto", (32, 32)) is None
    assert tiling_of((64, 64), "auto", (52, 49)) is None  # tiles of 64
    assert tiling_of((64, 64), None, (32, 32)) is None
    for side in (0, 8, 100):
        with pytest.raises(InputError, match=f"--tiles {side}: .* multiple of 16"):
            tiling_of((64, 64), side, (32, 32))


def test_tiles_share_global_and_choice_and_the_noise_of_what_they_share() -> None:
    model, tiling = small(choice=True), cut((60, 90))
    z = latents(0, [7], 3, model.latent)
    wide = tiling.widened(z)
    assert torch.equal(wide, tiling.widened(z))
    assert wide.shape == (1, 3, model.latent + 15 * 23)
    assert abs(float(wide[..., model.latent :].std()) - 1) < 0.1
    part = model.refinement.field_part

    def fields(y: int, x: int) -> Tensor:
        own = tiling.seen_by_tile(wide[0], model.latent, part, y, x)
        assert torch.equal(own[:, : part.start], z[0, :, : part.start])
        assert torch.equal(own[:, part.stop :], z[0, :, part.stop :])
        return own[:, part].unflatten(1, (FIELD, FIELD))

    assert torch.equal(fields(16, 16)[:, :, 4:], fields(16, 32)[:, :, :4])
    assert torch.equal(fields(16, 16)[:, 3:], fields(28, 16)[:, :5])  # the last tile is moved by three cells
    assert not torch.equal(fields(0, 0), fields(0, 32))


def slow_blend(values: Callable[[Tensor], Tensor], image: Tensor, side: int) -> Tensor:
    """Pixel by pixel: the mean of what the tiles say that hold it, by products of squared sines."""
    h, w = image.shape[-2:]
    tiling = cut((h, w), side)
    padded = F.pad(image, (0, tiling.columns.padded - w, 0, tiling.rows.padded - h), mode="reflect")
    total, mass = np.zeros((2, h, w)), np.zeros((h, w))
    for y in tiling.rows.starts:
        for x in tiling.columns.starts:
            tile = values(padded[..., y : y + tiling.rows.tile, x : x + tiling.columns.tile])[0].double().numpy()
            for row in range(min(tiling.rows.tile, h - y)):
                for column in range(min(tiling.columns.tile, w - x)):
                    weight = 1.0
                    for place, axis in ((row, tiling.rows), (column, tiling.columns)):
                        weight *= np.sin(np.pi * (place + 0.5) / axis.tile) ** 2 if len(axis.starts) > 1 else 1
                    total[:, y + row, x + column] += weight * tile[:, row, column]
                    mass[y + row, x + column] += weight
    return torch.from_numpy(total / mass)


@pytest.mark.parametrize("size", [(37, 20), (20, 41), (50, 45)])
def test_blending_is_that_of_a_slow_loop(size: tuple[int, int]) -> None:
    image = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(0))

    def by_tile(x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Depends on the pixel and on the whole tile."""
        p = (x * x.mean((2, 3), keepdim=True)).clamp(0, 1)
        return torch.cat([p, 1 - p], 1)

    def by_pixel(x: Tensor, seen: Tensor | None = None) -> Tensor:
        return torch.cat([x, 1 - x], 1)

    tiling = cut(size)
    assert torch.allclose(tiled_marginals(by_tile, image, None, tiling)[0].double(), slow_blend(by_tile, image, SIDE))
    assert torch.allclose(tiled_marginals(by_pixel, image, None, tiling), by_pixel(image), atol=1e-6)


@pytest.mark.parametrize("net", ["film", "hypotheses"])
def test_an_image_of_one_tile_and_images_of_a_batch(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(choice=net == "film", net=net)
    images = torch.rand(3, 1, 44, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    z = latents(0, [1, 2, 3], 6, model.latent)
    whole = model.sample(images[..., :SIDE, :SIDE], z=z)
    assert torch.equal(model.sample(images[..., :SIDE, :SIDE], z=z, tile="auto"), whole)
    together = model.sample(images, z=z, tile="auto")
    assert together.shape == (3, 6, 44, 40)
    assert torch.equal(together, model.sample(images, z=z, tile=SIDE))
    for i in range(3):
        assert torch.equal(model.sample(images[i : i + 1], z=z[i : i + 1], tile="auto")[0], together[i])
    wide = cut((44, 40)).widened(z)
    assert torch.equal(model.sample(images, z=wide, tile="auto"), together)
    monkeypatch.setattr(tiles, "NUMBERS_AT_ONCE", 2 * 2 * SIDE * 40)  # samples two by two
    monkeypatch.setattr(tiles, "PIXELS_AT_ONCE", 2 * SIDE * SIDE)  # tiles one by one
    assert (model.sample(images, z=z, tile="auto") == together).float().mean() >= 0.9999


@pytest.mark.parametrize("net", ["film", "hypotheses", "paper"])
def test_samples_are_the_same_in_whatever_batch(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(net=net)
    images = torch.rand(5, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    z = latents(3, range(5), 8, model.latent)
    maps = model.sample(images, z=z)
    assert torch.equal(model.sample(images, z=z), maps)
    alone = torch.cat([model.sample(images[i : i + 1], z=z[i : i + 1]) for i in range(5)])
    again = torch.cat([model.sample(images[i : i + 1], z=z[i : i + 1]) for i in range(5)])
    assert torch.equal(alone, again)
    few = torch.cat([model.sample(images, z=part) for part in z.split(3, 1)], 1)
    monkeypatch.setattr(sample, "PIXELS_AT_ONCE", 2 * 32 * 32)
    for other in (alone, few, model.sample(images, z=z)):
        assert (other == maps).float().mean() >= 0.9999


def steps(maps: Tensor) -> tuple[float, float]:
    """How often the class changes where tiles begin or end, and at the middle between: other lines differ in how they lie
    to the strides of the networks."""
    at, middle = [], []
    for flat in (maps, maps.transpose(-1, -2)):
        changes = (flat[..., 1:] != flat[..., :-1]).double().mean((0, 1, 2))
        line = torch.arange(1, len(changes) + 1) % (SIDE // 2)
        at.append(changes[line == 0].mean())
        middle.append(changes[line == SIDE // 4].mean())
    return float(sum(at)), float(sum(middle))


def side_by_side(model: CAR, images: Tensor, n: int) -> Tensor:
    """What tiles without a method give: [b n h w] of tiles that do not overlap, each with noise of its own."""
    b, _, h, w = images.shape
    parts = images.unfold(2, SIDE, SIDE).unfold(3, SIDE, SIDE).permute(0, 2, 3, 1, 4, 5).reshape(-1, 1, SIDE, SIDE)
    maps = model.sample(parts, z=latents(1, range(len(parts)), n, model.latent))
    return maps.view(b, h // SIDE, w // SIDE, n, SIDE, SIDE).permute(0, 3, 1, 4, 2, 5).reshape(b, n, h, w)


def agreement(model: CAR, image: Tensor, one: Tensor, other: Tensor) -> float:
    """The share of pixels alike in what two tiles that overlap by half say of it, each by itself, under z [1 n ...]."""
    tiling = cut((image.shape[-2], image.shape[-1]))
    found = []
    for z, x in ((one, 32), (other, 48)):
        own = tiling.seen_by_tile(z[0], model.latent, model.refinement.field_part, 32, x)
        found.append(model.sample(image[..., 32 : 32 + SIDE, x : x + SIDE], z=own[None])[0])
    return float((found[0][..., SIDE // 2 :] == found[1][..., : SIDE // 2]).float().mean())


def check_seams(model: CAR, images: Tensor, n: int) -> None:
    z = latents(0, range(len(images)), n, model.latent)
    maps = model.sample(images, z=z, tile="auto")
    assert 0.02 < (maps > 0).float().mean() < 0.6
    at, middle = steps(maps)
    assert at < 1.2 * middle
    at, middle = steps(side_by_side(model, images, n))
    assert at > 1.2 * 1.2 * middle
    tiling = cut((images.shape[-2], images.shape[-1]))
    wide, foreign = tiling.widened(z), tiling.widened(latents(2, range(len(images)), n, model.latent))
    pairs = list(zip(images.split(1), wide.split(1), foreign.split(1)))
    shared = np.mean([agreement(model, image, one, one) for image, one, _ in pairs])
    apart = np.mean([agreement(model, image, one, other) for image, one, other in pairs])
    assert 1 - shared < 0.6 * (1 - apart)


def test_no_seam_and_agreement_where_tiles_overlap() -> None:
    check_seams(small(), torch.cat([mosaic(seed) for seed in range(4)]), 4)


@pytest.mark.slow
def test_no_seam_of_a_trained_model_on_generated_images(tmp_path: Path) -> None:
    prepare_ambiguous(tmp_path / "store", images=100, val=4, test=0, size=SIDE)
    settings = {
        "calibration.widths": (8, 16),
        "refinement.widths": (8, 16),
        "training.batch": 8,
        "training.ema": 0.9,
        "objective.samples": 2,
        "validation.images": 4,
        "validation.every": 1000,
        "precision": "float32",
    }
    run = train(data=tmp_path / "store", out=tmp_path / "run", config="demo", minutes=None, steps=200, **settings)
    check_seams(CAR.load(run), torch.cat([mosaic(seed) for seed in range(16)]), 4)


def test_regions_are_kept_or_left_out_as_a_whole() -> None:
    map_ = np.zeros((6, 8), np.uint8)
    map_[1:3, 1:3] = 1
    map_[3, 3] = 2  # touches by its corner
    map_[0, 6:] = 1
    empty = np.full((6, 8), 0.9)
    empty[:, :4] = 0.2
    empty[1, 1] = 0.7  # the first region's mean is 0.3
    assert np.array_equal(without_doubtful(map_, empty, 0.95), map_)
    strict = without_doubtful(map_, empty, 0.31)
    assert np.array_equal(strict, np.where(np.arange(8) < 5, map_, 0))
    assert not without_doubtful(map_, empty, 0.29).any()
    assert not without_doubtful(np.zeros_like(map_), empty, 0.5).any()


def doubtful(model: CAR, image: Tensor) -> None:
    """Give a model P(empty) that is near 0.5 over the tiles of an image, and shapes that are never empty by themselves."""
    parts = image.unfold(2, SIDE, SIDE).unfold(3, SIDE, SIDE).reshape(-1, 1, SIDE, SIDE)
    net = model.refinement
    last = net.presence[2]  # type: ignore[attr-defined]
    last.weight.data *= 0.1
    last.bias.data = torch.tensor([0.0, -30.0])
    found = net.encode(parts, model.probabilities(parts)).choice.empty.double().logit()
    last.weight.data[0] /= found.std()
    last.bias.data[0] = -found.median() / found.std()


def test_the_choice_cuts_nothing_and_is_one_for_the_image() -> None:
    model = small(choice=True)
    image = mosaic(0)
    doubtful(model, image)
    z = latents(0, [0], 1, model.latent).repeat(1, 5, 1)
    z[0, :, -1] = torch.tensor([8.0, 1.0, 0.0, -1.0, -8.0])
    wide = cut((128, 128)).widened(z[:, :1]).repeat(1, 5, 1)  # one shape, choices that differ
    wide[:, :, : model.latent] = z
    maps = model.sample(image, z=wide, tile="auto")[0]
    marked = [int((one > 0).sum()) for one in maps]
    assert marked == sorted(marked, reverse=True)
    assert marked[0] > marked[2] > marked[4] == 0
    regions, count = ndimage.label(maps[0].numpy(), np.ones((3, 3)))
    for one in maps[1:]:
        for number in range(1, count + 1):
            inside = one.numpy()[regions == number]
            assert inside.all() or not inside.any()


def test_a_hypothesis_is_the_same_in_every_tile() -> None:
    """Tiles that see the same give each sample the same shape, so the whole is as if it were one."""
    model = small(net="hypotheses")
    pattern = torch.rand(1, 1, SIDE // 2, SIDE // 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    image = pattern.repeat(1, 1, 5, 5)  # every tile begins where the pattern does
    z = latents(0, [0], 8, model.latent)
    tile = model.sample(image[..., :SIDE, :SIDE], z=z)[0]
    maps = model.sample(image, z=z, tile="auto")[0]
    one, next_ = (maps[:, i : i + SIDE // 2, i : i + SIDE // 2] for i in (SIDE // 2, SIDE))
    assert (one == next_).float().mean() > 0.97  # q is not quite the same near the border of the image
    assert (one[:, None] != one).float().mean() > 0.1
    assert torch.equal(tile.flatten(1).any(1), maps.flatten(1).any(1))


def test_methods_that_draw_an_image_as_a_whole_say_so() -> None:
    model = StochasticSegmentationNetwork(2, 1, (SIDE, SIDE), BaselineConfig(widths=(4, 8), rank=2))
    image = torch.zeros(1, 1, 40, 40)
    assert model.sample(image, 2, tile="auto").shape == (1, 2, 40, 40)
    assert model.probabilities(image, tile="auto").shape == (1, 2, 40, 40)
    for call in (lambda: model.sample(image, 2, tile=32), lambda: model.probabilities(image, tile=32)):
        with pytest.raises(InputError, match="--tiles 32: ssn draws an image as a whole"):
            call()
