"""Where classes of a label flip independently: are each flip and each joint outcome drawn as often as is right?

Labels are [b 1 h w], not flipped; flips a table of (from, to, probability). The modes are all 2^m outcomes, number 0
being the label itself and bit i of the number saying whether flip i happened. modes.py has the scores of frequencies
against probabilities.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stochseg.errors import InputError
from stochseg.metrics.conventions import Flip
from stochseg.metrics.inputs import check_maps
from stochseg.metrics.modes import check_flips, flip_mode_probabilities, weights_of_samples


class FlipFrequencies(NamedTuple):
    """What the samples make of each flip, float64 [b m] each, adding up to 1; nan where the label has no such pixel."""

    flipped: Tensor
    """Share of the samples that show `to`: compare with the flip's probability."""
    kept: Tensor
    """Share of the samples that show `from`."""
    neither: Tensor
    """Share of the samples that show neither, or both on equally many pixels."""


class FlipModes(NamedTuple):
    """Frequencies and probabilities of the modes of independent flips, float64 [b 2^m] each.

    A flip whose class is not in the image's label changes nothing: its bit is 0 in both.
    """

    frequencies: Tensor
    probabilities: Tensor


def flip_frequencies(
    samples: Tensor,
    labels: Tensor,
    flips: Sequence[Flip],
    classes: int,
    ignore: int | None = None,
    sample_weights: Tensor | None = None,
) -> FlipFrequencies:
    """How often the samples show each flip: shares flipped, kept and neither, float64 [b m] each, adding up to 1.

    samples: integer [b n h w]; labels: integer [b 1 h w], not flipped. Of the pixels where the label has `from`, a
    sample has some that show `to` and some that show `from`; it is flipped where the former are more, kept where the
    latter are, and neither where the two are equally many, such as none. So a class drawn as something else altogether
    does not pass for a flip. nan where the label has no pixel of `from`. sample_weights: [n] or [b n], from 0 up;
    default equal. Raises InputError for arguments that do not fit; see `check_flips`.

    >>> labels = torch.tensor([[[[1, 1, 0]]]])  # class 1 is shown as 2 half of the time
    >>> samples = torch.tensor([[[[2, 2, 0]], [[1, 1, 0]], [[1, 1, 2]], [[0, 0, 0]]]])
    >>> flip_frequencies(samples, labels, [(1, 2, 0.5)], classes=3).flipped.tolist()  # 2 kept, 1 neither
    [[0.25]]
    """
    states, present, weights = _flip_states(samples, labels, flips, classes, ignore, sample_weights)
    total = weights.sum(1, keepdim=True)
    shares = [((states == s) * weights[:, :, None]).sum(1) / total for s in (1, 0, -1)]
    return FlipFrequencies(*(share.where(present, torch.nan) for share in shares))


def flip_mode_frequencies(
    samples: Tensor,
    labels: Tensor,
    flips: Sequence[Flip],
    classes: int,
    ignore: int | None = None,
    sample_weights: Tensor | None = None,
) -> FlipModes:
    """How often the samples show each of the 2^m outcomes of all flips, beside their probabilities, [b 2^m] each.

    Bit i of a mode's number is flip i. A sample that shows neither side of a flip belongs to no mode, so frequencies
    may add up to less than 1. Where the label lacks the class of a flip, its bit is 0 in frequencies and in
    probabilities alike; where it lacks all of them, frequencies are nan. Arguments and errors as `flip_frequencies`.

    >>> labels, samples = torch.tensor([[[[1, 1, 0]]]]), torch.tensor([[[[2, 2, 0]], [[1, 1, 0]]]])
    >>> found = flip_mode_frequencies(samples, labels, [(1, 2, 0.25)], classes=3)
    >>> found.frequencies.tolist(), found.probabilities.tolist()  # mode_total_variation(*found) is 0.25
    ([[0.5, 0.5]], [[0.75, 0.25]])
    """
    states, present, weights = _flip_states(samples, labels, flips, classes, ignore, sample_weights)
    probabilities = flip_mode_probabilities(flips, present).to(weights)
    belongs = ((states >= 0) | ~present[:, None]).all(2)
    place = 2 ** torch.arange(states.shape[2], device=states.device)
    number = ((states == 1) * place).sum(2)
    sums = torch.zeros_like(probabilities).scatter_add_(1, number, weights * belongs)
    frequencies = sums / weights.sum(1, keepdim=True)
    return FlipModes(frequencies.masked_fill(~present.any(1, keepdim=True), torch.nan), probabilities)


def _flip_states(
    samples: Tensor,
    labels: Tensor,
    flips: Sequence[Flip],
    classes: int,
    ignore: int | None,
    sample_weights: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """int8 [b n m]: 1 flipped, 0 kept, -1 neither; bool [b m], whether the label has `from`; weights [b n]."""
    rows = check_flips(flips, classes, ignore)
    samples, labels, _ = check_maps(samples, labels, classes)
    if labels.shape[1] != 1:
        raise InputError(f"labels hold {labels.shape[1]} maps an image; with flips give the one that is not flipped")
    b, n = samples.shape[:2]
    states = torch.zeros((b, n, len(rows)), dtype=torch.int8, device=samples.device)
    present = torch.zeros((b, len(rows)), dtype=torch.bool, device=samples.device)
    for i in range(b):
        maps, label = samples[i].flatten(1), labels[i].flatten()
        for j, (source, target, _) in enumerate(rows):
            region = maps.index_select(1, (label == source).nonzero().squeeze(1))
            flipped, kept = (region == target).sum(1), (region == source).sum(1)
            states[i, :, j] = torch.where(flipped == kept, -1, flipped > kept)
            present[i, j] = region.shape[1] > 0
    return states, present, weights_of_samples(sample_weights, torch.zeros((b, n), device=samples.device))
