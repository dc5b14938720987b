"""Where classes of a label flip: how probability and samples share out the pixels of such a class between its two sides.

Labels are [b 1 h w], not flipped; flips a table of (from, to, probability). flip_modes.py asks which side a sample as a
whole is on; here every pixel counts, so that the calibration of marginals and the coherence of samples can be told.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stochseg.errors import InputError
from stochseg.metrics.conventions import Flip
from stochseg.metrics.inputs import check_maps, exact_dtype
from stochseg.metrics.marginals import check_probabilities
from stochseg.metrics.modes import check_flips


class FlipPixels(NamedTuple):
    """Sums over the pixels where the label has `from`, float64 [b m] each; 0 where it has none."""

    pixels: Tensor
    """How many there are."""
    kept: Tensor
    """The probability of `from` there, summed."""
    flipped: Tensor
    """The probability of `to` there, summed."""


def flip_pixels(
    probabilities: Tensor,
    labels: Tensor,
    flips: Sequence[Flip],
    ignore: int | None = None,
    region: Tensor | None = None,
) -> FlipPixels:
    """How the pixels of each flipping class are shared out between its two sides, as sums of each image.

    probabilities: float [b k h w], a network's, or `class_frequencies` of samples; labels: integer [b 1 h w], not flipped;
    region: bool [b h w], the pixels to count, such as those where a black box is right. With totals over images,
    flipped / pixels is the mean probability of `to` on the class, which is the paper's figure, and
    flipped / (kept + flipped) leaves out what was not taken for the class at all: compare both with the flip's
    probability. Raises InputError for arguments that do not fit; see `check_flips`.

    >>> q = torch.tensor([[[[0.2, 0.0]], [[0.4, 1.0]], [[0.4, 0.0]]]])  # one image of 1 x 2 pixels, both of class 1
    >>> [round(x.item(), 6) for x in flip_pixels(q, torch.tensor([[[[1, 1]]]]), [(1, 2, 0.2)])]
    [2.0, 1.4, 0.4]
    """
    labels, classes = check_probabilities(probabilities, labels)
    rows = check_flips(flips, classes, ignore)
    label = _one_label(labels)
    p = probabilities.detach()
    counted = torch.ones_like(label, dtype=torch.bool) if region is None else region
    if counted.shape != label.shape:
        raise InputError(f"region is {list(counted.shape)} and labels {list(labels.shape)}; give [b h w]")
    sums = []
    for source, target, _ in rows:
        here = ((label == source) & counted).to(exact_dtype(p.device))
        sums.append(
            torch.stack([here.sum((1, 2)), (p[:, source] * here).sum((1, 2)), (p[:, target] * here).sum((1, 2))])
        )
    return FlipPixels(*torch.stack(sums, 2))


def flip_coherence(
    samples: Tensor, labels: Tensor, flips: Sequence[Flip], classes: int, ignore: int | None = None
) -> Tensor:
    """Does a class flip as a whole? Share of its pixels on the side that has most of them, mean over samples: [b m].

    Of the pixels where the label has `from` and a sample shows `from` or `to`, the share of the more frequent of the two:
    1 where all take the same side, near 1/2 where each decides by itself. float64 in 0.5..1; a sample that shows neither
    does not count, nan where the label has no such pixel or no sample counts. Arguments and errors as `flip_frequencies`.

    >>> labels = torch.tensor([[[[1, 1, 1, 1]]]])  # class 1 is shown as 2 half of the time
    >>> samples = torch.tensor([[[[2, 2, 2, 2]], [[1, 1, 1, 2]], [[0, 0, 0, 0]]]])
    >>> flip_coherence(samples, labels, [(1, 2, 0.5)], classes=3).tolist()
    [[0.875]]
    """
    rows = check_flips(flips, classes, ignore)
    samples, labels, _ = check_maps(samples, labels, classes)
    here = _one_label(labels)[:, None]
    found = []
    for source, target, _ in rows:
        kept = ((samples == source) & (here == source)).sum((2, 3)).to(exact_dtype(samples.device))
        flipped = ((samples == target) & (here == source)).sum((2, 3)).to(kept.dtype)
        found.append((torch.maximum(kept, flipped) / (kept + flipped)).nanmean(1))
    return torch.stack(found, 1)


def _one_label(labels: Tensor) -> Tensor:
    if labels.shape[1] != 1:
        raise InputError(f"labels hold {labels.shape[1]} maps an image; with flips give the one that is not flipped")
    return labels[:, 0]
