"""Generalised energy distance between the samples of a model and the raters of an image.

    GED = 2 E d(S, Y) - E d(S, S') - E d(Y, Y'),  d = 1 - IoU  (Kohl et al. 2018, arXiv 1806.05034, section 3)

It is 0 where the two distributions are one, and a squared MMD, so a proper score. With the V statistic E d(S, S') and
E d(Y, Y') include the pairs of a map with itself, which adds d_ss / n + d_yy / r (means over distinct pairs) to the
unbiased U statistic: a V number falls as n grows, and only numbers of equal n and r compare.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from stochseg.errors import InputError
from stochseg.metrics.conventions import Convention, Flip, Statistic, get_convention
from stochseg.metrics.distances import SetDistances, set_distances
from stochseg.metrics.inputs import check_weights, exact_dtype


class EnergyDistance(NamedTuple):
    """The generalised energy distance of each image and its parts, each float64 [b]."""

    ged: Tensor
    """2 d_ys - d_ss - d_yy. At least 0 with V, but for rounding; around 0 and below it too with U."""
    d_ys: Tensor
    """Mean distance between samples and labels: how far off the samples are, spread aside."""
    d_ss: Tensor
    """Mean distance between samples, by the statistic asked for."""
    d_yy: Tensor
    """Mean distance between labels, by the statistic asked for."""
    diversity: Tensor
    """Mean distance between distinct samples, whatever the statistic; nan of a single sample."""

    @property
    def distance_to_labels(self) -> Tensor:
        """d_ys by the name used in tables."""
        return self.d_ys


def generalized_energy_distance(
    samples: Tensor,
    labels: Tensor,
    classes: int = 2,
    convention: str | Convention = "car",
    ignore: int | None = None,
    statistic: Statistic | None = None,
    sample_weights: Tensor | None = None,
    label_weights: Tensor | None = None,
    flips: Sequence[Flip] | None = None,
) -> Tensor:
    """Generalised energy distance of each image, float64 [b], lower is better; see the module for the equation.

    samples: integer [b n h w]. labels: integer [b r h w]; a map filled with 255 is a missing rater and has weight 0.
    (bool masks and one-hot [b n k h w] are taken as well.) ignore: class id whose pixels in any present label are left
    out of the image. statistic: "V" or "U", in place of the convention's own. sample_weights, label_weights: [n] or
    [b n], [r] or [b r], from 0 up, need not add up to 1; default equal. flips: (from, to, probability) of classes that
    flip in the labels [b 1 h w], which are given unflipped: the score is that against all 2^m modes, exactly.
    nan where an image's pixels are all ignored, and where a convention that leaves absent classes out finds none in an
    image's labels: count those and say so.
    Raises InputError for arguments that do not fit, and for "U" with a single sample or rater, which it cannot score.

    >>> samples = torch.tensor([[[[0, 1]], [[0, 1]]]])  # one image, two samples of 1 x 2 pixels
    >>> labels = torch.tensor([[[[0, 1]], [[0, 0]]]])  # two raters, one of whom sees nothing
    >>> generalized_energy_distance(samples, labels).tolist()  # 2 * 0.5 - 0 - 0.5
    [0.5]
    """
    return energy_distance_parts(
        samples, labels, classes, convention, ignore, statistic, sample_weights, label_weights, flips
    ).ged


def energy_distance_parts(
    samples: Tensor,
    labels: Tensor,
    classes: int = 2,
    convention: str | Convention = "car",
    ignore: int | None = None,
    statistic: Statistic | None = None,
    sample_weights: Tensor | None = None,
    label_weights: Tensor | None = None,
    flips: Sequence[Flip] | None = None,
) -> EnergyDistance:
    """The generalised energy distance with its parts; arguments and errors as in `generalized_energy_distance`."""
    rule = replace(get_convention(convention, flips is not None), matching="none")  # columns of modes cost 2^m
    distances = set_distances(samples, labels, classes, rule, ignore, flips)
    statistic = rule.statistic if statistic is None else statistic
    return energy_distance_of(distances, statistic, sample_weights, label_weights)


def energy_distance_of(
    distances: SetDistances,
    statistic: Statistic = "V",
    sample_weights: Tensor | None = None,
    label_weights: Tensor | None = None,
) -> EnergyDistance:
    """The same from distances at hand, where several scores share them."""
    ys, ss, yy, present = distances[:4]
    if statistic not in ("V", "U"):
        raise InputError(f"statistic is '{statistic}'; choose 'V' (self pairs stay) or 'U' (they are left out)")
    of_samples = sample_weights_of(sample_weights, distances)
    of_labels = label_weights_of(label_weights, present)
    if statistic == "U" and bool(((of_samples > 0).sum(1) < 2).any()):
        raise InputError("the U statistic leaves self pairs out, and one sample has no other; draw more, or take 'V'")
    if statistic == "U" and not distances.exact and bool(((of_labels > 0).sum(1) < 2).any()):
        raise InputError("the U statistic leaves self pairs out, and an image has one rater alone; take 'V'")
    sizes_ys, sizes_ss, sizes_yy = distances.sizes or (None, None, None)
    d_ys = _weighted_mean(ys, of_samples[:, :, None] * of_labels[:, None, :], sizes_ys)
    d_ss = mean_within(ss, of_samples, statistic, sizes_ss)
    d_yy = mean_within(yy, of_labels, "V" if distances.exact else statistic, sizes_yy)
    diversity = mean_within(ss, of_samples, "U", sizes_ss)
    parts = (2 * d_ys - d_ss - d_yy, d_ys, d_ss, d_yy, diversity)
    return EnergyDistance(*(part.where(distances.defined, torch.nan) for part in parts))


def mean_within(distances: Tensor, weights: Tensor, statistic: Statistic, sizes: Tensor | None = None) -> Tensor:
    """Weighted mean distance [b] within a set, [b m m] with members' weights [b m]: all pairs (V) or distinct ones (U).

    A member of weight 0 (or False) does not count. sizes: weights of the pairs themselves, [b m m]. nan for U where a
    single member counts.
    """
    weights = weights.to(distances.dtype)
    pairs = weights[:, :, None] * weights[:, None, :]
    if statistic == "U":
        pairs = pairs * (1 - torch.eye(pairs.shape[-1], dtype=pairs.dtype, device=pairs.device))
    return _weighted_mean(distances, pairs, sizes)


def mean_to_itself(distances: Tensor, weights: Tensor, sizes: Tensor | None = None) -> Tensor:
    """Weighted mean distance [b] of a member to itself: 0, unless a convention sets two empty maps apart."""
    return _weighted_mean(distances, torch.diag_embed(weights.to(distances.dtype)), sizes)


def sample_weights_of(weights: Tensor | None, distances: SetDistances) -> Tensor:
    """Weights [b n] of the samples that were scored, of weights of all that were given."""
    b, n = distances.ss.shape[:2]
    checked = check_weights(weights, b, distances.drawn or n, "sample", distances.ss.device)
    return _not_all_zero(torch.ones_like(distances.ss[..., 0]) if checked is None else checked[:, :n], "sample")


def label_weights_of(weights: Tensor | None, present: Tensor) -> Tensor:
    """Weights [b r] of the labels, 0 for the missing."""
    b, r = present.shape
    checked = check_weights(weights, b, r, "label", present.device)
    return _not_all_zero(present.to(exact_dtype(present.device)) * (1 if checked is None else checked), "label")


def _not_all_zero(weights: Tensor, what: str) -> Tensor:
    if bool((weights.sum(1) == 0).any()):
        raise InputError(f"{what}_weights of an image are all 0; give at least one map of each image a weight")
    return weights


def _weighted_mean(distances: Tensor, pairs: Tensor, sizes: Tensor | None) -> Tensor:
    """Mean over the pairs [b n m] of each image, weighted; where they pool, by their sizes too, and all empty is 1."""
    total = pairs.sum((1, 2))
    if sizes is not None:
        pairs = pairs * sizes
    weight = pairs.sum((1, 2))
    mean = distances.where(pairs > 0, 0.0).mul(pairs).sum((1, 2)) / weight
    return mean if sizes is None else mean.where((weight > 0) | (total == 0), 1.0)
