"""The energy loss: against slow loops, against the metric, and as what it is for: least at the right distribution."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stochseg import metrics
from stochseg.models.car import one_hot_maps
from stochseg.objectives.energy import Kernel, energy_loss, marginal_cross_entropy


def slow_distance(a: np.ndarray, b: np.ndarray, kernel: str, smooth: float) -> float:
    scores = []
    for c in range(1, len(a)):
        overlap = total = 0.0
        for p, q in zip(a[c].flat, b[c].flat):
            both = min(p, q) if kernel == "minmax" else p * q
            overlap += both
            total += p + q - both
        scores.append((overlap + smooth) / (total + smooth))
    return 1 - float(np.mean(scores))


def slow_energy(s: np.ndarray, y: np.ndarray, w: np.ndarray, kernel: str, smooth: float) -> float:
    n = len(s)
    near = sum(w[j] * slow_distance(a, y[j], kernel, smooth) for a in s for j in range(len(y))) / n
    among = sum(slow_distance(s[i], s[j], kernel, smooth) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return 2 * float(near) - among


@pytest.mark.parametrize("kernel", ["minmax", "product"])
@pytest.mark.parametrize("soft_labels", [False, True])
def test_equals_the_loops(kernel: Kernel, soft_labels: bool) -> None:
    g = torch.Generator().manual_seed(0)
    s = torch.rand(2, 3, 4, 5, 5, generator=g).softmax(2)
    y = torch.rand(2, 2, 4, 5, 5, generator=g).softmax(2)
    if not soft_labels:
        y = one_hot_maps(y.argmax(2), 4)
    w = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    got = energy_loss(s, y, w, kernel, smooth=0.7)
    wanted = [slow_energy(s[i].numpy(), y[i].numpy(), w[i].numpy(), kernel, 0.7) for i in range(2)]
    assert got.tolist() == pytest.approx(wanted, abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(2, 4), st.integers(2, 4))
def test_on_hard_maps_it_is_the_metric_up_to_the_raters_own_term(seed: int, n: int, r: int, k: int) -> None:
    g = torch.Generator().manual_seed(seed)
    s, y = (torch.randint(0, k, (3, m, 4, 4), generator=g) for m in (n, r))
    y[0] = 0  # an image that nobody marked
    parts = metrics.energy_distance_parts(s, y, classes=k, statistic="U")
    loss = energy_loss(one_hot_maps(s, k), one_hot_maps(y, k), smooth=1e-12)
    assert torch.allclose(loss.double() - parts.d_yy, parts.ged, atol=1e-6)


def test_a_missing_rater_changes_nothing() -> None:
    g = torch.Generator().manual_seed(0)
    s = torch.rand(2, 4, 2, 6, 6, generator=g).softmax(2)
    y = torch.randint(0, 2, (2, 3, 6, 6), generator=g)
    with_gap = torch.cat([y, torch.full_like(y[:, :1], 255)], 1)
    weights = torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0.0]]).expand(2, 4)
    assert torch.allclose(energy_loss(s, one_hot_maps(y, 2)), energy_loss(s, one_hot_maps(with_gap, 2), weights))


def test_it_is_least_at_the_true_frequencies() -> None:
    """Raters mark one of two shapes with p = .3 and .7: over all mixing shares of a sampler, .3 has the least loss."""
    maps = torch.zeros(2, 8, 8, dtype=torch.long)
    maps[0, 1:4, 1:4] = 1
    maps[1, 3:8, 3:8] = 1
    both = one_hot_maps(maps, 2)
    labels = both[torch.tensor([0] * 3 + [1] * 7)][None]

    def expected_loss(p: float) -> float:
        """Exact expectation over pairs of independent samples."""
        total = 0.0
        for i, a in enumerate((p, 1 - p)):
            for j, b in enumerate((p, 1 - p)):
                total += a * b * float(energy_loss(both[torch.tensor([i, j])][None], labels))
        return total

    shares = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0]
    losses = [expected_loss(p) for p in shares]
    assert shares[int(np.argmin(losses))] == 0.3


def test_minmax_sees_no_diversity_in_blur_and_product_does() -> None:
    blur = torch.full((1, 2, 2, 8, 8), 0.5)
    labels = one_hot_maps(torch.zeros(1, 1, 8, 8, dtype=torch.long), 2)
    d_minmax, d_product = (
        float(2 * _d_sy(blur, labels, k) - energy_loss(blur, labels, None, k)) for k in ("minmax", "product")
    )
    assert d_minmax == pytest.approx(0, abs=1e-6)
    assert d_product > 0.5


def _d_sy(s: Tensor, y: Tensor, kernel: str) -> float:
    return slow_distance(s[0, 0].numpy(), y[0, 0].numpy(), kernel, 1.0)


def test_gradients_of_both_kernels_are_right() -> None:
    g = torch.Generator().manual_seed(3)
    logits = torch.randn(1, 3, 2, 3, 3, generator=g, dtype=torch.float64, requires_grad=True)
    y = one_hot_maps(torch.randint(0, 2, (1, 2, 3, 3), generator=g), 2)
    for kernel in ("minmax", "product"):
        loss = energy_loss(logits.softmax(2), y, None, kernel).sum()  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad(loss, logits)
        step = 1e-2
        for index in [(0, 0, 1, 0, 0), (0, 2, 0, 1, 2)]:
            moved = logits.detach().clone()
            moved[index] += step
            up = energy_loss(moved.softmax(2), y, None, kernel).sum()  # type: ignore[arg-type]
            moved[index] -= 2 * step
            down = energy_loss(moved.softmax(2), y, None, kernel).sum()  # type: ignore[arg-type]
            assert float(gradient[index]) == pytest.approx(float(up - down) / (2 * step), abs=2e-4)


def test_marginal_cross_entropy_is_least_at_the_raters_mean() -> None:
    target = torch.tensor([0.25, 0.75])[None, :, None, None].expand(1, 2, 4, 4)
    losses = []
    for p in (0.6, 0.7, 0.75, 0.8, 0.9):
        samples = torch.tensor([1 - p, p])[None, None, :, None, None].expand(1, 5, 2, 4, 4)
        losses.append(float(marginal_cross_entropy(samples, target)))
    assert int(np.argmin(losses)) == 2
    assert losses[2] == pytest.approx(-(0.25 * np.log(0.25) + 0.75 * np.log(0.75)), abs=1e-5)
