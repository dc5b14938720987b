"""Matched IoU (Hungarian-matched, HM-IoU): pair samples with labels one to one so that the mean IoU is highest.

    HM-IoU = max over one-to-one pairings p of  1/N sum_i IoU(s_i, y_p(i))   (Kohl et al. 2019, arXiv 1905.13077)

It rewards having each rater's answer as often as the raters give it; unlike GED it needs no subtraction, and it is 1
only where every sample is some rater's map. Sources differ in how n samples meet r labels: repeated labels, both
repeated, or only the best r samples (`Convention.matching`). With weights it is an optimal transport problem:

    max over t >= 0 with row sums u and column sums v of  sum_ij t_ij IoU(s_i, y_j)

whose answer for equal weights is that of both sides repeated to the least common multiple.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stochseg.errors import InputError
from stochseg.metrics.conventions import Convention, Flip, Matching, get_convention
from stochseg.metrics.distances import SetDistances, set_distances
from stochseg.metrics.ged import label_weights_of, sample_weights_of

Array = NDArray[np.float64]
MOST_REPEATED = 512
"""Repeated samples and labels up to which they are assigned; of more, the equal optimal transport is cheaper."""


def hungarian_iou(
    samples: Tensor,
    labels: Tensor,
    classes: int = 2,
    convention: str | Convention = "car",
    ignore: int | None = None,
    sample_weights: Tensor | None = None,
    label_weights: Tensor | None = None,
    flips: Sequence[Flip] | None = None,
) -> Tensor:
    """Matched IoU of each image, float64 [b] in 0..1, higher is better; see the module for the equation.

    samples: integer [b n h w]. labels: integer [b r h w]; 255 throughout is a missing rater. With "car" each label is
    repeated n / r times, and InputError is raised where r does not divide n; "ccdm" repeats labels and samples both to
    the least common multiple. An image with missing raters is matched with those present, to the least common
    multiple of their number and n under either: the same as "car" wherever their number divides n. "flow-ssn" and
    "d-persona" pair the best min(n, r) samples alone, the latter by Dice, and its score is a Dice. "mose" takes
    weights, [n] or [b n] and [r] or [b r], and flips, as in `generalized_energy_distance`: the labels are then all 2^m
    modes with their probabilities. InputError for conventions whose source has no matched IoU. nan where an image's
    pixels are all ignored, and where a convention that leaves absent classes out finds none in its labels.

    >>> samples = torch.tensor([[[[0, 1]], [[0, 1]]]])  # one image, two samples of 1 x 2 pixels
    >>> labels = torch.tensor([[[[0, 1]], [[0, 0]]]])
    >>> hungarian_iou(samples, labels).tolist()  # one pair agrees, the other has IoU 0
    [0.5]
    """
    rule = get_convention(convention, flips is not None)
    if rule.matching == "none":
        others = "'mose'" if flips is not None else "'ccdm' or 'mose'"
        raise InputError(f"convention '{rule.name}' has no matched IoU, its source gives none; take {others}")
    distances = set_distances(samples, labels, classes, rule, ignore, flips)
    return hungarian_iou_of(distances, rule.matching, sample_weights, label_weights)


def hungarian_iou_of(
    distances: SetDistances,
    matching: Matching = "repeat",
    sample_weights: Tensor | None = None,
    label_weights: Tensor | None = None,
) -> Tensor:
    """The same from distances at hand, where several scores share them."""
    matched, present = distances.matched, distances.present
    if matching != "transport":
        if sample_weights is not None or label_weights is not None:
            raise InputError(f"matching '{matching}' knows no weights; take the convention 'mose', optimal transport")
        if distances.exact:
            raise InputError(
                f"matching '{matching}' knows no weights, and the modes of classes that flip have probabilities; take "
                "the convention 'mose', or 'car-cityscapes', which matches nothing"
            )
    if distances.modes is not None:
        if label_weights is not None:
            raise InputError(
                "label_weights: with flips the labels are all modes, whose weights are their probabilities"
            )
        present = present.expand(len(present), len(distances.modes))
        label_weights = distances.modes
    check_counts(matched.shape[1], matched.shape[2], matching)
    rows = sample_weights_of(sample_weights, distances).cpu().numpy()
    columns = label_weights_of(label_weights, present).cpu().numpy()
    best = [best_of_image(one, u, v, matching) for one, u, v in zip(matched.cpu().numpy(), rows, columns, strict=True)]
    found = torch.tensor(best, dtype=matched.dtype, device=matched.device)
    return found.where(distances.defined, torch.nan)


def check_counts(n: int, r: int, matching: Matching) -> None:
    """InputError where n samples cannot be matched with r labels that way."""
    if matching == "repeat" and n % r:
        near = " or ".join(str(m) for m in (n // r * r, (n // r + 1) * r) if m)
        raise InputError(
            f"{n} samples are no multiple of {r} labels; draw {near} samples, or take the convention 'ccdm', "
            "which repeats both to their least common multiple"
        )


def best_of_image(similarity: Array, u: Array, v: Array, matching: Matching) -> float:
    """Highest mean similarity [n r] of a matching of samples of weights u [n] with labels of weights v [r]."""
    similarity = similarity[np.ix_(u > 0, v > 0)]
    u, v = u[u > 0], v[v > 0]
    if matching == "rectangular":
        return _assignment(similarity)
    if np.ptp(u) > 0 or np.ptp(v) > 0:
        return _transport(similarity, u / u.sum(), v / v.sum())
    return best_mean(similarity)


def best_mean(similarity: Array) -> float:
    """Highest mean similarity of a one-to-one pairing of the rows [n] and columns [r], both repeated to lcm(n, r)."""
    n, r = similarity.shape
    size = math.lcm(n, r)
    if size > MOST_REPEATED:
        return _transport(similarity, np.full(n, 1 / n), np.full(r, 1 / r))  # the same optimum
    return _assignment(similarity.repeat(size // n, axis=0).repeat(size // r, axis=1))


def _assignment(similarity: Array) -> float:
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(similarity, maximize=True)
    return float(similarity[rows, columns].mean())


def _transport(similarity: Array, u: Array, v: Array) -> float:
    """Highest total similarity of a plan that moves the weights u [n] onto v [r], each summing to 1."""
    from scipy.optimize import linprog
    from scipy.sparse import eye_array, kron, vstack

    n, r = similarity.shape
    sums = vstack([kron(eye_array(n), np.ones((1, r))), kron(np.ones((1, n)), eye_array(r))]).tocsr()
    totals = np.concatenate([u, v])[:-1]  # the last follows from the others
    found = linprog(-similarity.ravel(), A_eq=sums[:-1], b_eq=totals, method="highs")  # type: ignore[call-overload]
    if found.status != 0:
        raise RuntimeError(f"optimal transport of {n} samples to {r} labels failed: {found.message}")
    return float(-found.fun)
