"""Rows of small pictures: the image, its raters, samples, marginals. Plain pixels, so they cost nothing in training."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from stochseg.data.batches import in_order
from stochseg.data.store import MISSING_RATER, ClassInfo, Split
from stochseg.models.car import CAR
from stochseg.sampling.sample import latents

Pixels = NDArray[np.uint8]
GAP = 2
SCALE = 2


def save_panel(
    file: Path, model: CAR, split: Split, rows: Sequence[int], crop: int | None, seed: int, samples: int = 6
) -> None:
    """Draw one line an image: image, raters, samples, and the marginals q in grey."""
    batch = next(iter(in_order(split, len(rows), crop, rows)))
    maps = model.sample(batch.images, z=latents(seed, rows, samples, model.latent)).cpu().numpy()
    q = model.probabilities(batch.images).cpu()
    lines = []
    for image, labels, sampled, marginals in zip(batch.images, batch.labels.numpy(), maps, q):
        grey = ((image + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
        tiles = [as_rgb(grey)]
        tiles += [overlay(grey, label, model.classes) for label in labels]
        tiles += [overlay(grey, sample, model.classes) for sample in sampled]
        tiles.append(as_rgb((255 * (1 - marginals[0])).round().to(torch.uint8).numpy()[..., None]))
        lines.append(np.concatenate([_framed(t) for t in tiles], 1))
    sheet = Image.fromarray(np.concatenate(lines, 0))
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.resize((sheet.width * SCALE, sheet.height * SCALE), Image.Resampling.NEAREST).save(file)


def as_rgb(image: Pixels) -> Pixels:
    """Grey [h w 1] or colour [h w 3] to [h w 3]."""
    return np.repeat(image, 3, 2) if image.shape[2] == 1 else image[..., :3]


def overlay(image: Pixels, labels: Pixels, classes: Sequence[ClassInfo], opacity: float = 0.45) -> Pixels:
    """The image [h w c] under the colours of a class map [h w]; the first class stays clear, a missing rater is grey."""
    base = as_rgb(image).astype(np.float32)
    if (labels == MISSING_RATER).all():
        return np.full_like(base, 128).astype(np.uint8)
    for number, info in enumerate(classes[1:], 1):
        inside = labels == number
        base[inside] = (1 - opacity) * base[inside] + opacity * np.array(info.color, np.float32)
        base[inside & ~_interior(inside)] = info.color
    return base.round().astype(np.uint8)


def _interior(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels whose four neighbours are inside too."""
    padded = np.pad(mask, 1)
    return np.asarray(padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:])


def _framed(tile: Pixels) -> Pixels:
    return np.pad(tile, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)
