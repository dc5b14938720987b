"""Pixel marginals: how often each class was chosen at each pixel, and what may be scored as probabilities."""

from collections.abc import Sequence

import torch
from torch import Tensor

from stochseg.errors import InputError
from stochseg.metrics.conventions import Flip, check_classes
from stochseg.metrics.inputs import as_uint8, check_labels, exact_dtype
from stochseg.metrics.modes import check_flips

UNITS = 1 << 24
"""Confidences, and probabilities of flips, are multiples of 1 / UNITS where they are summed."""
SUM_TOLERANCE = 0.02
"""How far from 1 the probabilities of a pixel may add up: what rounding to bfloat16 does."""


def class_frequencies(maps: Tensor, classes: int = 2) -> Tensor:
    """How often each class occurs at each pixel among maps [b n h w]: float64 [b k h w], summing to 1 over k.

    A map filled with 255 does not count; InputError where an image has no other.

    >>> class_frequencies(torch.tensor([[[[0, 1]], [[1, 1]]]])).tolist()  # one image, two maps of 1 x 2 pixels
    [[[[0.5, 0.0]], [[0.5, 1.0]]]]
    """
    votes = class_votes(as_uint8(maps, "maps", classes), classes)
    exact = exact_dtype(votes.device)
    return votes.to(exact) / votes.sum(1, keepdim=True, dtype=votes.dtype).to(exact)


def class_votes(maps: Tensor, classes: int, ignore: int | None = None) -> Tensor:
    """How many of the present maps, uint8 [b n h w], give each class but the ignored: uint8 or int32 [b k h w].

    No count is above n, nor is their sum over k, so uint8 holds them up to 255 maps; int32 is what more maps get.
    """
    check_classes(classes, ignore)
    check_labels(maps, classes)
    dtype = torch.uint8 if maps.shape[1] <= 255 else torch.int32
    votes = maps.new_zeros((maps.shape[0], classes, *maps.shape[2:]), dtype=dtype)
    for c in range(classes):
        if c != ignore:
            for some in torch.split(maps, 255, dim=1):  # sums of uint8 are much the fastest, and hold 255
                votes[:, c] += torch.eq(some, c, out=torch.empty_like(some)).sum(1, dtype=torch.uint8)
    return votes


def votes_for(probabilities: Tensor, labels: Tensor, ignore: int | None, flips: Sequence[Flip] | None = None) -> Tensor:
    """`class_votes` of labels [b r h w] that go with probabilities [b k h w]; InputError where they do not.

    flips: classes of the labels that flip; votes are then expected ones, in the exact dtype, the probabilities of flips
    rounded to multiples of 2^-24 so that sums of votes do not round.
    """
    labels, k = check_probabilities(probabilities, labels)
    votes = class_votes(labels, k, ignore)
    if not flips:
        return votes
    votes = votes.to(exact_dtype(votes.device))
    for source, target, p in check_flips(flips, k, ignore):
        moved = votes[:, source] * (round(p * UNITS) / UNITS)
        votes[:, target] += moved
        votes[:, source] -= moved
    return votes


def check_probabilities(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, int]:
    """Labels as uint8 and the number of classes; InputError where the two do not fit or are not probabilities."""
    if not isinstance(probabilities, Tensor) or not probabilities.is_floating_point() or probabilities.ndim != 4:
        raise InputError("probabilities must be a float tensor [b k h w]; class_frequencies makes one from samples")
    labels = as_uint8(labels, "labels", probabilities.shape[1])
    if probabilities.shape[0] != labels.shape[0] or probabilities.shape[2:] != labels.shape[2:]:
        raise InputError(
            f"probabilities are {list(probabilities.shape)} and labels {list(labels.shape)}; "
            "[b k h w] and [b r h w] must agree in b, h and w"
        )
    if probabilities.device != labels.device:
        raise InputError(
            f"probabilities are on {probabilities.device} and labels on {labels.device}; move one with .to()"
        )
    off = float((probabilities.detach().sum(1) - 1).abs().max())
    low = float(probabilities.detach().min())
    if not (off <= SUM_TOLERANCE and low >= 0):
        raise InputError(
            f"probabilities add up to 1 +- {off:.3g} over classes and start at {low:.3g}; "
            "give the softmax of logits, [b k h w]"
        )
    return labels, probabilities.shape[1]
