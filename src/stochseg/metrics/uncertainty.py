"""Maps of how unsure a model is at each pixel, and whether that is where the raters differ."""

import torch
from torch import Tensor

from stochseg.errors import InputError
from stochseg.metrics.conventions import check_classes
from stochseg.metrics.inputs import as_uint8, check_labels, check_maps, exact_dtype
from stochseg.metrics.marginals import SUM_TOLERANCE, class_frequencies

CONSTANT = 1e-12
"""A map whose values span less than this share of their mean is constant: what rounding leaves of equal values."""


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy of each pixel's class, in nats: float64 [b h w] in 0..log k, 0 where one class is certain.

        H(p) = - sum_k p_k log p_k

    probabilities: float [b k h w], a network's marginals, or `class_frequencies(samples)` for the entropy of what n
    samples say, which no n makes larger than log n. Raises InputError where they are no probabilities.

    >>> entropy(torch.tensor([[[[0.5, 0.0]], [[0.5, 1.0]]]])).exp().round(decimals=4).tolist()  # of 2 classes, and 1
    [[[2.0, 1.0]]]
    """
    _check_probabilities(probabilities, "probabilities", "[b k h w]", 1)
    return _entropy(probabilities)


def mutual_information(samples: Tensor, classes: int = 2) -> Tensor:
    """Mutual information of a pixel's class and which sample was drawn, in nats: float64 [b h w] in 0..log min(n, k).

        I = H(mean_n p_n) - mean_n H(p_n)

    The part of the entropy that comes from samples differing, the rest being doubt within each sample (BALD, Houlsby et
    al. 2011, arXiv 1112.5745; for images Gal et al. 2017, arXiv 1703.02910). samples: float [b n k h w], soft samples
    such as those of `CAR.refine`, whose classes are counted from the shape; or integer maps [b n h w] of `classes`
    classes, which have no doubt within them, so that I is the entropy of the class frequencies. Raises InputError for
    shapes, types or ids that do not fit, and for soft samples that are no probabilities.

    >>> sure = torch.tensor([[[[[1.0]], [[0.0]]], [[[0.0]], [[1.0]]]]])  # two samples of one pixel disagree
    >>> unsure = torch.full_like(sure, 0.5)  # two samples agree that the class is open
    >>> mutual_information(sure).round(decimals=4).tolist(), mutual_information(unsure).tolist()  # log 2, and nothing
    ([[[0.6931]]], [[[0.0]]])
    """
    if not _is_soft(samples):
        return _entropy(class_frequencies(samples, classes))
    _check_probabilities(samples, "samples", "[b n k h w]", 2)
    mean = samples.detach().mean(1, dtype=exact_dtype(samples.device))
    # nothing of the size of the samples in float64: one class at a time
    within = torch.zeros_like(mean[:, 0])
    for p in samples.detach().unbind(2):
        within += torch.special.entr(p.to(mean.dtype)).mean(1)
    return (_entropy(mean) - within).clamp(min=0)


def normalized_cross_correlation(
    samples: Tensor, labels: Tensor, classes: int = 2, ignore: int | None = None, floor: float = 1e-8
) -> Tensor:
    """Do the samples vary where they miss the raters? S_NCC, float64 [b] in -1..1, higher is better.

        S_NCC = mean over present raters y of  NCC( E_s CE(mean_s, s),  E_s CE(y, s) )      (PHiSeg, arXiv 1906.04045)

    CE(t, s) = - sum_k t_k log(s_k + floor) at each pixel, mean_s the mean of the samples, NCC the correlation of two
    maps over the pixels. floor is 1e-8 in PHiSeg's code. samples: float [b n k h w], soft, as PHiSeg scores them; or
    integer maps [b n h w], for which the two maps are, but for scale and shift, - sum_k f_k^2 and - f_y, f being the
    class frequencies: floor then changes nothing. A pixel that any present rater gives the class `ignore` is left out.
    A constant map has no correlation (PHiSeg's code divides by 0): a rater whose map is constant is left out of the
    mean, and the score is nan where none is left, above all where the samples vary nowhere. Raises InputError for
    shapes, types or ids that do not fit.

    >>> samples = torch.tensor([[[[0, 0, 1, 1]], [[0, 1, 1, 1]]]])  # they differ at the second pixel
    >>> labels = torch.tensor([[[[0, 1, 1, 1]]]])  # and miss the rater there alone
    >>> normalized_cross_correlation(samples, labels).round(decimals=4).tolist()
    [1.0]
    """
    if not 0 < floor < 1:
        raise InputError(f"floor is {floor}; give a small number above 0, such as 1e-8")
    check_classes(classes, ignore)
    if _is_soft(samples):
        labels, present = _check_soft(samples, labels, classes)
        dtype = exact_dtype(samples.device)
        mean = samples.detach().mean(1, dtype=dtype)
        log_mean = torch.stack([(p.to(dtype) + floor).log().mean(1) for p in samples.detach().unbind(2)], 1)
    else:
        samples, labels, present = check_maps(samples, labels, classes)
        # f in place of the mean log, log(floor) + f (log(1 + floor) - log(floor)): the two correlate alike
        mean = log_mean = class_frequencies(samples, classes)
    ours = -(mean * log_mean).sum(1)  # [b h w]
    theirs = -log_mean.gather(1, labels.masked_fill(~present[:, :, None, None], 0).long())  # [b r h w]
    keep = None if ignore is None else ~(labels == ignore).any(1, keepdim=True)
    ours, theirs = _unit(ours[:, None], keep), _unit(theirs, keep)
    scores = _total(ours * theirs).flatten(1)  # [b r], nan where a map is constant
    return scores.where(present, torch.nan).nanmean(1)


def _entropy(probabilities: Tensor) -> Tensor:
    p = probabilities.detach().to(exact_dtype(probabilities.device))
    return torch.as_tensor(torch.special.entr(p)).sum(1)


def _unit(maps: Tensor, keep: Tensor | None) -> Tensor:
    """Maps [b m h w] less their mean over the pixels to keep, at length 1; all nan where nothing varies."""
    if keep is None:
        keep = torch.ones_like(maps[:, :1], dtype=torch.bool)
    mean = _total(maps.where(keep, 0.0)) / keep.sum((2, 3), keepdim=True)
    off = (maps - mean).where(keep, 0.0)
    varies = off.amax((2, 3), keepdim=True) - off.amin((2, 3), keepdim=True) > CONSTANT * mean.abs()
    length = _total(off.square()).sqrt()
    return off / length.where(varies, torch.nan)


def _total(values: Tensor) -> Tensor:
    """Sum over pixels of [b m h w], row by row: torch divides a sum to a single number among threads."""
    return values.sum(3, keepdim=True).sum(2, keepdim=True)


def _is_soft(samples: Tensor) -> bool:
    return isinstance(samples, Tensor) and samples.is_floating_point()


def _check_soft(samples: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Labels as uint8 and which raters are present; InputError where they do not fit soft samples [b n k h w]."""
    _check_probabilities(samples, "samples", "[b n k h w]", 2)
    labels = as_uint8(labels, "labels", classes)
    b, _, k, h, w = samples.shape
    if k != classes or (b, h, w) != (labels.shape[0], *labels.shape[2:]):
        raise InputError(
            f"samples have shape {list(samples.shape)} and labels {list(labels.shape)}; [b n k h w] and [b r h w] "
            f"must agree in b, h and w, and k be classes={classes}"
        )
    if samples.device != labels.device:
        raise InputError(f"samples are on {samples.device} and labels on {labels.device}; move one with .to()")
    return labels, check_labels(labels, classes)


def _check_probabilities(p: Tensor, name: str, layout: str, dim: int) -> None:
    """InputError where these are no probabilities of classes along `dim`."""
    if not _is_soft(p) or p.ndim != len(layout.split()) or p.numel() == 0:
        shape = f"{p.dtype} {list(p.shape)}" if isinstance(p, Tensor) else type(p).__name__
        raise InputError(f"{name} are {shape}; give floats {layout}, or class_frequencies of integer maps")
    off = float((p.detach().sum(dim) - 1).abs().max())
    low = float(p.detach().amin())
    if not (off <= SUM_TOLERANCE and low >= 0):
        raise InputError(
            f"{name} add up to 1 +- {off:.3g} over classes and start at {low:.3g}; "
            f"give the softmax of logits over classes, {layout}"
        )
