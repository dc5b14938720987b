"""Small pictures: an image under class maps, probabilities and entropies in colour; plain pixels, no plotting."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stochseg.config import Crop
from stochseg.data.batches import in_order
from stochseg.data.store import MISSING_RATER, ClassInfo, Split
from stochseg.models.segmenter import Segmenter
from stochseg.sampling.latents import latents

Pixels = NDArray[np.uint8]
GAP = 2
SCALE = 2
HEADING = 20
TILE = 192
"""Longer side, in pixels, at which pages and figures hold one picture; small images grow by whole factors."""
PALETTE = 96
"""Colours of an embedded picture that has more than 256: hardly seen at this size, and a third of the bytes."""
PROBABILITY_COLORS, ENTROPY_COLORS = "viridis", "magma"
"""Colour maps that stay ordered for colour-blind eyes and in grey print."""


@dataclass(frozen=True)
class Tile:
    """One picture of an example. pixels: uint8 [h w 3]; group: image, raters, model or samples; note: what to say of it."""

    group: str
    name: str
    pixels: Pixels
    note: str = ""


def save_panel(
    file: Path, model: Segmenter, split: Split, rows: Sequence[int], crop: Crop, seed: int, samples: int = 6
) -> None:
    """Draw one line an image: image, raters, samples, and q: of two classes P(not background), white where it is 1, of more
    the classes' colours mixed by their probabilities."""
    batch = next(iter(in_order(split, len(rows), crop, rows, model.needs_blackbox)))
    z = latents(seed, rows, samples, model.latent)
    maps = model.sample(batch.images, z=z, blackbox=batch.blackbox).cpu().numpy()
    q = model.probabilities(batch.images, batch.blackbox).cpu()
    lines = []
    for image, labels, sampled, marginals in zip(batch.images, batch.labels.numpy(), maps, q):
        grey = ((image + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
        mixed = (255 * (1 - marginals[:1])).round().to(torch.uint8).permute(1, 2, 0).numpy()
        if len(marginals) > 2:
            mixed = mixed_colors(marginals.numpy(), model.classes)
        groups = {
            "image": [as_rgb(grey)],
            "raters": [overlay(grey, label, model.classes) for label in labels],
            "samples": [overlay(grey, sample, model.classes) for sample in sampled],
            "q": [as_rgb(mixed)],
        }
        blocks = [_framed(np.concatenate([_framed(tile) for tile in tiles], 1)) for tiles in groups.values()]
        lines.append(np.concatenate(blocks, 1))
    sheet = Image.fromarray(np.concatenate(lines, 0))
    sheet = sheet.resize((sheet.width * SCALE, sheet.height * SCALE), Image.Resampling.NEAREST)
    starts = SCALE * np.cumsum([0, *(block.shape[1] for block in blocks[:-1])])
    file.parent.mkdir(parents=True, exist_ok=True)
    _with_headings(sheet, list(zip(groups, starts.tolist()))).save(file)


def example_tiles(
    image: Pixels, labels: Pixels, samples: Pixels, q: NDArray[np.floating], classes: Sequence[ClassInfo], shown: int
) -> list[Tile]:
    """The pictures of one example: the image, each rater, mean and entropy of samples and q, the first `shown` samples.

    image: uint8 [c h w]; labels, samples: uint8 [r h w], [n h w]; q: [k h w]. The mean is that of all n samples.
    """
    base = _sized(image.transpose(1, 2, 0))
    mean = (samples[:, None] == np.arange(len(classes))[:, None, None]).mean(0)  # [k h w]
    tiles = [Tile("image", "image", as_rgb(base))]
    names = ["label"] if len(labels) == 1 else [f"rater {i}" for i in range(1, len(labels) + 1)]
    tiles += [_map_tile("raters", name, base, m, classes) for name, m in zip(names, labels)]
    tiles.append(Tile("model", "mean of samples", probability_picture(mean, classes)))
    tiles.append(Tile("model", "q", probability_picture(q, classes)))
    tiles.append(Tile("model", "entropy of mean", entropy_picture(mean)))
    tiles.append(Tile("model", "entropy of q", entropy_picture(q)))
    return tiles + [_map_tile("samples", f"sample {i}", base, m, classes) for i, m in enumerate(samples[:shown], 1)]


def probability_picture(p: NDArray[np.floating], classes: Sequence[ClassInfo]) -> Pixels:
    """P(not background) on the colour scale for two classes; for more, class colours mixed by their probabilities."""
    if len(p) == 2:
        return _sized(_colored(1 - p[0].astype(np.float64), PROBABILITY_COLORS), nearest=True)
    return _sized(mixed_colors(p, classes))


def mixed_colors(p: NDArray[np.floating], classes: Sequence[ClassInfo]) -> Pixels:
    """The classes' colours mixed by their probabilities [k h w]: [h w 3]."""
    mixed = np.einsum("khw,kc->hwc", p.astype(np.float64), np.array([c.color for c in classes], np.float64))
    return np.asarray(mixed.clip(0, 255).round(), np.uint8)


def is_clear(info: ClassInfo) -> bool:
    """Whether pictures leave the image as it is where this class is: those that are black, as a background."""
    return info.color == (0, 0, 0)


def entropy_picture(p: NDArray[np.floating]) -> Pixels:
    return _sized(_colored(normalised_entropy(p), ENTROPY_COLORS), nearest=True)


def normalised_entropy(p: NDArray[np.floating]) -> NDArray[np.float64]:
    """Entropy over classes of p [k h w] as a share of its largest value log k: [h w] in 0..1.

    >>> normalised_entropy(np.array([[[0.5, 1.0]], [[0.5, 0.0]]])).tolist()
    [[1.0, 0.0]]
    """
    p = p.astype(np.float64).clip(0, 1)
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    return np.asarray((np.abs(p * logs).sum(0) / np.log(len(p))).clip(0, 1))


def as_rgb(image: Pixels) -> Pixels:
    """Grey [h w 1] or colour [h w 3] to [h w 3]; of other channels the first three, or the first where there are two."""
    return np.repeat(image[..., :1], 3, 2) if image.shape[2] < 3 else image[..., :3]


def overlay(
    image: Pixels, labels: Pixels, classes: Sequence[ClassInfo], opacity: float = 0.45, line: int = 1
) -> Pixels:
    """The image [h w c] under the colours of a class map [h w]; black classes stay clear, a missing rater is grey.

    line: width of the outlines in pixels, drawn inside the regions.
    """
    base = as_rgb(image).astype(np.float32)
    if (labels == MISSING_RATER).all():
        return np.full_like(base, 128).astype(np.uint8)
    for number, info in enumerate(classes):
        if is_clear(info):
            continue
        inside = core = labels == number
        for _ in range(line):
            core = interior(core)
        base[inside] = (1 - opacity) * base[inside] + opacity * np.array(info.color, np.float32)
        base[inside & ~core] = info.color
    return base.round().astype(np.uint8)


def png_bytes(pixels: Pixels) -> bytes:
    """The picture [h w 3] as a PNG file with a palette: exact up to 256 colours, else reduced to PALETTE of them."""
    image = Image.fromarray(pixels)
    codes, numbers = np.unique(
        pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32), return_inverse=True
    )
    if len(codes) <= 256:
        image = Image.fromarray(numbers.reshape(pixels.shape[:2]).astype(np.uint8))
        image.putpalette(np.stack([codes >> 16, codes >> 8 & 255, codes & 255], 1).astype(np.uint8).tobytes())
    else:
        image = image.quantize(PALETTE, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def _map_tile(group: str, name: str, base: Pixels, labels: Pixels, classes: Sequence[ClassInfo]) -> Tile:
    note = "missing" if (labels == MISSING_RATER).all() else "" if labels.any() else "nothing"
    enlarged = _sized(labels[..., None], nearest=True)[..., 0]
    opacity, line = (0.2, 2) if len(classes) == 2 else (0.6, 1)  # of one class the outline says all
    return Tile(group, name, overlay(base, enlarged, classes, opacity, line), note)


def _sized(image: Pixels, nearest: bool = False) -> Pixels:
    """The picture [h w c] at about TILE pixels: repeated pixels where it is small, shrunk where it is large."""
    h, w = image.shape[:2]
    if max(h, w) <= TILE:
        factor = TILE // max(h, w)
        return image.repeat(factor, 0).repeat(factor, 1)
    size = (round(w * TILE / max(h, w)), round(h * TILE / max(h, w)))
    how = Image.Resampling.NEAREST if nearest else Image.Resampling.BOX
    channels = [np.asarray(Image.fromarray(channel).resize(size, how)) for channel in image.transpose(2, 0, 1)]
    return np.stack(channels, -1)


def _colored(values: NDArray[np.float64], name: str) -> Pixels:
    from matplotlib import colormaps

    return np.asarray(colormaps[name](values, bytes=True)[..., :3])


def interior(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels whose four neighbours are inside too."""
    padded = np.pad(mask, 1)
    return np.asarray(mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:])


def _framed(tile: Pixels) -> Pixels:
    """The picture with white to its right and below it."""
    return np.pad(tile, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)


def _with_headings(sheet: Image.Image, headings: Sequence[tuple[str, int]]) -> Image.Image:
    """The sheet under one line of words, each over the column it starts at."""
    page = Image.new("RGB", (sheet.width, sheet.height + HEADING), "white")
    page.paste(sheet, (0, HEADING))
    draw = ImageDraw.Draw(page)
    for text, left in headings:
        draw.text((left, GAP), text, fill="black", font=ImageFont.load_default(14))
    return page
