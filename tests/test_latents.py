"""Stratified noise is spread evenly and still normal; the most different samples are those that differ most."""

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from scipy.stats import kstest

from stochseg.errors import InputError
from stochseg.sampling.choose import most_different
from stochseg.sampling.latents import latents


@pytest.mark.parametrize("n", [8, 16, 64])
def test_every_coordinate_of_stratified_noise_has_one_sample_in_each_nth(n: int) -> None:
    z = latents(0, [3, 4], n, 81, "stratified")
    strata = np.sort((ndtr(z.double().numpy()) * n).astype(int), axis=1)
    assert (strata == np.arange(n)[None, :, None]).all()


def test_each_stratified_sample_by_itself_is_standard_normal_and_images_differ() -> None:
    z = latents(1, range(600), 4, 6, "stratified").double().numpy()
    for sample in range(4):
        assert kstest(z[:, sample].ravel(), "norm").pvalue > 0.001
    assert abs(np.corrcoef(z[:, 0, 0], z[:, 0, 1])[0, 1]) < 0.15


def test_stratified_noise_depends_on_seed_and_image_alone() -> None:
    z = latents(3, [5, 9], 8, 11, "stratified")
    assert torch.equal(latents(3, [9], 8, 11, "stratified")[0], z[1])
    assert torch.equal(latents(3, [5, 9], 5, 11, "stratified"), z[:, :5])
    assert not torch.equal(latents(4, [5], 8, 11, "stratified")[0], z[0])
    with pytest.raises(InputError, match="--draws sobol: must be independent or stratified"):
        latents(0, [0], 4, 4, "sobol")  # type: ignore[arg-type]


def test_most_different_takes_one_of_each_kind_and_says_how_often_it_comes() -> None:
    kinds = torch.zeros(3, 6, 6, dtype=torch.uint8)
    kinds[1, :3, :3] = 1
    kinds[2, 3:, 3:] = 1
    maps = kinds[[1, 0, 1, 2, 1, 1, 0, 1]][None]
    picked, shares = most_different(maps, 3, classes=2)
    assert torch.equal(maps[0, picked[0]].sort(0).values, kinds[[1, 0, 2]].sort(0).values)
    assert torch.equal(maps[0, picked[0, 0]], kinds[1])  # the most typical one first
    by_kind = {maps[0, i].sum().item() + 10 * maps[0, i, 5, 5].item(): s for i, s in zip(picked[0], shares[0].tolist())}
    assert by_kind == {9: 5 / 8, 0: 2 / 8, 19: 1 / 8}
    every, shares = most_different(torch.zeros(1, 4, 3, 3, dtype=torch.uint8), 4, classes=2)
    assert sorted(every[0].tolist()) == [0, 1, 2, 3]
    assert shares.sum() == 1
    with pytest.raises(InputError, match="--most-different 9: must be from 1 to the 8 samples"):
        most_different(maps, 9, classes=2)
