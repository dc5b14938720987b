"""The energy loss: the squared distance between two distributions of maps, estimated without bias from samples of both."""

from typing import Literal

import torch
from torch import Tensor

Kernel = Literal["minmax", "product"]


def energy_loss(
    samples: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    kernel: Kernel = "minmax",
    smooth: float = 1.0,
    ignore: int | None = None,
) -> Tensor:
    """Unbiased energy loss of each image, float [b].

    samples: soft maps [b n k h w], n >= 2; labels: one-hot or soft maps [b r k h w]; weights: [b r], the share of each
    rater, rows summing to 1 (default: equal; 0 leaves a missing rater out); ignore: a class that does not count.

        2 mean_ij d(s_i, y_j) - mean_(i != j) d(s_i, s_j),    d = 1 - IoU, mean over classes 1..k-1

    1 - IoU is of negative type, so this plus the labels' own term is the unbiased squared MMD between both
    distributions: least where they are equal (Szekely & Rizzo 2013; Bellemare et al. 2017). `smooth` pixels of overlap
    are granted to every pair, which keeps it a Jaccard distance and gives empty pairs a gradient.

    Kernel: what the overlap of two soft pixels is. "minmax" takes min(s, y), the Jaccard distance of fuzzy sets, 0
    between equal maps however blurred; "product" takes s * y, which counts blur as diversity.
    """
    n, r = samples.shape[1], labels.shape[1]
    counted = slice(1, None) if ignore is None else [c for c in range(1, samples.shape[2]) if c != ignore]
    s, y = samples[:, :, counted].float().flatten(3), labels[:, :, counted].float().flatten(3)  # [b n k-1 hw], [b r ..]
    if weights is None:
        weights = s.new_full((s.shape[0], r), 1 / r)
    d_sy = 1 - _iou(s, y, kernel, smooth)
    first, second = torch.triu_indices(n, n, 1, device=s.device)
    d_ss = 1 - _paired_iou(s[:, first], s[:, second], kernel, smooth)
    loss: Tensor = 2 * (d_sy.mean(1) * weights).sum(1) - d_ss.mean(1)
    return loss


def marginal_cross_entropy(samples: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of the samples' mean against the raters' mean, in nats, mean over pixels: a scalar.

    samples: soft maps [b n k h w]; target: the raters' frequencies [b k h w], rows of zeros where a pixel is ignored.
    It holds the pixel marginals, and leads out of the all-empty answer, where the energy loss has little gradient.
    """
    mean = samples.float().mean(1).clamp_min(1e-6)
    return -(target * mean.log()).sum(1).mean()


def _iou(s: Tensor, y: Tensor, kernel: Kernel, smooth: float) -> Tensor:
    """Soft IoU of every sample with every label, [b n r]."""
    n, r = s.shape[1], y.shape[1]
    if kernel == "minmax" and _is_hard(y):
        kernel = "product"  # min(s, y) = s y where y is 0 or 1, and a matrix product is much cheaper
    if kernel == "product":
        overlap = torch.einsum("bnkp,brkp->bnrk", s, y)
        total = s.sum(-1)[:, :, None] + y.sum(-1)[:, None] - overlap
        return ((overlap + smooth) / (total + smooth)).mean(-1)
    left, right = s.repeat_interleave(r, 1), y.repeat(1, n, 1, 1)
    return _paired_iou(left, right, kernel, smooth).view(-1, n, r)


def _paired_iou(a: Tensor, b: Tensor, kernel: Kernel, smooth: float) -> Tensor:
    """Soft IoU of each map of a with its partner in b; both [b pairs k-1 hw]."""
    overlap = (torch.minimum(a, b) if kernel == "minmax" else a * b).sum(-1)
    total = a.sum(-1) + b.sum(-1) - overlap
    return ((overlap + smooth) / (total + smooth)).mean(-1)


def _is_hard(y: Tensor) -> bool:
    return not y.requires_grad and bool(((y == 0) | (y == 1)).all())
