"""Generalised energy distance between the samples of a model and the raters of an image.

    GED = 2 E d(S, Y) - E d(S, S') - E d(Y, Y'),  d = 1 - IoU  (Kohl et al. 2018, arXiv 1806.05034, section 3)

It is 0 where the two distributions are one, and a squared MMD, so a proper score. With the V statistic E d(S, S') and
E d(Y, Y') include the pairs of a map with itself, which adds d_ss / n + d_yy / r (means over distinct pairs) to the
unbiased U statistic: a V number falls as n grows, and only numbers of equal n and r compare.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from stochseg.errors import InputError
from stochseg.metrics.conventions import Convention, Statistic, get_convention
from stochseg.metrics.distances import SetDistances, set_distances


class EnergyDistance(NamedTuple):
    """The generalised energy distance of each image and its parts, each float64 [b]."""

    ged: Tensor
    """2 d_ys - d_ss - d_yy. At least 0 with V; around 0 and below it too with U."""
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
) -> Tensor:
    """Generalised energy distance of each image, float64 [b], lower is better; see the module for the equation.

    samples: integer [b n h w]. labels: integer [b r h w]; a map filled with 255 is a missing rater and has weight 0.
    classes: number of classes, the background 0 included. ignore: a class id whose pixels, where a label holds it,
    are left out of the image. statistic: "V" or "U" in place of the convention's own. Raises InputError for shapes or
    ids that do not fit, and for U where an image has a single sample or rater.

    >>> samples = torch.tensor([[[[0, 1]], [[0, 1]]]])  # one image, two samples of 1 x 2 pixels
    >>> labels = torch.tensor([[[[0, 1]], [[0, 0]]]])  # two raters, one of whom sees nothing
    >>> generalized_energy_distance(samples, labels).tolist()  # 2 * 0.5 - 0 - 0.5
    [0.5]
    """
    return energy_distance_parts(samples, labels, classes, convention, ignore, statistic).ged


def energy_distance_parts(
    samples: Tensor,
    labels: Tensor,
    classes: int = 2,
    convention: str | Convention = "car",
    ignore: int | None = None,
    statistic: Statistic | None = None,
) -> EnergyDistance:
    """The generalised energy distance with its parts; arguments and errors as in `generalized_energy_distance`."""
    distances = set_distances(samples, labels, classes, convention, ignore)
    return energy_distance_of(distances, statistic or get_convention(convention).statistic)


def energy_distance_of(distances: SetDistances, statistic: Statistic = "V") -> EnergyDistance:
    """The same from distances at hand, where several scores share them."""
    ys, ss, yy, present = distances
    if statistic not in ("V", "U"):
        raise InputError(f"statistic is '{statistic}'; choose 'V' (self pairs stay) or 'U' (they are left out)")
    n = ss.shape[-1]
    if statistic == "U" and n < 2:
        raise InputError("the U statistic leaves self pairs out, and one sample has no other; draw more, or take 'V'")
    if statistic == "U" and bool((present.sum(1) < 2).any()):
        raise InputError("the U statistic leaves self pairs out, and an image has one rater alone; take 'V'")
    raters = present.sum(1)
    among_all = torch.ones_like(ss[..., 0], dtype=torch.bool)
    d_ys = ys.mean(1).where(present, 0.0).sum(1) / raters
    d_ss = mean_within(ss, among_all, statistic)
    d_yy = mean_within(yy, present, statistic)
    diversity = mean_within(ss, among_all, "U")
    return EnergyDistance(2 * d_ys - d_ss - d_yy, d_ys, d_ss, d_yy, diversity)


def mean_within(distances: Tensor, present: Tensor, statistic: Statistic) -> Tensor:
    """Mean distance [b] within a set, [b m m] with members `present` bool [b m]: all pairs (V) or distinct ones (U).

    nan for U where a single member is present.
    """
    pairs = present[:, :, None] & present[:, None, :]
    if statistic == "U":
        pairs = pairs & ~torch.eye(pairs.shape[-1], dtype=torch.bool, device=pairs.device)
    return distances.where(pairs, 0.0).sum((1, 2)) / pairs.sum((1, 2))
