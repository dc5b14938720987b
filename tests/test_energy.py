"""The energy loss: against slow loops, against the metric, and as what it is for: least at the right distribution."""

from dataclasses import replace
from itertools import product
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stochseg import metrics
from stochseg.config import ObjectiveConfig
from stochseg.errors import InputError
from stochseg.metrics.conventions import Statistic, get_convention
from stochseg.metrics.flips import flip_distances
from stochseg.models.class_maps import one_hot_maps
from stochseg.objectives.calibration import mask_ignored
from stochseg.objectives.energy import (
    KERNELS,
    Kernel,
    empty_cross_entropy,
    energy_loss,
    marginal_brier,
    marginal_cross_entropy,
    mean_of_samples,
    nearest_cross_entropy,
)

STATISTICS: tuple[Statistic, ...] = ("U", "V")
every_kernel = pytest.mark.parametrize("kernel", KERNELS)


def slow_distance(a: np.ndarray, b: np.ndarray, kernel: str, smooth: float, ignore: int | None = None) -> float:
    scores = []
    for c in range(1, len(a)):
        if c == ignore:
            continue
        if kernel == "crps":
            scores.append(1 - np.mean([abs(p - q) for p, q in zip(a[c].flat, b[c].flat, strict=True)]))
            continue
        overlap = area = 0.0
        for p, q in zip(a[c].flat, b[c].flat, strict=True):
            overlap += p * q if kernel == "product" else min(p, q)
            area += p + q
        if kernel == "dice":
            scores.append((2 * overlap + 2 * smooth) / (area + 2 * smooth))
        else:
            scores.append((overlap + smooth) / (area - overlap + smooth))
    return 1 - float(np.mean(scores))


def slow_energy(
    s: np.ndarray,
    y: np.ndarray,
    w: np.ndarray,
    v: np.ndarray,
    spread: float,
    kernel: str,
    smooth: float,
    ignore: int | None,
) -> float:
    def mean(a: np.ndarray, b: np.ndarray, pairs: np.ndarray) -> float:
        d = [[slow_distance(one, other, kernel, smooth, ignore) for other in b] for one in a]
        return float((np.array(d) * pairs).sum() / pairs.sum())

    return 2 * mean(s, y, np.outer(v, w)) - spread * mean(s, s, np.outer(v, v) * (1 - np.eye(len(s))))


def soft_maps(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).softmax(2)


def distance(a: Tensor, b: Tensor, kernel: Kernel, smooth: float = 0.0) -> Tensor:
    """d of each map of a [m k h w] and its partner in b."""
    return energy_loss(torch.stack([a, a], 1), b[:, None], None, kernel, smooth, spread=0.0) / 2


@every_kernel
@pytest.mark.parametrize("hard_labels", [False, True])
@pytest.mark.parametrize("ignore", [None, 0, 1, 2, 3])
def test_equals_the_loops(kernel: Kernel, hard_labels: bool, ignore: int | None) -> None:
    s, y = soft_maps(2, 3, 4, 5, 5), soft_maps(2, 2, 4, 5, 5, seed=1)
    if hard_labels:
        y = one_hot_maps(y.argmax(2), 4)
    w, v = torch.tensor([[0.5, 0.5], [3.0, 0.0]]), torch.tensor([[1.0, 1.0, 1.0], [0.2, 0.7, 0.4]])
    got = energy_loss(s, y, w, kernel, 0.7, ignore, 0.9, v)
    wanted = []
    for i in range(2):
        maps, labels, of_labels, of_maps = (x[i].numpy() for x in (s, y, w, v))
        wanted.append(slow_energy(maps, labels, of_labels, of_maps, 0.9, kernel, 0.7, ignore))
    assert got.tolist() == pytest.approx(wanted, abs=1e-5)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_on_hard_maps_it_is_the_metric_up_to_the_raters_own_term(data: st.DataObject) -> None:
    """Several classes, missing raters, weights, an ignored class, with and without smoothing: U, and V by `spread`."""
    n, r, k, seed = (data.draw(st.integers(low, high)) for low, high in ((2, 6), (2, 4), (2, 4), (0, 10**6)))
    kernel: Kernel = data.draw(st.sampled_from(["minmax", "product", "dice"]))
    smooth = data.draw(st.sampled_from([0.0, 1.0, 0.3]))
    ignore = data.draw(st.sampled_from([None, *range(k)])) if k > 2 else None
    g = torch.Generator().manual_seed(seed)
    s, y = ((torch.randint(0, 2 * k, (3, m, 4, 4), generator=g) - k).clamp(min=0) for m in (n, r))
    y[0], s[0, 0] = 0, 0  # an image that nobody marked, and a sample without anything
    weights = torch.rand(3, r, generator=g) + 0.1 if data.draw(st.booleans()) else None
    if r > 2:
        y[1:, 0] = 255
    of_samples = torch.rand(3, n, generator=g) + 0.1 if data.draw(st.booleans()) else None

    rule = replace(get_convention("ccdm"), smooth=smooth, similarity="dice" if kernel == "dice" else "iou")
    distances = metrics.set_distances(s, y, k, rule, ignore)
    u, v = (metrics.energy_distance_of(distances, t, of_samples, weights) for t in STATISTICS)

    present = (y != 255).flatten(2).any(2)
    w = None if weights is None else weights * present
    a, b = one_hot_maps(s, k), one_hot_maps(y, k)
    if ignore is not None:
        ignored = (y == ignore).any(1)
        a, b = mask_ignored(a, ignored, ignore), mask_ignored(b, ignored, ignore) * present[..., None, None, None]
    scored = torch.ones(3, dtype=torch.bool) if ignore is None else ~ignored.flatten(1).all(1)

    def same(losses: Tensor, scores: Tensor) -> bool:
        """The scores leave an image of ignored pixels alone out, the loss counts it as 0."""
        expected = torch.where(scored, scores, 0)
        return bool(scores[~scored].isnan().all()) and torch.allclose(losses, expected, rtol=0, atol=1e-6)

    loss = energy_loss(a, b, w, kernel, smooth, ignore, sample_weights=of_samples).double()
    assert same(loss, 2 * u.d_ys - u.d_ss)
    assert same(torch.where(scored, loss - u.d_yy, 0), u.ged)
    if of_samples is None:
        as_v = energy_loss(a, b, w, kernel, smooth, ignore, spread=(n - 1) / n).double()
    else:
        shares = of_samples / of_samples.sum(1, keepdim=True)
        own = 1 - shares.square().sum(1)
        as_v = energy_loss(a, b, w, kernel, smooth, ignore, own, of_samples).double()
    assert same(torch.where(scored, as_v - v.d_yy, 0), v.ged)


def test_crps_of_hard_maps_is_the_brier_score_of_their_frequencies() -> None:
    g = torch.Generator().manual_seed(0)
    s, y = (torch.randint(0, 3, (2, m, 6, 6), generator=g) for m in (5, 4))
    a, b = one_hot_maps(s, 3), one_hot_maps(y, 3)
    p, q = a.mean(1), b.mean(1)
    own = 2 * (q * (1 - q))[:, 1:].mean((1, 2, 3))  # mean |y - y'| with the pairs of a map with itself
    brier = (p - q).square()[:, 1:].mean((1, 2, 3))
    assert torch.allclose(energy_loss(a, b, None, "crps", spread=4 / 5) - own, 2 * brier, atol=1e-6)


@every_kernel
def test_a_missing_rater_changes_nothing(kernel: Kernel) -> None:
    g = torch.Generator().manual_seed(0)
    s = soft_maps(2, 4, 2, 6, 6)
    y = torch.randint(0, 2, (2, 3, 6, 6), generator=g)
    with_gap = torch.cat([y, torch.full_like(y[:, :1], 255)], 1)
    weights = torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0.0]]).expand(2, 4)
    without = energy_loss(s, one_hot_maps(y, 2), None, kernel)
    assert torch.allclose(energy_loss(s, one_hot_maps(with_gap, 2), weights, kernel), without)
    assert torch.allclose(energy_loss(s, one_hot_maps(with_gap, 2), None, kernel), without)
    assert torch.allclose(energy_loss(s, one_hot_maps(y, 2), 7 * torch.ones(2, 3), kernel), without)


@every_kernel
def test_it_counts_pixels_in_full_precision_under_autocast(kernel: Kernel) -> None:
    s, y = soft_maps(1, 3, 2, 40, 40), one_hot_maps(soft_maps(1, 2, 2, 40, 40, seed=1).argmax(2), 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = energy_loss(s, y, None, kernel)
    assert torch.equal(got, energy_loss(s, y, None, kernel))


def all_maps(pixels: int, classes: int) -> Tensor:
    """One-hot [m k 1 pixels]."""
    return one_hot_maps(torch.tensor(list(product(range(classes), repeat=pixels)))[:, None], classes)


def centred_kernel(maps: Tensor, kernel: Kernel, smooth: float) -> np.ndarray:
    """-d of all pairs without means: positive semidefinite exactly where d is of negative type."""
    m = len(maps)
    d = distance(maps.double().repeat_interleave(m, 0), maps.double().repeat(m, 1, 1, 1), kernel, smooth)
    of_pairs = d.view(m, m).numpy()
    means = of_pairs.mean(0)
    return np.asarray(means[:, None] + means[None] - means.mean() - of_pairs)


@every_kernel
@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_every_kernel_is_of_negative_type_and_iou_tells_all_distributions_apart(kernel: Kernel, smooth: float) -> None:
    """Over all maps of few pixels; then over soft maps. A direction of eigenvalue 0 is a difference it cannot see."""
    unseen = {"minmax": (0, 0), "product": (0, 0), "dice": (0, 2), "crps": (4, 11)}
    for pixels, blind in zip((3, 4), unseen[kernel], strict=True):
        values = np.linalg.eigvalsh(centred_kernel(all_maps(pixels, 2), kernel, smooth))
        assert values[0] > -1e-12
        assert (values < 1e-10).sum() == 1 + blind  # the constant is no difference between distributions
    assert np.linalg.eigvalsh(centred_kernel(all_maps(2, 3), kernel, smooth))[0] > -1e-12
    grid = torch.tensor(list(product((0.0, 0.3, 0.5, 1.0), repeat=3)))
    assert np.linalg.eigvalsh(centred_kernel(torch.stack([1 - grid, grid], 1)[:, :, None], kernel, smooth))[0] > -1e-12


PAIRS = [[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 1, 0, 1]]


@every_kernel
def test_what_of_maps_of_one_area_a_kernel_sees(kernel: Kernel) -> None:
    """Half {1, 2} and half {3, 4}, against half {1, 3} and half {2, 4}: only IoU sees that these differ."""
    one, other = (one_hot_maps(torch.tensor(maps)[:, None], 2) for maps in (PAIRS[:2], PAIRS[2:]))
    v = {"spread": 0.5, "smooth": 0.0}  # two maps that are the whole distribution
    between = energy_loss(one[None], other[None], None, kernel, **v)  # type: ignore[arg-type]
    itself = energy_loss(one[None], one[None], None, kernel, **v)  # type: ignore[arg-type]
    if kernel in ("dice", "crps"):
        assert float(between) == pytest.approx(float(itself), abs=1e-6)
    else:
        assert float(between) > float(itself) + 0.1


def test_blur_is_diversity_to_product_alone() -> None:
    blur = torch.full((1, 2, 8, 8), 0.5)
    for kernel in KERNELS:
        d = float(distance(blur, blur, kernel, smooth=1.0))
        assert d > 0.5 if kernel == "product" else d == pytest.approx(0, abs=1e-6)


def two_modes() -> Tensor:
    """One-hot [2 k 8 8] of two shapes, one pixel in common."""
    maps = torch.zeros(2, 8, 8, dtype=torch.long)
    maps[0, 1:4, 1:4] = 1
    maps[1, 3:8, 3:8] = 1
    return one_hot_maps(maps, 2)


@every_kernel
def test_its_expectation_is_least_at_the_true_frequencies(kernel: Kernel) -> None:
    """Raters mark one of two shapes with p = .3 and .7: of all mixing shares of a sampler, .3 has the least loss; with
    spread below 1 one nearer to the likelier shape has."""
    both = two_modes()
    labels = both[torch.tensor([0] * 3 + [1] * 7)][None]

    def best(spread: float) -> float:
        """Of the exact expectation over pairs of independent samples."""
        shares = [i / 20 for i in range(21)]
        pairs = torch.tensor(list(product((0, 1), repeat=2)))
        loss = energy_loss(both[pairs], labels.expand(4, -1, -1, -1, -1), None, kernel, spread=spread)
        likely = [torch.tensor([p, 1 - p])[pairs].prod(1) for p in shares]
        return shares[int(np.argmin([float((loss * each).sum()) for each in likely]))]

    assert best(1.0) == 0.3
    assert best(0.8) == 0.25


def test_free_maps_become_the_two_modes_as_often_as_the_raters_draw_them() -> None:
    """Ten maps of free pixels, all alike but for weak noise; as they are the whole distribution, spread is 9/10."""
    both = two_modes()
    logits = (0.1 * torch.randn(1, 10, 2, 8, 8, generator=torch.Generator().manual_seed(0))).requires_grad_()
    optimizer = torch.optim.Adam([logits], 0.05)
    for _ in range(300):
        optimizer.zero_grad()
        energy_loss(logits.softmax(2), both[None], torch.tensor([[0.3, 0.7]]), "product", spread=0.9).sum().backward()
        optimizer.step()
    pixels_off = (one_hot_maps(logits.detach()[0].argmax(1), 2)[:, None] - both).abs()[:, :, 1].sum((2, 3))
    assert (pixels_off == 0).sum(0).tolist() == [3, 7]


@every_kernel
def test_two_free_maps_and_their_weights_become_the_modes_and_their_frequencies(kernel: Kernel) -> None:
    """From blurred shapes, thought equally likely: what an explicit choice between hypotheses learns."""
    both = two_modes()
    noise = torch.randn(1, 2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    logits, choice = (both + 0.2 * noise).requires_grad_(), torch.zeros(1, 2, requires_grad=True)
    optimizer = torch.optim.Adam([logits, choice], 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        p = choice.softmax(1)
        loss = energy_loss(
            logits.softmax(2), both[None], torch.tensor([[0.3, 0.7]]), kernel, sample_weights=p, whole=True
        )
        loss.sum().backward()
        optimizer.step()
    assert torch.equal(one_hot_maps(logits.detach()[0].argmax(1), 2), both)
    assert choice.softmax(1)[0, 0].item() == pytest.approx(0.3, abs=0.01)


@every_kernel
@pytest.mark.parametrize("ignore", [None, 0, 2])
def test_the_cross_entropy_is_that_of_the_nearest_shape_by_loops(kernel: Kernel, ignore: int | None) -> None:
    logits = torch.randn(3, 4, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    labels = one_hot_maps(soft_maps(3, 3, 3, 4, 5, seed=1).argmax(2), 3)
    labels[0, 1] = 0  # a missing rater
    labels[1, 2, 1:], labels[1, 2, 0] = 0, 1  # one who marks nothing
    labels[2, :, 1:], labels[2, :, 0] = 0, 1  # and an image where nobody does
    found = nearest_cross_entropy(logits, labels, None, kernel, 0.7, ignore)
    shapes = logits.softmax(2).numpy()
    wanted = []
    for image, raters, there in ((0, [0, 2], 2), (1, [0, 1], 3)):
        each = []
        for j in raters:
            y = labels[image, j].numpy()
            far = [slow_distance(s, y, kernel, 0.7, ignore) for s in shapes[image]]
            p = shapes[image, int(np.argmin(far))]
            each += [sum(-np.log(p[c, a, b]) for c, a, b in zip(*y.nonzero(), strict=True) if c != ignore) / 20]
        wanted.append(sum(each) / there)
    torch.testing.assert_close(found, torch.tensor([*wanted, 0.0], dtype=torch.float32), atol=1e-6, rtol=1e-5)
    hidden = torch.zeros(3, 4, 5, dtype=torch.bool)
    hidden[:, 1:3] = True
    cut = nearest_cross_entropy(logits, labels, None, kernel, 0.7, ignore, ignored=hidden)
    rows = [0, 3]
    alone = nearest_cross_entropy(logits[..., rows, :], labels[..., rows, :], None, kernel, 0.7, ignore)
    if kernel != "crps":  # whose distance is a mean over pixels: the nearest may be another
        torch.testing.assert_close(cut, alone / 2)


def test_a_shape_that_is_never_drawn_learns_a_rare_answer_where_it_is_the_nearest() -> None:
    """Both shapes near the frequent mode, the second held to be impossible: to the energy loss it does not exist."""
    both = two_modes()
    raters = torch.stack([both[0]] * 9 + [both[1]])[None]
    for weight, wanted in ((0.0, 0), (1.0, 1)):
        logits = torch.stack([3 * both[0], 2 * both[0]])[None].clone().requires_grad_()
        logits.data[0, 1] += both[1]
        optimizer = torch.optim.Adam([logits], 0.05)
        for _ in range(200):
            optimizer.zero_grad()
            shapes = logits.softmax(2)
            loss = energy_loss(shapes, raters, sample_weights=torch.tensor([[1.0, 0.0]]), whole=True)
            (loss + weight * nearest_cross_entropy(logits, raters)).sum().backward()
            optimizer.step()
        maps = one_hot_maps(logits.detach()[0].argmax(1), 2)
        assert torch.equal(maps[0], both[0])
        assert torch.equal(maps[1], both[wanted])


def test_a_shape_that_is_sure_of_the_wrong_answer_is_turned_round() -> None:
    """Through the softmax of sure pixels the energy loss has next to no gradient: the cross entropy has."""
    both = two_modes()
    logits = (40 * both[0][None, None]).repeat(1, 2, 1, 1, 1).requires_grad_()
    energy_loss(logits.softmax(2), both[1][None, None]).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-9
    nearest_cross_entropy(logits, both[1][None, None]).sum().backward()
    assert logits.grad.abs().max() > 1e-3


@every_kernel
@pytest.mark.parametrize("smooth", [0.0, 0.7])
def test_the_choice_of_the_empty_map_enters_by_its_exact_expectation(kernel: Kernel, smooth: float) -> None:
    """Of two draws, each is the empty map with probability p, else one of the samples, never the same one twice."""
    s, y = soft_maps(2, 3, 3, 4, 4), one_hot_maps(soft_maps(2, 2, 3, 4, 4, seed=1).argmax(2), 3)
    w, p = torch.tensor([[0.5, 0.5], [3.0, 0.0]]), torch.tensor([0.3, 0.8])
    got = energy_loss(s, y, w, kernel, smooth, spread=0.9, empty=p)
    nothing = one_hot_maps(torch.zeros(1, 4, 4, dtype=torch.long), 3)[0].numpy()
    for i in range(2):
        maps, labels, of_labels, empty = list(s[i].numpy()), y[i].numpy(), w[i].numpy(), float(p[i])

        def to_labels(a: np.ndarray, labels: np.ndarray = labels, of_labels: np.ndarray = of_labels) -> float:
            each = [slow_distance(a, b, kernel, smooth) for b in labels]
            return float(np.average(each, weights=of_labels))

        near = empty * to_labels(nothing) + (1 - empty) * np.mean([to_labels(a) for a in maps])
        two = np.mean([slow_distance(a, b, kernel, smooth) for j, a in enumerate(maps) for b in maps[:j]])
        one = np.mean([slow_distance(a, nothing, kernel, smooth) for a in maps])
        apart = (1 - empty) ** 2 * two + 2 * empty * (1 - empty) * one
        assert float(got[i]) == pytest.approx(2 * near - 0.9 * apart, abs=1e-5)


@every_kernel
@pytest.mark.parametrize("smooth", [0.0, 0.7])
@pytest.mark.parametrize("empty", [None, 0.3])
def test_the_loss_of_a_whole_distribution_is_its_expectation(
    kernel: Kernel, smooth: float, empty: float | None
) -> None:
    """Every pair of draws with its probability, the same map twice among them."""
    s, y = soft_maps(2, 3, 3, 4, 4), one_hot_maps(soft_maps(2, 2, 3, 4, 4, seed=1).argmax(2), 3)
    w, p = torch.tensor([[0.5, 0.5], [3.0, 0.0]]), torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.9, 0.1]])
    e = None if empty is None else torch.full((2,), empty)
    got = energy_loss(s, y, w, kernel, smooth, spread=0.9, sample_weights=p, empty=e, whole=True)
    nothing = one_hot_maps(torch.zeros(1, 4, 4, dtype=torch.long), 3)[0].numpy()
    for i in range(2):
        maps = [nothing, *s[i].numpy()]
        chances = [empty or 0.0, *((1 - (empty or 0.0)) * p[i].numpy())]
        near = sum(
            c * np.average([slow_distance(a, b, kernel, smooth) for b in y[i].numpy()], weights=w[i].numpy())
            for c, a in zip(chances, maps)
        )
        apart = sum(
            c * d * slow_distance(maps[j], maps[k], kernel, smooth)
            for j, c in enumerate(chances)
            for k, d in enumerate(chances)
            if j != k
        )
        assert float(got[i]) == pytest.approx(2 * near - 0.9 * apart, abs=1e-5)


def test_the_probability_of_the_empty_map_becomes_its_frequency() -> None:
    """Raters mark nothing in 3 of 10 maps, one shape in 7; P(empty) and one free map, drawn twice, learn both."""
    shape = two_modes()[0]
    nothing = one_hot_maps(torch.zeros(1, 8, 8, dtype=torch.long), 2)[0]
    labels = torch.stack([nothing] * 3 + [shape] * 7)[None]
    noise = torch.randn(1, 1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    logits, logit = (shape + 0.2 * noise).requires_grad_(), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([logits, logit], 0.05)
    for _ in range(300):
        optimizer.zero_grad()
        energy_loss(logits.softmax(2).expand(-1, 2, -1, -1, -1), labels, empty=logit.sigmoid()).sum().backward()
        optimizer.step()
    assert torch.equal(one_hot_maps(logits.detach()[0].argmax(1), 2)[0], shape)
    assert float(logit.detach().sigmoid()) == pytest.approx(0.3, abs=0.01)


@every_kernel
@pytest.mark.parametrize("smooth", [0.0, 1.0])
@pytest.mark.parametrize("hard_labels", [False, True])
def test_gradients_are_right(kernel: Kernel, smooth: float, hard_labels: bool) -> None:
    """Away from kinks, which are where two pixels are equal: among random maps there are none."""
    s = soft_maps(2, 3, 3, 2, 2, dtype=torch.float64).requires_grad_()
    y = soft_maps(2, 2, 3, 2, 2, seed=1, dtype=torch.float64)
    y = one_hot_maps(y.argmax(2), 3).double() if hard_labels else y.requires_grad_()
    w = torch.tensor([[0.3, 0.7], [1.0, 0.0]], dtype=torch.float64)
    v = torch.tensor([[1.0, 2.0, 1.0], [0.2, 0.3, 0.5]], dtype=torch.float64, requires_grad=True)
    p = torch.tensor([0.2, 0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, y, v: energy_loss(s, y, w, kernel, smooth, None, 0.9, v), (s, y, v))
    assert torch.autograd.gradcheck(lambda s, p: energy_loss(s, y, w, kernel, smooth, None, 0.9, None, p), (s, p))
    whole = lambda s, v, p: energy_loss(s, y, w, kernel, smooth, None, 0.9, v, p, whole=True)  # noqa: E731
    assert torch.autograd.gradcheck(whole, (s, v, p))


@every_kernel
@pytest.mark.parametrize("smooth", [0.0, 1.0])
@pytest.mark.parametrize("level", [0.0, 1e-38, 1e-12, 1e-7, 1e-3, 0.5, 1.0])
def test_gradients_are_finite(kernel: Kernel, smooth: float, level: float) -> None:
    """Equal maps, nearly and wholly empty and full, against raters who see nothing, and who see all."""
    s = torch.stack([torch.full((1, 3, 8, 8), 1 - level), torch.full((1, 3, 8, 8), level)], 2).requires_grad_()
    y = one_hot_maps(torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)], 1).long(), 2)
    for labels, spread in ((y, 1.0), (y[:, :1], 0.5), (s.detach()[:, :1], 1.0)):
        loss = energy_loss(s, labels, None, kernel, smooth, spread=spread).sum()
        (gradient,) = torch.autograd.grad(loss, s)
        assert loss.isfinite()
        assert gradient.isfinite().all()
        if level == smooth == 0 and kernel != "crps":
            assert (gradient == 0)[:, :, 1].all() == (labels.shape[1] == 1)  # 0/0 counts as 1, and has no slope


def test_what_it_refuses() -> None:
    y = one_hot_maps(torch.zeros(1, 2, 4, 4, dtype=torch.long), 2)
    with pytest.raises(InputError, match="kernel is 'cosine'; choose one of minmax"):
        energy_loss(y, y, kernel="cosine")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="samples hold 1 map"):
        energy_loss(y[:, :1], y)
    with pytest.raises(InputError, match="2 classes with ignore=1 leave none"):
        energy_loss(y, y, ignore=1)
    with pytest.raises(InputError, match=r"--objective.spread 0: must be above 0"):
        ObjectiveConfig(spread=0)
    assert get_args(get_type_hints(ObjectiveConfig)["kernel"]) == KERNELS


def test_the_metric_grants_every_pair_smooth_pixels_of_overlap() -> None:
    samples = torch.tensor([[[[0, 1, 1, 0]], [[0, 0, 0, 0]]]])
    labels = torch.tensor([[[[0, 0, 1, 1]], [[0, 0, 0, 0]]]])

    def d_ys(**changes: object) -> list[list[float]]:
        rule = replace(get_convention("ccdm"), **changes)  # type: ignore[arg-type]
        found: list[list[float]] = metrics.set_distances(samples, labels, convention=rule).ys[0].tolist()
        return found

    near = pytest.approx
    assert d_ys(smooth=1.0) == [near([1 - 2 / 4, 1 - 1 / 3]), near([1 - 1 / 3, 0])]
    assert d_ys(smooth=1.0, similarity="dice") == [near([1 - 4 / 6, 1 - 2 / 4]), near([1 - 2 / 4, 0])]
    assert d_ys(smooth=1.0, absent=0.0) == [near([1 - 2 / 4, 1 - 1 / 3]), near([1 - 1 / 3, 1])]
    rule = replace(get_convention("ccdm"), smooth=1.0)
    assert metrics.hungarian_iou(samples, labels, convention=rule).tolist() == near([(2 / 4 + 1) / 2])
    rule = replace(get_convention("d-persona"), smooth=1.0)  # matches by Dice
    assert metrics.hungarian_iou(samples, labels, convention=rule).tolist() == near([(4 / 6 + 1) / 2])
    pooled = replace(get_convention("values"), smooth=0.5)
    d = metrics.energy_distance_parts(samples, labels, convention=pooled).d_ys
    assert d.tolist() == near([1 - 2 * (1 + 4 * 0.5) / (8 + 4 * 1)])
    with pytest.raises(InputError, match=r"smooth is -1.0; give a number of pixels from 0 up"):
        d_ys(smooth=-1.0)


def test_the_metric_with_flips_is_smoothed_as_its_modes_are() -> None:
    g = torch.Generator().manual_seed(0)
    samples, label = torch.randint(0, 3, (2, 3, 4, 4), generator=g), torch.randint(0, 3, (2, 1, 4, 4), generator=g)
    label[label == 2] = 0
    rule = replace(get_convention("ccdm"), smooth=1.5, with_flips=None)
    exact = flip_distances(samples, label, [(1, 2, 0.3)], 3, rule)
    modes = torch.cat([label, label.where(label != 1, 2)], 1)
    each = metrics.set_distances(samples, modes, 3, rule).ys
    assert torch.allclose(exact.ys[..., 0], each @ torch.tensor([0.7, 0.3], dtype=each.dtype))


def test_marginal_cross_entropy_is_least_at_the_raters_mean() -> None:
    target = torch.tensor([0.25, 0.75])[None, :, None, None].expand(1, 2, 4, 4)
    losses = []
    for p in (0.6, 0.7, 0.75, 0.8, 0.9):
        samples = torch.tensor([1 - p, p])[None, None, :, None, None].expand(1, 5, 2, 4, 4)
        losses.append(float(marginal_cross_entropy(samples.mean(1), target)))
    assert int(np.argmin(losses)) == 2
    assert losses[2] == pytest.approx(-(0.25 * np.log(0.25) + 0.75 * np.log(0.75)), abs=1e-5)


def test_the_mean_of_samples_counts_the_empty_map_with_its_probability() -> None:
    samples = soft_maps(2, 3, 3, 4, 4)
    nothing = one_hot_maps(torch.zeros(2, 4, 4, dtype=torch.long), 3)
    p = torch.tensor([0.0, 0.25])
    mean = mean_of_samples(samples, p)
    assert torch.allclose(mean[0], samples[0].mean(0))
    assert torch.allclose(mean[1], 0.75 * samples[1].mean(0) + 0.25 * nothing[1])
    assert torch.equal(mean_of_samples(samples), samples.mean(1))


def test_cross_entropy_of_the_empty_map_is_least_at_the_share_of_raters() -> None:
    """Of three raters present two mark nothing; class 2, which is ignored, marks nothing either."""
    labels = torch.zeros(1, 4, 4, 4, dtype=torch.long)
    labels[0, 0, 1, 1], labels[0, :3, 2, 2], labels[0, 3] = 1, 2, 255
    weights = torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0.0]])
    shares = torch.linspace(0.05, 0.95, 19)
    losses = [float(empty_cross_entropy(p[None], one_hot_maps(labels, 3), weights, ignore=2)) for p in shares]
    assert float(shares[int(np.argmin(losses))]) == pytest.approx(2 / 3, abs=0.03)
    assert min(losses) == pytest.approx(-(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3)), abs=0.01)


def test_counted_present_and_ignored_pixels_are_those_maps_cut_out_by_hand() -> None:
    s, y = soft_maps(3, 3, 5, 6, 6), soft_maps(3, 2, 5, 6, 6, seed=1)
    present = torch.tensor([[0, 1, 1, 1, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    ignored = torch.zeros(3, 6, 6, dtype=torch.bool)
    ignored[:, :, :2] = True
    got = energy_loss(s, y, smooth=0.5, counted=[3, 0], present=present, ignored=ignored)
    for i, classes in enumerate(([3], [0], [0, 3])):  # no class present: all that are counted
        maps = [torch.cat([torch.zeros_like(x[:, :, :1]), x[:, :, classes]], 2)[i : i + 1, ..., 2:] for x in (s, y)]
        assert float(got[i]) == pytest.approx(float(energy_loss(*maps, smooth=0.5)), abs=1e-5)


@pytest.mark.parametrize("kernel", ["minmax", "dice"])
def test_blocks_are_sums_of_their_pixels(kernel: Kernel) -> None:
    """Sides of 5 pixels have blocks of 2, 2 and 1; on maps that are constant in blocks nothing changes, for min(s, y)."""
    s, y = soft_maps(2, 3, 3, 5, 5), soft_maps(2, 2, 3, 5, 5, seed=1)
    edges = [slice(0, 2), slice(2, 4), slice(4, 5)]
    sums = [torch.stack([x[..., a, b].sum((-2, -1)) for a in edges for b in edges], -1)[..., None, :] for x in (s, y)]
    assert torch.allclose(
        energy_loss(s, y, kernel=kernel, block=2), energy_loss(*sums, torch.ones(2, 2), kernel=kernel), atol=1e-6
    )
    large = [x.repeat_interleave(2, -1).repeat_interleave(2, -2) for x in (s, y)]
    assert torch.allclose(energy_loss(*large, kernel=kernel, block=2), energy_loss(*large, kernel=kernel), atol=1e-6)
    with pytest.raises(InputError, match="block is 2; the product kernel"):
        energy_loss(s, y, kernel="product", block=2)


@pytest.mark.parametrize("kernel", ["minmax", "dice", "crps"])
def test_a_label_of_one_pixel_a_block_is_compared_as_any_other(kernel: Kernel) -> None:
    """Its blocks hold 0 and 1 alone, as single pixels do, those of a sample up to 4. Beside a thick label nothing changes."""
    label = torch.zeros(2, 1, 2, 8, 8)
    label[0, 0, 1, ::2, ::2] = 1
    label[1, 0, 1, :4] = 1
    samples = torch.zeros(2, 2, 2, 8, 8)
    samples[:, 0, 1, 2:6] = 1
    samples[:, 1, 1, :, 2:6] = 1
    for maps in (label, samples):
        maps[:, :, 0] = 1 - maps[:, :, 1]
    both = energy_loss(samples, label, kernel=kernel, block=2)
    assert torch.allclose(energy_loss(samples[:1], label[:1], kernel=kernel, block=2), both[:1])
    blocks = [F.avg_pool2d(x[0, :, 1:], 2, divisor_override=1) for x in (samples, label)]
    (a, b), y = blocks[0].flatten(1), blocks[1].flatten()
    distances = []
    for s, t in ((a, y), (b, y), (a, b)):
        shared, areas = float(torch.minimum(s, t).sum()), float(s.sum() + t.sum())
        ratio = {"minmax": (shared + 1) / (areas - shared + 1), "dice": 2 * (shared + 1) / (areas + 2)}
        distances.append((areas - 2 * shared) / 64 if kernel == "crps" else 1 - ratio[kernel])
    assert float(both[0]) == pytest.approx(distances[0] + distances[1] - distances[2], abs=1e-5)


@pytest.mark.parametrize("empty", [None, torch.tensor([0.3, 0.0], dtype=torch.float64)])
def test_brier_of_the_mean_is_unbiased_whatever_the_number_of_samples(empty: Tensor | None) -> None:
    """Averaged over all draws of 2 or of 3 samples from a known population it is the squared distance of the two means."""
    population = soft_maps(2, 4, 3, 4, 4, dtype=torch.float64)
    target = soft_maps(2, 1, 3, 4, 4, seed=1, dtype=torch.float64)[:, 0]
    mean = mean_of_samples(population, empty)
    wanted = float((mean - target).square().sum(1).mean())
    for n in (2, 3):
        draws = list(product(range(4), repeat=n))
        found = [float(marginal_brier(population[:, list(draw)], target, empty)) for draw in draws]
        assert np.mean(found) == pytest.approx(wanted, abs=1e-9)


def test_brier_leaves_out_ignored_pixels_and_needs_two_samples() -> None:
    s, t = soft_maps(1, 3, 3, 4, 4), soft_maps(1, 1, 3, 4, 4, seed=1)[:, 0]
    t[..., :2] = 0
    half = marginal_brier(s[..., 2:], t[..., 2:])
    assert float(marginal_brier(s, t)) == pytest.approx(float(half) / 2, abs=1e-6)
    with pytest.raises(InputError, match="takes 2 or more"):
        marginal_brier(s[:, :1], t)


def test_brier_does_not_prefer_soft_maps_as_the_logarithm_of_few_samples_does() -> None:
    """A class that is there in one draw of five: hard draws of it against the same blurred map each time."""
    target = torch.tensor([0.8, 0.2])[None, :, None, None]
    g = torch.Generator().manual_seed(0)
    hard = one_hot_maps((torch.rand(4000, 2, 1, 1, generator=g) < 0.2).long(), 2)
    soft = target[:, None].expand(4000, 2, 2, 1, 1)
    t = target.expand(4000, 2, 1, 1)
    assert float(marginal_brier(hard, t) - marginal_brier(soft, t)) == pytest.approx(0, abs=0.02)
    assert marginal_cross_entropy(hard.mean(1), t) - marginal_cross_entropy(soft.mean(1), t) > 1
