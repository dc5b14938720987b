"""Layers that the page puts over an image: PNGs of the image's size, clear where there is nothing to say."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from stochseg.data.store import ClassInfo
from stochseg.report.panels import ENTROPY_COLORS, PROBABILITY_COLORS, as_rgb, interior, is_clear, normalised_entropy

FILL = 110
"""Opacity of 255 inside a region; its outline is opaque."""
VISIBLE = 0.004
"""Probabilities and entropies below this are clear."""


def image_picture(image: Tensor) -> bytes:
    """An image [c h w] in [-1, 1]."""
    return _png(as_rgb(((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()))


def map_layer(map_: NDArray[np.uint8], classes: Sequence[ClassInfo]) -> bytes:
    """Regions of a class map [h w] in the colours of their classes, with outlines; black classes are clear."""
    layer = np.zeros((*map_.shape, 4), np.uint8)
    for number, info in enumerate(classes):
        if is_clear(info):
            continue
        inside = map_ == number
        layer[inside] = (*info.color, FILL)
        layer[inside & ~interior(inside)] = (*info.color, 255)
    return _png(layer)


def mean_layer(mean: NDArray[np.floating], classes: Sequence[ClassInfo]) -> bytes:
    """Of [k h w]: for two classes how likely the second; for more their colours mixed, black ones being clear."""
    if len(classes) == 2:
        return _png(_colored(1 - mean[0].astype(np.float64), PROBABILITY_COLORS))
    colors = np.array([info.color for info in classes], np.float64)
    p = mean.astype(np.float64) * np.array([not is_clear(info) for info in classes])[:, None, None]
    marked = p.sum(0)
    mixed = np.einsum("khw,kc->hwc", p, colors) / np.maximum(marked, 1e-6)[..., None]
    return _png(np.concatenate([mixed, 255 * marked[..., None]], 2).round().clip(0, 255).astype(np.uint8))


def entropy_layer(mean: NDArray[np.floating]) -> bytes:
    """Of [k h w]."""
    return _png(_colored(normalised_entropy(mean), ENTROPY_COLORS))


def scale_picture(name: str) -> bytes:
    """A colour scale from 0 to 1: "mean" or "entropy"."""
    from matplotlib import colormaps

    ramp = colormaps[PROBABILITY_COLORS if name == "mean" else ENTROPY_COLORS](np.linspace(0, 1, 128), bytes=True)
    return _png(np.ascontiguousarray(ramp[None, :, :3]))


def _colored(values: NDArray[np.float64], name: str) -> NDArray[np.uint8]:
    from matplotlib import colormaps

    layer = np.array(colormaps[name](values, bytes=True), np.uint8)
    layer[..., 3] = np.where(values > VISIBLE, 255, 0)
    return layer


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()
