"""The annotations of a batch as the losses want them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from stochseg.data.store import MISSING_RATER
from stochseg.models.class_maps import one_hot_maps


@dataclass(frozen=True)
class Targets:
    """One-hot maps, their weights, and their mean.

    labels: one-hot [b r k h w], zeros for a missing rater; weights [b r], rows summing to 1 (0 for a missing rater);
    mean: the raters' frequencies [b k h w], zeros where ignored; one: a one-hot map [b k h w] of one rater;
    ignored: bool [b h w], or None where the store ignores no class.
    """

    labels: Tensor
    weights: Tensor
    mean: Tensor
    one: Tensor
    ignored: Tensor | None

    @classmethod
    def of(cls, labels: Tensor, classes: int, ignore: int | None, all_raters: bool) -> "Targets":
        """labels: uint8 [b r h w], raters in random order. With all_raters False every target is the first rater's."""
        present = (labels != MISSING_RATER).flatten(2).any(2)
        first = present.float().argmax(1)  # the raters are shuffled: the first one present is one at random
        if not all_raters:
            rows = torch.arange(len(labels), device=labels.device)
            labels, present = labels[rows, first][:, None], present[rows, first][:, None]
            first = torch.zeros_like(first)
        ignored = None
        if ignore is not None:  # a pixel that one rater ignores carries no loss for any, so all say the same there
            ignored = (labels == ignore).any(1)
            labels = torch.where(ignored[:, None] & present[..., None, None], ignore, labels)
        one_hot = one_hot_maps(labels, classes)
        weights = present.float() / present.sum(1, keepdim=True).clamp_min(1)
        one = one_hot[torch.arange(len(labels), device=labels.device), first]
        mean = torch.einsum("brkhw,br->bkhw", one_hot, weights)
        if ignored is not None:
            mean = mean * ~ignored[:, None]
        return cls(one_hot, weights, mean, one, ignored)
