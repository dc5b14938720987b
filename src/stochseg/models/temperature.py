"""Temperatures of the calibrated marginals: one a class, applied to log q, and their fit by likelihood."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from stochseg.errors import InputError

REACH = math.log(20)
"""Temperatures are fitted between 1/20 and 20: where raters never disagree the best one would be 0."""


def temper(logits: Tensor, temperature: Sequence[float]) -> Tensor:
    """Probabilities with a temperature a class: softmax over c of logits_c / T_c, [b k ...] as given.

    The official code does this on the calibration network's logits, which the network may shift by any number at each
    pixel; with unequal temperatures the result depends on that shift. Give log q instead, as `CAR` does: with equal
    temperatures that is the same, and with unequal ones T_c stretches log q_c where class c is rare.

    >>> q = torch.tensor([[0.8, 0.2]])
    >>> temper(q.log(), (2.0, 2.0))  # the square roots, made to sum to 1
    tensor([[0.6667, 0.3333]])
    """
    scale = torch.tensor(temperature, dtype=logits.dtype, device=logits.device)
    return (logits / scale.view(-1, *[1] * (logits.ndim - 2))).softmax(1)


def check_temperature(temperature: Sequence[float], classes: int) -> tuple[float, ...] | None:
    """The temperatures as floats, None where all are 1; InputError for another number of them, or one not above 0."""
    found = tuple(float(t) for t in temperature)
    if len(found) != classes or not all(0 < t < math.inf for t in found):
        raise InputError(f"temperature {list(found)}: give {classes} numbers above 0, one a class")
    return None if all(t == 1 for t in found) else found


def fit_temperature(log_q: Tensor, votes: Tensor) -> tuple[float, ...]:
    """The temperatures of least negative log likelihood, one a class.

    log_q: [p k], of p pixels; votes: [p k], how many raters chose each class there (those of the ignore class 0).
    A class that nobody chose keeps 1: the likelihood alone would send it to 0. In 1/T the loss is convex, so there is
    one answer; LBFGS in float64 on log T, held within 1/20 and 20. Guo et al. 2017 (arXiv 1706.04599) with a
    temperature a class. Raises InputError where there is no vote.

    >>> q, chosen = torch.tensor([[0.9, 0.1], [0.1, 0.9]]), torch.tensor([[3.0, 1.0], [1.0, 3.0]])
    >>> [round(t, 3) for t in fit_temperature(q.log(), chosen)]  # log 9 / log 3: what brings 0.9 to 3/4
    [2.0, 2.0]
    """
    x, y = log_q.detach().cpu().double(), votes.detach().cpu().double()
    total = float(y.sum())
    if total == 0:
        raise InputError("no pixel to fit a temperature on: all are of the ignore class")
    chosen = y.sum(0) > 0
    stretch = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)

    def log_temperature() -> Tensor:
        return torch.where(chosen, REACH * torch.tanh(stretch / REACH), 0.0)

    optimizer = torch.optim.LBFGS(
        [stretch], max_iter=200, tolerance_grad=1e-10, tolerance_change=1e-13, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -(y * (x * torch.exp(-log_temperature())).log_softmax(1)).sum() / total
        loss.backward()
        return loss

    optimizer.step(closure)
    return tuple(log_temperature().detach().exp().tolist())
