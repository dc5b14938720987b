"""Two generated populations whose distribution of answers is known, and models of the first, each wrong in one way.

The first stands in for CT: 240 images of 80 patients, each with one small lesion that has five possible answers
(nothing, core, core and halo, core and lobe, all of it) of known probabilities. Four raters draw from them; models are
rules that draw n. The second are streets whose classes flip, for the conventions that were made for Cityscapes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

Maps = NDArray[np.uint8]
IMAGES, SIZE, RATERS, SAMPLES = 240, 56, 4, 16
SEED = 3
"""Of seeds 0 to 7 the one whose draw of raters is nearest to what is expected: chance moves the GED of 240 images by 0.02."""
ANSWERS = ("nothing", "core", "core, halo", "core, lobe", "all")
TRUTH = "truth, fresh draws"


@dataclass(frozen=True)
class Toy:
    """modes: uint8 [b 5 h w] and their probabilities [b 5]; labels: uint8 [b 4 h w], drawn from them; patients: [b]."""

    modes: Maps
    probabilities: NDArray[np.float64]
    labels: Maps
    patients: NDArray[np.int64]

    def draw(self, n: int, rng: np.random.Generator, probabilities: NDArray[np.float64] | None = None) -> Maps:
        """n independent answers an image, uint8 [b n h w], by the true probabilities or by others [b 5]."""
        sums = np.cumsum(self.probabilities if probabilities is None else probabilities, axis=1)
        chosen = (rng.random((len(sums), n, 1)) > sums[:, None, :-1]).sum(2)
        return np.asarray(self.modes[np.arange(len(sums))[:, None], chosen])

    @property
    def marginals(self) -> NDArray[np.float64]:
        """The exact probability of a lesion at each pixel, [b h w]."""
        return np.asarray(np.einsum("bm,bmhw->bhw", self.probabilities, self.modes))


def make_toy() -> Toy:
    rng = np.random.default_rng([SEED, 0])
    rows, columns = np.mgrid[:SIZE, :SIZE]
    patients = np.arange(IMAGES) // 3
    faint = rng.beta(0.7, 1.3, patients[-1] + 1)  # P(nothing) of each patient, 35 % on average
    modes, probabilities = np.zeros((IMAGES, 5, SIZE, SIZE), np.uint8), np.zeros((IMAGES, 5))
    for i in range(IMAGES):
        y, x, radius = rng.uniform(13, 15) + SIZE // 2 * rng.integers(2), rng.uniform(14, 42), rng.uniform(6, 9)
        angle = np.arctan2(rows - y, columns - x)
        wobble = 1 + sum(rng.uniform(-0.1, 0.1) * np.cos(k * angle + rng.uniform(0, 6)) for k in (2, 3, 4))
        distance = np.hypot(rows - y, columns - x) / (wobble * radius)
        side = rng.uniform(0, 2 * np.pi)
        lobe = (
            np.hypot(rows - y - 0.85 * radius * np.sin(side), columns - x - 0.85 * radius * np.cos(side))
            < 0.55 * radius
        )
        core, halo = distance < 0.62, distance < 1
        modes[i] = np.stack([np.zeros_like(core), core, halo, core | lobe, halo | lobe])
        nothing = faint[patients[i]]
        probabilities[i] = [nothing, *((1 - nothing) * rng.dirichlet([0.8] * 4))]
    toy = Toy(modes, probabilities, modes[:, :RATERS], patients)
    return Toy(modes, probabilities, toy.draw(RATERS, np.random.default_rng([SEED, 1])), patients)


def decent(toy: Toy, n: int, rng: np.random.Generator) -> Maps:
    """Frequencies half right, half those of the average image; outlines off by up to a pixel."""
    maps = toy.draw(n, rng, 0.5 * toy.probabilities + 0.5 * toy.probabilities.mean(0))
    return moved(maps, rng)


def moved(maps: Maps, rng: np.random.Generator) -> Maps:
    """Every map shifted by up to one pixel in both directions."""
    for axis in (2, 3):
        by = rng.integers(-1, 2, maps.shape[:2])
        places = (np.arange(maps.shape[axis]) - by[..., None]) % maps.shape[axis]
        maps = np.take_along_axis(maps, places[..., None] if axis == 2 else places[:, :, None], axis)
    return maps


def most_likely(toy: Toy, n: int, rng: np.random.Generator) -> Maps:
    best = toy.modes[np.arange(IMAGES), toy.probabilities.argmax(1)]
    return np.repeat(best[:, None], n, axis=1)


def pixels(toy: Toy, n: int, rng: np.random.Generator) -> Maps:
    """Each pixel drawn for itself, with its exact probability."""
    return (rng.random((IMAGES, n, SIZE, SIZE)) < toy.marginals[:, None]).astype(np.uint8)


def blurred(toy: Toy, n: int, rng: np.random.Generator) -> Maps:
    """The blurred probability map cut at random levels: every map is another level line of one hill."""
    hill = ndimage.gaussian_filter(toy.marginals, (0, 2, 2))[:, None]
    return np.asarray(hill > rng.random((IMAGES, n, 1, 1)), np.uint8)


def too_diverse(toy: Toy, n: int, rng: np.random.Generator) -> Maps:
    """In turn: one of the five answers, whatever its probability, and the lesion of some other image."""
    others = toy.modes[rng.integers(IMAGES, size=(IMAGES, n)), 4]
    for i in range(0, n, 2):
        others[:, i] = toy.modes[:, (i // 2 + 1) % 5]
    return np.asarray(others)


def constant(value: int) -> Callable[[Toy, int, np.random.Generator], Maps]:
    return lambda toy, n, rng: np.full((IMAGES, n, SIZE, SIZE), value, np.uint8)


MODELS: dict[str, Callable[[Toy, int, np.random.Generator], Maps]] = {
    TRUTH: lambda toy, n, rng: toy.draw(n, rng),
    "decent": decent,
    "most likely map, repeated": most_likely,
    "always empty": constant(0),
    "everything marked": constant(1),
    "wrong place": lambda toy, n, rng: np.roll(toy.draw(n, rng), SIZE // 2, axis=2),
    "independent pixels": pixels,
    "blurred": blurred,
    "too diverse": too_diverse,
}


def samples_of(toy: Toy, name: str, n: int = SAMPLES) -> Tensor:
    """uint8 [b n h w]; each model draws with numbers of its own, so that none depends on the others."""
    return torch.from_numpy(MODELS[name](toy, n, np.random.default_rng([SEED, 2, list(MODELS).index(name), n])))


# Streets, whose classes flip

ROAD, SIDEWALK, CAR, PERSON, PLANTS, IGNORED, STREET_CLASSES = 1, 2, 3, 4, 5, 11, 12
FLIPS = [(ROAD, 6, 4 / 17), (SIDEWALK, 7, 8 / 17), (CAR, 8, 6 / 17), (PERSON, 9, 7 / 17), (PLANTS, 10, 5 / 17)]
STREETS = 60


def make_streets() -> Maps:
    """Labels uint8 [60 1 24 48], not flipped; four show nothing but sky, which is class 0."""
    rng = np.random.default_rng([SEED, 3])
    labels = np.zeros((STREETS, 1, 24, 48), np.uint8)
    for i, picture in enumerate(labels[:, 0]):
        picture[:2] = IGNORED
        if i % 15 == 7:
            continue
        horizon = rng.integers(8, 13)
        picture[horizon - rng.integers(2, 5) : horizon, : rng.integers(15, 48)] = PLANTS
        picture[horizon:] = ROAD
        picture[horizon : horizon + 4, rng.integers(0, 30) :] = SIDEWALK
        for thing, h, w in ((CAR, 5, 9), (PERSON, 6, 2)):
            for _ in range(rng.integers(0, 3)):
                y, x = rng.integers(horizon, 18), rng.integers(0, 38)
                picture[y : y + h, x : x + w] = thing
    return labels


def street_truth(labels: Maps) -> Maps:
    """Every class where it is, flipped as often as is right."""
    return flipped(labels, SAMPLES, np.random.default_rng([SEED, 4]), [p for _, _, p in FLIPS])


def street_guesses(labels: Maps) -> Maps:
    """Outlines off by up to a pixel, every flip half of the time."""
    rng = np.random.default_rng([SEED, 5])
    return moved(flipped(labels, SAMPLES, rng, [0.5] * len(FLIPS)), rng)


def flipped(labels: Maps, n: int, rng: np.random.Generator, chances: list[float]) -> Maps:
    maps = np.repeat(labels, n, axis=1)
    for (source, target, _), p in zip(FLIPS, chances):
        happens = rng.random((len(maps), n, 1, 1)) < p
        maps = np.where(happens & (maps == source), target, maps).astype(np.uint8)
    return maps
