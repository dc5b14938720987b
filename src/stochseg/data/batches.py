"""From a split to training batches: cropped, varied jointly for image, raters and black box, a pure function of (seed, step).

Since nothing is carried over from one batch to the next, a run can be resumed at any step, in the middle of an epoch.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stochseg.config import Crop, InputConfig
from stochseg.data.class_flips import draw_flips, flip_classes
from stochseg.data.store import SOFT_STEPS, Split, read_ahead
from stochseg.errors import InputError


@dataclass(frozen=True)
class Batch:
    """images: float32 [b c h w] in [-1, 1]; labels: uint8 [b r h w].

    blackbox: where it is asked for, what a given segmenter says: class ids uint8 [b h w] with 255 where they are unknown,
    or probabilities float32 [b j h w] of the first j classes.
    """

    images: Tensor
    labels: Tensor
    blackbox: Tensor | None = None


class Portion(NamedTuple):
    """Some rows of a batch of `whole` images.

    Random numbers are drawn for the whole batch and those of the rows kept, so that processes which share a batch see
    what one process alone would.
    """

    whole: int
    rows: slice = slice(None)


class Batches:
    """Training batches of a split; `batches.at(step)` is the batch of that step, whatever was asked before.

    Every epoch is a new permutation of the split, seeded by (seed, epoch); the rest that does not fill a batch waits
    for another epoch. A split smaller than a batch is repeated within it. All raters are delivered, in random order.
    Where classes flip, an image's one label gives `label_draws` labels with flips drawn afresh in each step.
    """

    def __init__(
        self, split: Split, size: int, config: InputConfig, seed: int, flips: Sequence[tuple[int, int, float]] = ()
    ) -> None:
        self.split, self.size, self.config, self.seed, self.flips = split, size, config, seed, flips
        self.per_epoch = max(1, len(split) // size)
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, int))  # of the epoch last asked for
        check_crop(split, config.crop)
        check_blackbox(split, config.blackbox)
        if flips and split.labels.shape[1] != 1:
            raise InputError(
                f"split '{split.name}' has {split.labels.shape[1]} raters and classes that flip; flips are made of one label "
                "an image: prepare the store with one"
            )

    def epoch_of(self, step: int) -> int:
        return step // self.per_epoch

    def rows_at(self, step: int) -> np.ndarray:
        """The rows of the split that make up the batch of this step."""
        epoch, index = divmod(step, self.per_epoch)
        if self._order[0] != epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.split))
            self._order = epoch, np.resize(order, max(self.size, len(order)))
        return self._order[1][index * self.size : (index + 1) * self.size]

    def at(self, step: int, rows: slice = slice(None)) -> Batch:
        """The batch of this step, or some rows of it."""
        generator, config = self._generator(step, 1), self.config
        chosen, portion = self.rows_at(step)[rows], Portion(self.size, rows)
        if config.rotate or config.scale:
            window = dataclasses.replace(config, crop=_window(self.split, config.crop))
            images, maps = read_rows(self.split, chosen, window, generator, portion)
            images, maps = warp(images, maps, config, generator, portion)
        else:
            images, maps = read_rows(self.split, chosen, config, generator, portion)
        batch = augment(images, maps, config, generator, self.split.labels.shape[1], portion)
        return self._flipped(batch, step, rows) if self.flips else batch

    def _flipped(self, batch: Batch, step: int, rows: slice) -> Batch:
        """The batch with flips drawn afresh, made in the labels, and in the black box's ids where that is asked for."""
        happens = draw_flips(self.flips, self.size, self.config.label_draws, self._generator(step, 4))[rows]
        seen = batch.blackbox
        if seen is not None and self.config.flip_blackbox:
            if seen.ndim != 3:
                raise InputError("--input.flip_blackbox true: takes class ids, the store holds probabilities; save ids")
            seen = flip_classes(seen[:, None], self.flips, happens)[:, 0]
        return dataclasses.replace(batch, labels=flip_classes(batch.labels, self.flips, happens), blackbox=seen)

    def _generator(self, step: int, purpose: int) -> torch.Generator:
        """One for each step and purpose, so that none depends on how much another draws."""
        return torch.Generator().manual_seed(int(np.random.default_rng([self.seed, step, purpose]).integers(2**62)))


def in_order(
    split: Split, size: int, crop: Crop, rows: Sequence[int] | None = None, blackbox: bool = False
) -> Iterator[Batch]:
    """The images of a split once, in order, centre-cropped, in batches of at most `size`; with its black box if asked."""
    check_crop(split, crop)
    check_blackbox(split, blackbox)
    chosen = np.arange(len(split)) if rows is None else np.asarray(rows)
    config = InputConfig(crop=crop, jitter=0, blackbox=blackbox)
    for start in range(0, len(chosen), size):
        images, maps = read_rows(split, chosen[start : start + size], config, None)
        yield Batch(images.mul_(2).sub_(1), *_apart(maps, split.labels.shape[1]))


def centre_crop_for(size: tuple[int, int], split: Split) -> Crop:
    """The centre crop that gives a split's images the size (h, w) a model was trained at; None where there is none."""
    h, w = split.images.shape[1:3]
    return None if (h, w) == size or h < size[0] or w < size[1] else size


def crop_size(crop: Crop, image: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of the crop of an image (h, w)."""
    return image if crop is None else (crop, crop) if isinstance(crop, int) else crop


def check_crop(split: Split, crop: Crop) -> None:
    """InputError where the images are smaller than the crop."""
    h, w = split.images.shape[1:3]
    ch, cw = crop_size(crop, (h, w))
    if ch > h or cw > w:
        wanted, most = (f"{crop}", f"{min(h, w)}") if isinstance(crop, int) else (f"[{ch}, {cw}]", f"[{h}, {w}]")
        raise InputError(
            f"--input.crop {wanted}: the images of split '{split.name}' are {h}x{w}; choose {most} or less"
        )


def check_blackbox(split: Split, wanted: bool) -> None:
    """InputError where a black box is wanted and the split holds none."""
    if wanted and "blackbox" not in split.extras:
        raise InputError(
            f"split '{split.name}' of the store holds no black box, which this model sees; add its predictions with "
            "`stochseg blackbox import` or `stochseg blackbox predict`, give the segmenter itself as blackbox= in Python, or "
            "train without: --input.blackbox false"
        )


def read_rows(
    split: Split,
    rows: np.ndarray,
    config: InputConfig,
    generator: torch.Generator | None,
    portion: Portion | None = None,
) -> tuple[Tensor, Tensor]:
    """Read and crop rows of a split: images float32 [b c h w] in [0, 1], and their maps uint8 [b r+p h w] (`planes`).

    The crop is centred; with a generator it moves off the centre by up to config.jitter of the room there is, and half
    of the images show less than the crop, enlarged to its size, where config.zoom has shares.
    """
    whole = (split.images.shape[1], split.images.shape[2])
    size = crop_size(config.crop, whole)
    part = portion or Portion(len(rows))
    windows = np.tile(size, (part.whole, 1))
    if generator is not None and config.zoom:
        share = torch.tensor(config.zoom)[torch.randint(len(config.zoom), (part.whole,), generator=generator)]
        share = share.where(torch.rand(part.whole, generator=generator) < 0.5, 1.0)
        windows = np.maximum(1, np.rint(windows * share.double().numpy()[:, None])).astype(int)
    room = np.array(whole) - windows
    start = room // 2
    if generator is not None and config.jitter and room.any():
        move = torch.rand(part.whole, 2, generator=generator).numpy() - 0.5
        start = np.rint(room / 2 + move * room * config.jitter).astype(int)
    for array in (split.images, split.labels, *([split.extras["blackbox"]] if config.blackbox else [])):
        read_ahead(array, rows)
    images, maps = [], []
    for i, (t, x), (wh, ww) in zip(rows, start[part.rows], windows[part.rows]):
        down, across = slice(t, t + wh), slice(x, x + ww)
        image = torch.from_numpy(np.array(split.images[i, down, across])).permute(2, 0, 1).float()
        of_image = torch.from_numpy(np.array(planes(split, i, down, across, config)))
        if (wh, ww) != size:
            image = F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]
            of_image = F.interpolate(of_image[None], size, mode="nearest-exact")[0]
        images.append(image)
        maps.append(of_image)
    return torch.stack(images).div_(255), torch.stack(maps)


def planes(split: Split, row: int, down: slice, across: slice, config: InputConfig) -> np.ndarray:
    """The raters' maps of a part of an image, then those of its black box where it is asked for: uint8 [r+p h w].

    p is 1 for class ids, j for probabilities of j classes, 0 without. In one array whatever moves the one moves the other.
    """
    labels: np.ndarray = split.labels[row, :, down, across]
    if not config.blackbox:
        return labels
    seen = split.extras["blackbox"][row, ..., down, across]
    return np.concatenate([labels, seen if seen.ndim == 3 else seen[None]])


def _apart(maps: Tensor, raters: int) -> tuple[Tensor, Tensor | None]:
    """Labels and black box as in `Batch`, of maps [b r+p h w]."""
    labels, seen = maps[:, :raters], maps[:, raters:]
    if not seen.shape[1]:
        return labels, None
    return labels, seen[:, 0] if seen.shape[1] == 1 else seen.float().div_(SOFT_STEPS)


def _window(split: Split, crop: Crop) -> Crop:
    """What is read for a crop that is rotated or shrunk: room for what comes in at its corners, if there is."""
    whole = (split.images.shape[1], split.images.shape[2])
    h, w = (min(side, math.ceil(1.5 * wanted)) for side, wanted in zip(whole, crop_size(crop, whole)))
    return None if crop is None else (h, w)


def warp(
    images: Tensor, maps: Tensor, config: InputConfig, generator: torch.Generator, portion: Portion | None = None
) -> tuple[Tensor, Tensor]:
    """Rotate and scale images [b c h w] in [0, 1] and maps [b r h w] about their centre, and crop to config.crop.

    Images by bicubic interpolation, maps by the nearest pixel, both mirrored beyond their border. An angle and a scale
    an image, uniform up to config.rotate either way, log-uniform up to config.scale; config.warped of the images have
    them, the others are cropped as they are.
    """
    b, c, h, w = images.shape
    ch, cw = crop_size(config.crop, (h, w))
    part = portion or Portion(b)
    angle, scale = (torch.rand(2, part.whole, generator=generator) * 2 - 1)[:, part.rows]
    if config.warped < 1:
        chosen = torch.rand(part.whole, generator=generator)[part.rows] < config.warped
        angle, scale = angle * chosen, scale * chosen
    angle = angle * math.radians(config.rotate)
    scale = (scale * math.log1p(config.scale)).exp()
    cos, sin, zero = angle.cos() * scale, angle.sin() * scale, torch.zeros(b)
    rows = [torch.stack([cos * cw / w, -sin * ch / w, zero], 1), torch.stack([sin * cw / h, cos * ch / h, zero], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), [b, c, ch, cw], align_corners=False)
    warped = F.grid_sample(images, grid, "bicubic", "reflection", align_corners=False).clamp_(0, 1)
    nearest = F.grid_sample(maps.float(), grid, "nearest", "reflection", align_corners=False)
    return warped, nearest.to(maps.dtype)


def augment(
    images: Tensor,
    maps: Tensor,
    config: InputConfig,
    generator: torch.Generator,
    raters: int | None = None,
    portion: Portion | None = None,
) -> Batch:
    """Vary images [b c h w] in [0, 1] and maps [b r+p h w] (`planes`) jointly, and shuffle each image's raters.

    raters: r; without it all maps are theirs.
    """
    from kornia.enhance import adjust_contrast_with_mean_subtraction, adjust_gamma
    from kornia.geometry.transform import hflip, vflip

    part = portion or Portion(len(images))
    for flip in {"none": (), "horizontal": (hflip,), "both": (hflip, vflip)}[config.flips]:
        chosen = torch.rand(part.whole, generator=generator)[part.rows] < 0.5
        images[chosen], maps[chosen] = flip(images[chosen]), flip(maps[chosen])
    if config.turns and images.shape[-1] == images.shape[-2]:
        quarters = torch.randint(4, (part.whole,), generator=generator)[part.rows]
        for k in (1, 2, 3):
            chosen = quarters == k
            images[chosen] = images[chosen].rot90(k, (-2, -1))
            maps[chosen] = maps[chosen].rot90(k, (-2, -1))
    if config.intensity:
        changes = torch.rand(3, part.whole, generator=generator)[:, part.rows]
        gamma, contrast, brightness = (changes * 2 - 1) * config.intensity
        images = adjust_gamma(images, gamma.exp())
        images = adjust_contrast_with_mean_subtraction(images, contrast.exp())
        images = (images + brightness[:, None, None, None]).clamp(0, 1)
    labels, blackbox = _apart(maps, maps.shape[1] if raters is None else raters)
    order = torch.rand(part.whole, labels.shape[1], generator=generator)[part.rows].argsort(1)
    labels = labels.gather(1, order[:, :, None, None].expand_as(labels))
    return Batch(images * 2 - 1, labels, blackbox)
