"""Stratified noise is spread evenly and still normal; the samples that are shown stand for all best."""

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from scipy.stats import kstest

from stochseg.errors import InputError
from stochseg.metrics import pairwise_iou
from stochseg.sampling.choose import medoids, most_different
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
    assert torch.equal(maps[0, picked[0, 0]], kinds[1])  # the most frequent one first
    assert shares[0].tolist() == [5 / 8, 2 / 8, 1 / 8]
    by_kind = {maps[0, i].sum().item() + 10 * maps[0, i, 5, 5].item(): s for i, s in zip(picked[0], shares[0].tolist())}
    assert by_kind == {9: 5 / 8, 0: 2 / 8, 19: 1 / 8}
    every, shares = most_different(torch.zeros(1, 4, 3, 3, dtype=torch.uint8), 4, classes=2)
    assert sorted(every[0].tolist()) == [0, 1, 2, 3]
    assert shares.sum() == 1
    with pytest.raises(InputError, match="--most-different 9: must be from 1 to the 8 samples"):
        most_different(maps, 9, classes=2)


def cost(distances: np.ndarray, chosen: tuple[int, ...]) -> float:
    """The sum over maps of the distance to the nearest chosen one."""
    return float(sum(min(row[i] for i in chosen) for row in distances))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_medoids_are_those_that_no_swap_betters_and_nearly_the_best_of_all(count: int) -> None:
    best, found = [], []
    for seed in range(20):
        maps = torch.rand(1, 10, 5, 5, generator=torch.Generator().manual_seed(seed)).lt(0.4).to(torch.uint8)
        distances = 1 - pairwise_iou(maps, maps, 2)[0]
        chosen = tuple(medoids(distances, count))
        assert len(set(chosen)) == count
        table = distances.numpy()
        swaps = [(*chosen[:i], j, *chosen[i + 1 :]) for i in range(count) for j in set(range(10)) - set(chosen)]
        assert all(cost(table, swapped) >= cost(table, chosen) - 1e-9 for swapped in swaps)
        best.append(min(cost(table, each) for each in combinations(range(10), count)))
        found.append(cost(table, chosen))
        picked, shares = most_different(maps, count, classes=2)
        assert set(picked[0].tolist()) == set(chosen)
        nearest = table[:, picked[0].tolist()].argmin(1)
        assert shares[0].tolist() == [float((nearest == i).mean()) for i in range(count)]
    assert sum(found) <= 1.01 * sum(best)
