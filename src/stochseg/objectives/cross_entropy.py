"""Cross entropy, L_ce of the paper: what trains the calibration network F; of a categorical, and of a Gaussian."""

import torch.nn.functional as F
from torch import Tensor

from stochseg.objectives.pixels import Normalize, full_precision, pixel_mean


def cross_entropy(logits: Tensor, labels: Tensor, ignore: int | None = None, normalize: Normalize = "all") -> Tensor:
    """L_ce = -mean_pixels sum_k y_k log q_k, in nats: a scalar.

    logits: [b k h w]; labels: integers [b h w], or one-hot or frequencies [b k h w]; ignore: the class id whose pixels
    count 0 (with frequencies: where it is the largest); normalize: over which pixels the mean is taken, see
    `pixel_mean`. The paper's code holds log q at -16.1 and so loses the gradient below q = 1e-7; here it is kept.
    """
    log_q = F.log_softmax(full_precision(logits), 1)
    hard = labels.ndim == 3
    ignored = None if ignore is None else (labels if hard else labels.argmax(1)) == ignore
    if hard:
        # An ignored label may lie outside 0 to k - 1, where there is nothing to look up.
        wanted = labels.long() if ignored is None else labels.long().masked_fill(ignored, 0)
        losses = F.nll_loss(log_q, wanted, reduction="none")
    else:
        losses = -(labels * log_q).sum(1)
    return pixel_mean(losses, ignored, normalize)


def gaussian_cross_entropy(mean: Tensor, y: Tensor) -> Tensor:
    """-mean log N(y; mean, 1) less its constant log sqrt(2 pi): 1/2 of the mean squared distance, a scalar.

    mean: what F returns, any shape; y: an answer of each, the same shape.
    """
    return 0.5 * (full_precision(mean) - full_precision(y)).square().mean()
