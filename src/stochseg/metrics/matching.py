"""Matched IoU (Hungarian-matched, HM-IoU): pair samples with labels one to one so that the mean IoU is highest.

    HM-IoU = max over one-to-one pairings p of  1/N sum_i IoU(s_i, y_p(i))   (Kohl et al. 2019, arXiv 1905.13077)

Labels are repeated to the number of samples first. It rewards having each rater's answer as often as the raters give
it; unlike GED it needs no subtraction, and it is 1 only where every sample is some rater's map.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stochseg.errors import InputError
from stochseg.metrics.conventions import Convention, Matching, get_convention
from stochseg.metrics.distances import SetDistances, set_distances


def hungarian_iou(
    samples: Tensor,
    labels: Tensor,
    classes: int = 2,
    convention: str | Convention = "car",
    ignore: int | None = None,
) -> Tensor:
    """Matched IoU of each image, float64 [b] in 0..1, higher is better; see the module for the equation.

    samples: integer [b n h w]. labels: integer [b r h w]; 255 throughout is a missing rater. With "car" each label is
    repeated n / r times, and InputError is raised where r does not divide n; "ccdm" repeats labels and samples both to
    the least common multiple. An image with missing raters is matched with those present, to the least common
    multiple of their number and n under either: the same as "car" wherever their number divides n.

    >>> samples = torch.tensor([[[[0, 1]], [[0, 1]]]])  # one image, two samples of 1 x 2 pixels
    >>> labels = torch.tensor([[[[0, 1]], [[0, 0]]]])
    >>> hungarian_iou(samples, labels).tolist()  # one pair agrees, the other has IoU 0
    [0.5]
    """
    convention = get_convention(convention)
    distances = set_distances(samples, labels, classes, convention, ignore)
    return hungarian_iou_of(distances, convention.matching)


def hungarian_iou_of(distances: SetDistances, matching: Matching = "repeat") -> Tensor:
    """The same from distances at hand, where several scores share them."""
    ys, _, _, present = distances
    check_counts(ys.shape[1], ys.shape[2], matching)
    similarity, here = (1 - ys).cpu().numpy(), present.cpu().numpy()
    best = [best_mean(one[:, raters]) for one, raters in zip(similarity, here, strict=True)]
    return torch.tensor(best, dtype=ys.dtype, device=ys.device)


def check_counts(n: int, r: int, matching: Matching) -> None:
    """InputError where n samples cannot be matched with r labels that way."""
    if matching == "repeat" and n % r:
        near = " or ".join(str(m) for m in (n // r * r, (n // r + 1) * r) if m)
        raise InputError(
            f"{n} samples are no multiple of {r} labels; draw {near} samples, or take the convention 'ccdm', "
            "which repeats both to their least common multiple"
        )


def best_mean(similarity: NDArray[np.float64]) -> float:
    """Highest mean similarity of a one-to-one pairing of the rows [n] and columns [r], both repeated to lcm(n, r)."""
    from scipy.optimize import linear_sum_assignment

    n, r = similarity.shape
    size = math.lcm(n, r)
    repeated = similarity.repeat(size // n, axis=0).repeat(size // r, axis=1)
    rows, columns = linear_sum_assignment(repeated, maximize=True)
    return float(repeated[rows, columns].mean())
