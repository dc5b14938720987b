"""One picture of all that a model says of an image: the image, the samples, their mean and entropy, and what they mean."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stochseg.data.store import ClassInfo
from stochseg.report.panels import ENTROPY_COLORS, PROBABILITY_COLORS, TILE, Pixels, Tile, example_tiles

WIDTH = 1640
"""About how wide a sheet is, in pixels; samples fill rows of this width."""
SHOWN = 48
"""Most samples on a sheet."""
NARROWEST = 150
"""Tiles narrower than this grow by a whole factor, so that there is room for their captions."""
MARGIN, GAP, CAPTION, LINE = 24, 8, 22, 24
INK, FAINT, PAPER = (28, 31, 35), (107, 113, 120), (255, 255, 255)
SCALE_WIDTH, SCALE_HEIGHT = 240, 14
MOST_CLASSES = 8
"""Classes that the legend lists, those in most samples first."""


def save_sheet(
    file: Path,
    title: str,
    image: Pixels,
    maps: Pixels,
    sets: NDArray[np.bool_] | None,
    sets_name: str,
    classes: Sequence[ClassInfo],
    notes: Sequence[str] = (),
    chosen: NDArray[np.int64] | None = None,
) -> None:
    """Draw the sheet. image: uint8 [c h w]; maps: uint8 [n h w], the samples; sets: bool [k h w], the coverage sets.

    sets_name: what the tile of the sets is called. notes: lines of text beside the legend. chosen: the numbers of the
    samples to show, the first ones by default; mean and entropy are those of all.
    """
    two = len(classes) == 2
    shown = SHOWN if chosen is None else len(chosen)
    if chosen is not None:
        maps = np.concatenate([maps[chosen], np.delete(maps, chosen, 0)])
    legend = _legend(maps, classes)
    image, maps, sets = _smaller(image, maps, sets)
    # the sets go in as what is drawn the same way: for two classes a rater's outline, for more the probabilities q
    outline = sets[1:].astype(np.uint8) if sets is not None and two else maps[:0]
    q = possible(sets) if sets is not None else np.zeros((len(classes), *maps.shape[1:]))
    tiles = example_tiles(image, outline, maps, q, classes, shown)
    factor = -(-NARROWEST // tiles[0].pixels.shape[1])
    tiles = [replace(tile, pixels=tile.pixels.repeat(factor, 0).repeat(factor, 1)) for tile in tiles]
    named = {tile.name: tile for tile in tiles}
    top = [named["image"], replace(named["mean of samples"], name="mean")]
    top.append(replace(named["entropy of mean"], name="entropy"))
    if sets is not None:
        top.append(replace(named["label" if two else "q"], name=sets_name))
    samples = [tile for tile in tiles if tile.group == "samples"]
    h, w = top[0].pixels.shape[:2]
    step = w + GAP
    columns = max(1, (WIDTH + GAP) // step)
    width = max(columns * step - GAP, len(top) * step - GAP)
    beside = width - len(top) * step - MARGIN >= SCALE_WIDTH + 200  # room for the words right of the first row
    if chosen is None and len(samples) < len(maps):
        notes = [*notes, f"the first {len(samples)} samples are shown"]
    words = LINE * (len(legend) + len(notes)) + 8 + (2 if two else 1) * (SCALE_HEIGHT + LINE)
    first_row = h + CAPTION if not beside else max(h + CAPTION, words)
    below = 0 if beside else words + MARGIN
    rows = -(-len(samples) // columns)
    height = MARGIN + 40 + first_row + below + MARGIN + rows * (h + CAPTION + GAP) + MARGIN - GAP
    page = Image.new("RGB", (width + 2 * MARGIN, height), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN - 4), _shortened(title, width), fill=INK, font=_font(22))
    y = MARGIN + 40
    for i, tile in enumerate(top):
        _paste(page, draw, tile, MARGIN + i * step, y)
    left, down = (MARGIN + len(top) * step + MARGIN, y) if beside else (MARGIN, y + first_row + MARGIN)
    _words(page, draw, left, down, legend, notes, classes)
    y += first_row + below + MARGIN
    for i, tile in enumerate(samples):
        _paste(page, draw, tile, MARGIN + i % columns * step, y + i // columns * (h + CAPTION + GAP))
    page.save(file)


def _smaller(
    image: Pixels, maps: Pixels, sets: NDArray[np.bool_] | None
) -> tuple[Pixels, Pixels, NDArray[np.bool_] | None]:
    """All three shrunk by a whole factor where they are far larger than a tile: less memory and time for the same picture."""
    step = max(image.shape[1:]) // (2 * TILE)
    if step < 2:
        return image, maps, sets
    reduced = np.stack([np.asarray(Image.fromarray(channel).reduce(step)) for channel in image])
    return reduced, maps[:, ::step, ::step], None if sets is None else sets[:, ::step, ::step]


def possible(sets: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The classes that may be at a pixel, alike: [k h w], from sets [k h w]; those possible everywhere do not count."""
    told = sets & ~sets.all((1, 2), keepdims=True)
    return np.asarray(told / np.maximum(told.sum(0), 1))


def _legend(maps: Pixels, classes: Sequence[ClassInfo]) -> list[tuple[ClassInfo, str]]:
    """For each class but the first: in how many samples it is, and how large it is there."""
    lines = []
    for number, info in enumerate(classes[1:], 1):
        areas = (maps == number).sum((1, 2))
        seen = areas[areas > 0]
        if len(seen) == 0 and len(classes) > 2:
            continue
        low, middle, high = np.quantile(seen, [0.05, 0.5, 0.95]) if len(seen) else (0, 0, 0)
        size = f", where seen {middle:.0f} pixels ({low:.0f} to {high:.0f})" if len(seen) else ""
        lines.append((len(seen), info, f"{info.name}: in {len(seen)} of {len(maps)} samples{size}"))
    lines.sort(key=lambda line: -line[0])
    return [(info, text) for _, info, text in lines[:MOST_CLASSES]]


def _words(
    page: Image.Image,
    draw: ImageDraw.ImageDraw,
    x: int,
    y: int,
    legend: Sequence[tuple[ClassInfo, str]],
    notes: Sequence[str],
    classes: Sequence[ClassInfo],
) -> None:
    room = page.width - x - MARGIN
    for info, text in legend:
        draw.rectangle((x, y + 3, x + 13, y + 16), fill=info.color, outline=FAINT)
        draw.text((x + 22, y), _shortened(text, room - 22, 15), fill=INK, font=_font(15))
        y += LINE
    for note in notes:
        draw.text((x, y), _shortened(note, room, 15), fill=FAINT, font=_font(15))
        y += LINE
    y += 8
    scales = [(ENTROPY_COLORS, "entropy (1: all classes alike)")]
    if len(classes) == 2:
        scales.insert(0, (PROBABILITY_COLORS, f"mean: how often {classes[1].name}"))
    for colors, text in scales:
        page.paste(_scale(colors), (x, y))
        under = y + SCALE_HEIGHT + 2
        draw.text((x, under), "0", fill=FAINT, font=_font(13))
        draw.text((x + SCALE_WIDTH, under), "1", fill=FAINT, font=_font(13), anchor="ra")
        text = _shortened(text, room - SCALE_WIDTH - 12, 15)
        draw.text((x + SCALE_WIDTH + 12, y - 3), text, fill=INK, font=_font(15))
        y += SCALE_HEIGHT + LINE


def _scale(colors: str) -> Image.Image:
    from matplotlib import colormaps

    ramp = colormaps[colors](np.linspace(0, 1, SCALE_WIDTH), bytes=True)[None, :, :3]
    return Image.fromarray(np.ascontiguousarray(ramp.repeat(SCALE_HEIGHT, 0)))


def _paste(page: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, x: int, y: int) -> None:
    w = tile.pixels.shape[1]
    name = tile.name + (f" ({tile.note})" if tile.note else "")
    draw.text((x + w // 2, y + 2), _shortened(name, w, 15), fill=INK, font=_font(15), anchor="ma")
    page.paste(Image.fromarray(tile.pixels), (x, y + CAPTION))


def _shortened(text: str, width: int, size: int = 22) -> str:
    """The text, cut at its end so that it fits."""
    font = _font(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
