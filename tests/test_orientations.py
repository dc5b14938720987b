"""Samples of an image seen mirrored and turned."""

import numpy as np
import pytest
import torch

from stochseg import CAR
from stochseg.config import CalibrationConfig, RefinementConfig
from stochseg.errors import InputError
from stochseg.sampling.orientations import orientations_of, turned, turned_back


@pytest.fixture(autouse=True)
def _same_noise() -> None:
    torch.manual_seed(0)


def model_of(net: str, blackbox: str | None = None) -> CAR:
    return CAR(
        3,
        1,
        (32, 32),
        CalibrationConfig(widths=(8, 16)),
        RefinementConfig(net=net, widths=(8, 16)),  # type: ignore[arg-type]
        blackbox=blackbox,  # type: ignore[arg-type]
    )


def test_the_eight_orientations_are_the_symmetries_of_a_square() -> None:
    image = torch.arange(9).view(3, 3)
    found = {tuple(turned(image, o).flatten().tolist()) for o in range(8)}
    assert len(found) == 8
    assert all(torch.equal(turned_back(turned(image, o), o), image) for o in range(8))
    assert torch.equal(turned(image, 1), image.flip(1))


@pytest.mark.parametrize("net", ["hypotheses", "film"])
@pytest.mark.parametrize("count", [2, 8])
@torch.no_grad()
def test_each_sample_is_that_of_its_orientation(net: str, count: int) -> None:
    """An independent slow way: one image, one sample at a time, turned by hand. The image is not square."""
    model = model_of(net)
    images, z = torch.randn(3, 1, 32, 40), torch.randn(3, 6, model.latent)
    which = orientations_of(z, count)
    wanted = torch.empty(3, 6, 32, 40, dtype=torch.uint8)
    for i in range(3):
        for j in range(6):
            image = images[i : i + 1]
            o = int(which[i, j])
            image = image.flip(-1) if o % 2 else image
            drawn = model.sample(torch.rot90(image, o // 2, (2, 3)), z=z[i : i + 1, j : j + 1])[0, 0]
            drawn = torch.rot90(drawn, -(o // 2), (0, 1))
            wanted[i, j] = drawn.flip(-1) if o % 2 else drawn
    model.orientations = count
    assert (model.sample(images, z=z) == wanted).double().mean() > 0.999  # a batch may round otherwise than one image
    assert len(which.unique()) > 1


def test_orientations_are_evenly_drawn_and_a_function_of_z() -> None:
    z = torch.randn(400, 20, 1)
    which = orientations_of(z, 8)
    counts = np.bincount(which.flatten().numpy(), minlength=8)
    assert ((counts - 1000) ** 2 / 1000).sum() < 29.9  # chi squared of 7 degrees of freedom, p = 1e-4
    assert torch.equal(orientations_of(z[7:9, 3:5], 8), which[7:9, 3:5])


@torch.no_grad()
def test_q_no_longer_depends_on_the_orientation_and_is_the_mean() -> None:
    model, images = model_of("film"), torch.randn(2, 1, 32, 32)
    each = [turned_back(model.probabilities(turned(images, o)), o) for o in range(8)]
    assert not torch.allclose(each[0], each[3], atol=1e-4)
    model.orientations = 8
    q = model.probabilities(images)
    torch.testing.assert_close(q, torch.stack(each).mean(0))
    for o in range(8):
        torch.testing.assert_close(turned_back(model.probabilities(turned(images, o)), o), q)


@torch.no_grad()
def test_the_list_of_hypotheses_holds_every_sample_as_often_as_it_is_drawn() -> None:
    model, images = model_of("hypotheses"), torch.randn(1, 1, 32, 32)
    alone = model.hypotheses(images)
    model.orientations = 8
    maps, chances = model.hypotheses(images)
    assert maps.shape == (1, 8 * 9, 32, 32)
    assert torch.equal(maps[:, :9], alone[0])
    torch.testing.assert_close(chances[:, :9], alone[1] / 8)
    assert chances.sum().item() == pytest.approx(1)
    drawn = model.sample(images, n=2000, generator=torch.Generator().manual_seed(0))[0].flatten(1)
    kinds, which = torch.unique(maps[0].flatten(1), dim=0, return_inverse=True)
    expected = torch.zeros(len(kinds)).index_add(0, which, chances[0])
    counts = torch.stack([(drawn == kind).all(1).sum() for kind in kinds])
    assert counts.sum() == 2000
    assert ((counts / 2000 - expected).abs() < 5 * (expected / 2000).sqrt() + 1e-3).all()


def test_a_black_box_turns_with_its_image() -> None:
    model = model_of("film", "saved")
    images, ids = torch.randn(2, 1, 32, 40), torch.randint(0, 3, (2, 32, 40))
    model.orientations = 8
    z = torch.randn(2, 8, model.latent)
    soft = torch.nn.functional.one_hot(ids, 3).movedim(-1, 1).float()
    assert torch.equal(model.sample(images, z=z, blackbox=ids), model.sample(images, z=z, blackbox=soft))
    other = torch.zeros_like(ids)
    assert not torch.equal(model.probabilities(images, ids), model.probabilities(images, other))


def test_images_in_tiles() -> None:
    model = model_of("film")
    model.orientations = 8
    z = torch.randn(1, 8, model.latent)
    image = torch.randn(1, 1, 48, 80)
    maps = model.sample(image, z=z, tile=32)
    which = orientations_of(z, 8)[0].tolist()
    assert any(o // 2 % 2 for o in which)  # one lies on its side: other tiles
    model.orientations = 1
    for j, o in enumerate(which):
        alone = model.sample(turned(image, o), z=z[:, j : j + 1], tile=32)
        assert (turned_back(alone, o)[0, 0] == maps[0, j]).double().mean() > 0.999


def test_a_number_that_there_is_not_is_refused() -> None:
    model = model_of("film")
    with pytest.raises(InputError, match="--orientations 4: must be 1 .* 2 .* or 8"):
        model.orientations = 4
    model.orientations = 2
    with pytest.raises(InputError, match=r"z of shape \[1, 2, 3\]: must be"):
        model.sample(torch.zeros(1, 1, 32, 32), z=torch.zeros(1, 2, 3))
    with pytest.raises(InputError, match=r"images of shape \[0, 1, 32, 32\]"):
        model.sample(torch.zeros(0, 1, 32, 32))
