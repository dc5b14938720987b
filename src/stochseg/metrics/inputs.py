"""What may be scored: maps of class ids, checked and brought to uint8.

Samples are [b n h w] and labels [b r h w]: integer class ids, or bool masks of two classes; or one-hot, a 0/1 value
per class, [b n k h w]. A label map filled with 255 (one-hot: nowhere any class) is a rater who did not annotate that
image.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from stochseg.errors import InputError

MISSING = 255
"""Fills the label map of a rater who is missing; within scoring also what an ignored pixel is set to."""


def check_maps(
    samples: Tensor, labels: Tensor, classes: int, names: tuple[str, str] = ("samples", "labels")
) -> tuple[Tensor, Tensor, Tensor]:
    """Samples and labels as uint8, and which raters are present, bool [b r]; InputError where they cannot be scored."""
    samples, labels = as_uint8(samples, names[0], classes), as_uint8(labels, names[1], classes)
    if samples.shape[0] != labels.shape[0] or samples.shape[2:] != labels.shape[2:]:
        raise InputError(
            f"{names[0]} have shape {list(samples.shape)} and {names[1]} {list(labels.shape)}; "
            "[b n h w] and [b r h w] must agree in b, h and w"
        )
    if samples.device != labels.device:
        raise InputError(f"{names[0]} are on {samples.device} and {names[1]} on {labels.device}; move one with .to()")
    highest = int(samples.amax())
    if highest >= classes:
        if bool((samples.flatten(2).amin(-1) == MISSING).any()):
            raise InputError(f"{names[0]} hold class {MISSING} throughout a map; only a rater may be missing")
        raise InputError(
            f"{names[0]} hold class {highest}, classes={classes} takes 0 to {classes - 1}; "
            "raise classes, or renumber masks 0/255 to 0/1"
        )
    return samples, labels, check_labels(labels, classes, names[1])


def check_labels(labels: Tensor, classes: int, what: str = "labels") -> Tensor:
    """Which raters are present, bool [b r], in uint8 labels [b r h w]; InputError for other ids or nobody present."""
    flat = labels.flatten(2)
    present = flat.amin(-1) != MISSING
    highest = int((flat.amax(-1) * present).amax())
    if highest >= classes:
        raise InputError(
            f"{what} hold class {highest}, classes={classes} takes 0 to {classes - 1} "
            f"({MISSING} only as a whole map, for a missing rater); renumber them, masks 0/255 to 0/1"
        )
    nobody = (~present).all(1).nonzero().flatten().tolist()
    if nobody:
        raise InputError(f"{what} of image {nobody[0]} of the batch are all {MISSING}: no rater; leave the image out")
    return present


def as_uint8(maps: Tensor, what: str, classes: int | None = None) -> Tensor:
    """Maps as uint8 [b n h w]; InputError for what is neither integer maps, nor bool masks, nor one-hot [b n k h w]."""
    if not isinstance(maps, Tensor):
        raise InputError(f"{what} are {type(maps).__name__}; give a tensor (torch.from_numpy makes one)")
    if maps.ndim == 5 and 0 not in maps.shape:
        return _from_one_hot(maps, what, classes)
    if maps.dtype.is_floating_point or maps.dtype.is_complex:
        raise InputError(f"{what} are {maps.dtype}; give integer class ids (argmax of probabilities over classes)")
    if maps.ndim != 4 or 0 in maps.shape:
        raise InputError(f"{what} have shape {list(maps.shape)}; give [images, maps, height, width], none of them 0")
    if maps.dtype in (torch.uint8, torch.bool):
        return maps.to(torch.uint8)
    if maps.dtype in (torch.uint16, torch.uint32, torch.uint64):
        maps = maps.to(torch.int64)  # torch knows few operations of these types
    if int(maps.amin()) < 0 or int(maps.amax()) > MISSING:
        raise InputError(f"{what} hold ids {int(maps.amin())} to {int(maps.amax())}; class ids lie in 0 to 254")
    return maps.to(torch.uint8)


def check_weights(
    weights: Tensor | Sequence[float] | None, b: int, m: int, what: str, device: torch.device
) -> Tensor | None:
    """Weights [m] or [b m] as exact [b m], or None as it is; InputError where they are not fit to weigh with."""
    if weights is None:
        return None
    weights = torch.as_tensor(weights).detach().to(device, exact_dtype(device))
    if weights.shape not in ((m,), (b, m)):
        raise InputError(f"{what}_weights have shape {list(weights.shape)}; give [{m}] or [{b}, {m}], one a map")
    if not bool(torch.isfinite(weights).all()) or float(weights.min()) < 0:
        raise InputError(
            f"{what}_weights reach from {float(weights.min()):.3g} to {float(weights.max()):.3g}; give finite ones from 0 up"
        )
    return weights.expand(b, m)


def _from_one_hot(maps: Tensor, what: str, classes: int | None) -> Tensor:
    """Class ids uint8 [b n h w] of a 0/1 tensor [b n k h w]; a map without any class is a missing one, 255."""
    k = maps.shape[2]
    if k > MISSING or (classes is not None and k != classes):
        raise InputError(
            f"{what} have shape {list(maps.shape)}: one-hot [b n k h w] with k={k}, classes={classes}; make them agree"
        )
    ones = maps != 0
    if maps.dtype != torch.bool and not bool((ones == maps).all()):
        raise InputError(f"{what} [b n k h w] hold other values than 0 and 1; give argmax over k, integer [b n h w]")
    total = ones.sum(2, dtype=torch.uint8)
    missing = total.flatten(2).amax(-1) == 0
    if not bool(((total == 1) | missing[:, :, None, None]).all()):
        raise InputError(f"{what} [b n k h w] have pixels with no class or several; one-hot has one class a pixel")
    ids = ones.to(torch.uint8).argmax(2).to(torch.uint8)
    return ids.masked_fill(missing[:, :, None, None], MISSING)


def exact_dtype(device: torch.device) -> torch.dtype:
    """float64, but float32 on MPS."""
    return torch.float32 if device.type == "mps" else torch.float64
