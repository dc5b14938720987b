"""The embedded default data: generated CT-like patches whose distribution of segmentations is known exactly.

A patch shows lung-like texture with vessels, now and then the chest wall, and one lesion made of up to three parts
that do not overlap: a bright **core**, a fainter **halo** around it and an adjacent **lobe** behind a thin dark cleft.
Three questions have no single answer, and what is visible says how likely each answer is:

- presence: is there a lesion at all? The fainter the core, the more raters mark nothing;
- extent: does the halo belong to it? The closer its brightness is to the core's, the more say yes;
- structure: does the lobe belong to it? Likewise.

`mode_probabilities` is the whole rule. Every part is drawn with an edge above the noise, so a network that sees the
patch can outline every mode and read off every cue; nothing that decides a probability is hidden from it.
"""

from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from stochseg.data.store import LESION_CLASSES
from stochseg.data.store_writer import StoreWriter
from stochseg.data.workers import Workers, cores
from stochseg.errors import InputError
from stochseg.progress import track

MODES = ("nothing", "core", "core and halo", "core and lobe", "core, halo and lobe")
"""What the rows of `modes` and `mode_probabilities` are, the same in every image."""

CUES = ("contrast", "halo", "lobe")
"""What the columns of `cues` are: see `mode_probabilities`."""

SMALLEST = 32
FEW_IMAGES = 1000
"""Up to so many, starting workers takes longer than the work."""
SPLITS = ("train", "val", "test")

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class AmbiguousImage:
    """One generated image and the exact distribution of its segmentations.

    image: uint8 [h w 1]; modes: uint8 [m h w] of 0 and 1, m = len(MODES), all zero where the probability is 0;
    probabilities: float64 [m], sum 1, of maps that are all different; cues: float64 [3], see `mode_probabilities`.
    """

    image: NDArray[np.uint8]
    modes: NDArray[np.uint8]
    probabilities: Floats
    cues: Floats


def mode_probabilities(cues: ArrayLike) -> Floats:
    """The exact probability of each mode given the three visible cues.

    contrast is the core's brightness above its surroundings (the grey range is 0 to 1); halo and lobe are the
    brightness of those parts above the surroundings as a share of contrast, and 0 where the image has no such part.
    With s the logistic function:

        P(nothing) = 1 - s((contrast - 0.27) / 0.10)
        given that something is marked, the maps with and without halo and lobe have weights
        core 1,  core and halo exp(a),  core and lobe exp(b),  core, halo and lobe exp(a + b + 1)
        with a = (halo - 0.50) / 0.18,  b = (lobe - 0.82) / 0.18,  and weight 0 where a part is absent.

    The 1 makes the two decisions dependent: who takes in one part is more likely to take in the other.

    Args:
        cues: float [... 3] in the order of `CUES`.

    Returns:
        float64 [... m] in the order of `MODES`; sums to 1.
    """
    contrast, halo, lobe = np.moveaxis(np.asarray(cues, dtype=np.float64), -1, 0)
    present = 1 / (1 + np.exp(-(contrast - 0.27) / 0.10))
    with_halo = np.where(halo > 0, np.exp((halo - 0.50) / 0.18), 0.0)
    with_lobe = np.where(lobe > 0, np.exp((lobe - 0.82) / 0.18), 0.0)
    weights = np.stack([np.ones_like(contrast), with_halo, with_lobe, with_halo * with_lobe * np.e], axis=-1)
    marked = present[..., None] * weights / weights.sum(axis=-1, keepdims=True)
    return np.concatenate([1 - present[..., None], marked], axis=-1)


def draw_from_modes(
    modes: NDArray[np.uint8], probabilities: ArrayLike, n: int, seed: int | np.random.Generator
) -> NDArray[np.uint8]:
    """Draw n maps an image, independently, from its exact distribution: what a perfect model would sample.

    Args:
        modes: uint8 [N m h w].
        probabilities: float [N m], each row summing to 1.
        n: How many maps to draw for each image.
        seed: A seed, or a numpy Generator to draw from.

    Returns:
        uint8 [N n h w].
    """
    sums = np.cumsum(np.asarray(probabilities, dtype=np.float64), axis=1)
    uniform = np.random.default_rng(seed).random((len(modes), n)) * sums[:, -1:]
    chosen = (uniform[:, :, None] >= sums[:, None, :-1]).sum(axis=2)
    return np.asarray(modes[np.arange(len(modes))[:, None], chosen])


def ambiguous_image(rng: np.random.Generator, size: int = 64) -> AmbiguousImage:
    """Generate one image with its modes and their probabilities.

    The core covers 15 to 23 % of the pixels, the halo 0.7 to 1.1 times as many again, the lobe another 8 to 13 %.
    Eight images of ten have both halo and lobe and thus five modes, the others lack one of them and have three.

    Args:
        rng: Where all randomness comes from.
        size: Height and width in pixels.
    """
    noise = _noise(rng, size)
    contrast = rng.uniform(0.20, 0.55)
    halo = rng.uniform(0.25, 0.65)
    lobe = rng.uniform(max(0.50, halo + 0.18), 1.05)
    lacks = rng.uniform()
    halo, lobe = (0.0 if lacks < 0.10 else halo), (0.0 if lacks > 0.90 else lobe)
    cues = np.array([contrast, halo, lobe])
    core_part, halo_part, lobe_part, core_distance = _parts(rng, noise, halo > 0, lobe > 0)
    probabilities = mode_probabilities(cues)
    modes = np.stack(
        [
            np.zeros_like(core_part),
            core_part,
            core_part | halo_part,
            core_part | lobe_part,
            core_part | halo_part | lobe_part,
        ]
    )
    modes &= (probabilities > 0)[:, None, None]

    cleft = lobe_part & (core_distance < max(1.5, 0.03 * size))
    level = core_part + halo * halo_part + lobe * np.where(cleft, 0.25, 1.0) * lobe_part
    level += 0.14 * _centred(noise["blotches"], core_part) + 0.05 * _centred(noise["mottle"], halo_part)
    solid = ndimage.gaussian_filter((core_part | lobe_part).astype(np.float64), 1.0)
    grey = _background(rng, noise, solid) + contrast * ndimage.gaussian_filter(level, 0.7)
    grey += rng.uniform(0.020, 0.034) * noise["grain"]
    image = np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)[..., None]
    return AmbiguousImage(image, modes.astype(np.uint8), probabilities, cues)


def prepare_ambiguous(
    out: Path,
    images: int = 2400,
    val: int = 300,
    test: int = 300,
    size: int = 64,
    raters: int = 4,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Generate a store of CT-like patches whose lesions are truly ambiguous, with the exact distribution of each.

    Beside images and labels each split holds `modes` uint8 [N m h w], `mode_probabilities` float32 [N m] and `cues`
    float32 [N 3]. The labels are independent draws from the modes. Image i of a split depends on the seed alone, not
    on how many images or raters are made.

    Args:
        out: Folder of the new store.
        images: Number of training images.
        val: Number of validation images; 0 leaves the split out.
        test: Number of test images; 0 leaves the split out.
        size: Height and width in pixels, at least 32.
        raters: Simulated raters of each image.
        seed: Seed of everything that is drawn.
        overwrite: Replace a store that lies at the target.

    Returns:
        The folder of the store.

    Raises:
        InputError: A number out of range, or a target that exists or cannot be written.
    """
    counts = dict(zip(SPLITS, (images, val, test), strict=True))
    limits = {"images": (images, 1), "val": (val, 0), "test": (test, 0), "size": (size, SMALLEST)}
    for flag, (value, least) in {**limits, "raters": (raters, 1), "seed": (seed, 0)}.items():
        if value < least:
            raise InputError(f"--{flag} {value}: must be at least {least}")
    notes = {"generator": "ambiguous", "seed": seed, "modes": MODES, "cues": CUES}
    with StoreWriter(
        out, classes=LESION_CLASSES, raters=raters, notes=notes, group_name="case", overwrite=overwrite
    ) as writer:
        for number, (name, count) in enumerate(counts.items()):
            if count == 0:
                continue
            ids = [f"{name}-{i:05d}" for i in range(count)]
            split = writer.add_split(
                name,
                ids,
                groups=[f"case-{i}" for i in ids],
                image_shape=(size, size, 1),
                source=f"generated by stochseg prepare ambiguous, seed {seed}",
                extras={
                    "modes": ((len(MODES), size, size), np.uint8),
                    "mode_probabilities": ((len(MODES),), np.float32),
                    "cues": ((len(CUES),), np.float32),
                },
            )
            makes = partial(_made, (seed, number), size, raters)
            with Workers(cores() if count > FEW_IMAGES else 1) as pool:
                for i, row in enumerate(track(pool.each(makes, range(count)), count, f"ambiguous {name}")):
                    split.images[i], split.labels[i] = row.image, row.labels
                    split.extras["modes"][i] = row.modes
                    split.extras["mode_probabilities"][i] = row.probabilities
                    split.extras["cues"][i] = row.cues
    return Path(out)


class _Row(NamedTuple):
    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    modes: NDArray[np.uint8]
    probabilities: Floats
    cues: Floats


def _made(seed: tuple[int, int], size: int, raters: int, i: int) -> _Row:
    rng = np.random.default_rng([*seed, i])
    made = ambiguous_image(rng, size)
    labels = draw_from_modes(made.modes[None], made.probabilities[None], raters, rng)[0]
    return _Row(made.image, labels, made.modes, made.probabilities, made.cues)


NOISE_SCALES = {
    "warp_x": 0.075,
    "warp_y": 0.075,
    "bend": 0.16,
    "rim": 0.09,
    "shade": 0.15,
    "blotches": 0.05,
    "mottle": 0.03,
    "tissue": 0.028,
    "grain": 0.011,
}
"""Correlation length of each noise field as a share of the image's height."""


@lru_cache(maxsize=4)
def _transfer_functions(size: int) -> Floats:
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    lengths = size * np.array(list(NOISE_SCALES.values()))
    filters: Floats = np.exp(-2 * (np.pi * lengths[:, None, None] * frequency) ** 2)
    filters[:, 0, 0] = 0
    return filters


def _noise(rng: np.random.Generator, size: int) -> dict[str, Floats]:
    """Gaussian random fields [h w] of mean 0 and standard deviation 1, one for each of NOISE_SCALES."""
    white = np.fft.rfft2(rng.standard_normal((len(NOISE_SCALES), size, size)))
    fields = np.fft.irfft2(white * _transfer_functions(size), s=(size, size))
    fields /= fields.std(axis=(1, 2), keepdims=True)
    return dict(zip(NOISE_SCALES, fields, strict=True))


def _centred(field: Floats, part: Mask) -> Floats:
    """The field inside the part, shifted to mean 0 there so that it does not move a cue; 0 elsewhere."""
    return np.where(part, field - field[part].mean(), 0.0) if part.any() else np.zeros_like(field)


def _lowest(score: Floats, among: Mask, pixels: int) -> Mask:
    """The given number of pixels of `among` with the lowest score."""
    ranked = np.where(among, score, np.inf)
    part: Mask = ranked <= np.partition(ranked.ravel(), pixels - 1)[pixels - 1]
    return part


def _grid(size: int) -> tuple[Floats, Floats]:
    axis = (np.arange(size) + 0.5) / size
    return axis[None, :], axis[:, None]


def _wavy(rng: np.random.Generator, angle: Floats, strength: float) -> Floats:
    """A positive radius around 1 for each angle: a low-order Fourier series."""
    orders = np.arange(2, 6)[:, None, None]
    sizes = rng.normal(0, strength, (4, 1, 1)) / orders**1.5
    waves = sizes * np.cos(orders * angle + rng.uniform(0, 2 * np.pi, (4, 1, 1)))
    radius: Floats = np.maximum(0.4, 1 + waves.sum(axis=0))
    return radius


def _core_score(rng: np.random.Generator, x: Floats, y: Floats) -> Floats:
    """A field that is low inside a lesion's core, of one of three kinds; x, y are relative to its centre."""
    kind = rng.choice(["lobulated", "spiculated", "two lobes"], p=[0.4, 0.3, 0.3])
    score: Floats
    if kind == "two lobes":
        turn, apart, lean = rng.uniform(0, np.pi), rng.uniform(0.12, 0.15), rng.uniform(-0.25, 0.25)
        along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        first = (1 + lean) * np.exp(-((along - apart) ** 2 + across**2) / 0.018)
        second = (1 - lean) * np.exp(-((along + apart) ** 2 + across**2) / 0.018)
        score = -(first + second)
        return score
    angle = np.arctan2(y, x)
    if kind == "lobulated":
        edge = _wavy(rng, angle, 0.7)
    else:
        count = rng.integers(7, 12)
        at = (np.arange(count) + rng.uniform(-0.3, 0.3, count)) * 2 * np.pi / count
        widths, heights = rng.uniform(0.10, 0.18, count), rng.uniform(0.25, 0.6, count)
        spikes = np.exp((np.cos(angle - at[:, None, None]) - 1) / widths[:, None, None] ** 2)
        edge = _wavy(rng, angle, 0.4) + (heights[:, None, None] * spikes).sum(axis=0)
    score = np.hypot(x, y) / edge
    return score


def _parts(
    rng: np.random.Generator, noise: dict[str, Floats], with_halo: bool, with_lobe: bool
) -> tuple[Mask, Mask, Mask, Floats]:
    """Core, halo and lobe [h w], no two overlapping, and the distance to the core in pixels."""
    size = len(noise["bend"])
    pixels = size * size
    x, y = _grid(size)
    warped_x, warped_y = x + 0.022 * noise["warp_x"], y + 0.022 * noise["warp_y"]
    toward_lobe = rng.uniform(0, 2 * np.pi)
    u, v = np.cos(toward_lobe), np.sin(toward_lobe)
    shift = 0.09 if with_lobe else 0.0
    centre_x, centre_y = 0.5 - shift * u + rng.normal(0, 0.02), 0.5 - shift * v + rng.normal(0, 0.02)
    everywhere = np.ones((size, size), dtype=bool)
    core_pixels = round(rng.uniform(0.15, 0.23) * pixels) + 1
    core = _lowest(_core_score(rng, warped_x - centre_x, warped_y - centre_y), everywhere, core_pixels)
    distance: Floats = ndimage.distance_transform_edt(~core)

    lobe = np.zeros_like(core)
    if with_lobe:
        share = rng.uniform(0.08, 0.13)
        steps = np.arange(0, 0.6, 0.5 / size)
        rows = np.clip(((centre_y + steps * v) * size).astype(int), 0, size - 1)
        columns = np.clip(((centre_x + steps * u) * size).astype(int), 0, size - 1)
        edge = steps[core[rows, columns]].max(initial=0.1)
        reach = edge + 0.75 * np.sqrt(share / np.pi)
        lobe_x, lobe_y = warped_x - centre_x - reach * u, warped_y - centre_y - reach * v
        score = np.hypot(lobe_x, lobe_y) / _wavy(rng, np.arctan2(lobe_y, lobe_x), 0.4)
        lobe = _lowest(score, ~core, round(share * pixels))

    halo = np.zeros_like(core)
    if with_halo:
        thickness = distance * np.exp(0.35 * noise["rim"])
        halo = _lowest(thickness, ~(core | lobe), round(rng.uniform(0.7, 1.1) * core_pixels))
    return core, halo, lobe, distance


def _background(rng: np.random.Generator, noise: dict[str, Floats], solid: Floats) -> Floats:
    """Lung-like surroundings [h w]: shading, tissue, vessels (hidden behind solid parts), at times the chest wall."""
    size = len(solid)
    x, y = _grid(size)
    slope = rng.normal(0, 0.04, 2)
    grey: Floats = rng.uniform(0.14, 0.26) + slope[0] * (x - 0.5) + slope[1] * (y - 0.5)
    grey = grey + 0.012 * noise["shade"] + rng.uniform(0.012, 0.022) * noise["tissue"]
    vessels = np.zeros((size, size))
    for _ in range(rng.integers(2, 6)):
        turn, offset, sway = rng.uniform(0, 2 * np.pi), rng.uniform(-0.45, 0.45), rng.uniform(-0.07, 0.07)
        along = (x - 0.5) * np.cos(turn) + (y - 0.5) * np.sin(turn)
        across = (y - 0.5) * np.cos(turn) - (x - 0.5) * np.sin(turn) - offset + sway * noise["bend"]
        width = np.maximum(rng.uniform(0.012, 0.03) * (1 - 0.7 * (along + 0.5)), 0.8 / size)
        fade = 1 / (1 + np.exp((along - rng.uniform(-0.1, 0.6)) / 0.05))
        vessels = np.maximum(vessels, rng.uniform(0.12, 0.32) * fade * np.exp(-((across / width) ** 2)))
    grey = grey + vessels * (1 - solid)
    if rng.uniform() < 0.3:
        turn = rng.uniform(0, 2 * np.pi)
        depth = (x - 0.5) * np.cos(turn) + (y - 0.5) * np.sin(turn) - rng.uniform(0.42, 0.5) + 0.02 * noise["bend"]
        grey = grey + rng.uniform(0.2, 0.35) * (1 - solid) / (1 + np.exp(-depth / 0.012))
    return grey
