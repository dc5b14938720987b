"""What was drawn for one image, kept for a while: its samples, what they say together, and the noise to walk in."""

import io
import math
import secrets
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stochseg.errors import InputError
from stochseg.metrics import class_frequencies
from stochseg.models.segmenter import Segmenter
from stochseg.sample_files import image_number
from stochseg.sampling import choose
from stochseg.sampling.latents import latents
from stochseg.sampling.maps import map_picture

MOST_SAMPLES = 64
HYPOTHESES = 6
"""Samples that are shown large, those that stand for all best."""
KEPT_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Drawing:
    """image: float32 [1 c h w]; z: [1 n z], its noise field included where the image is in tiles; maps: uint8 [n h w];
    q, mean: float32 [k h w]; chosen: numbers of the samples that stand for all best; shares: the part that each
    stands for."""

    name: str
    image: Tensor
    z: Tensor
    seed: int
    maps: NDArray[np.uint8]
    q: NDArray[np.float32]
    mean: NDArray[np.float32]
    chosen: Sequence[int]
    shares: Sequence[float]
    tile: tuple[int, int] | None

    @property
    def bytes(self) -> int:
        tensors = sum(t.numel() * t.element_size() for t in (self.image, self.z))
        return tensors + self.maps.nbytes + self.q.nbytes + self.mean.nbytes

    def facts(self, classes: int) -> dict[str, Any]:
        """What the page shows in words and bars; areas: pixels of each class in each sample."""
        n, h, w = self.maps.shape
        return {
            "name": self.name,
            "width": w,
            "height": h,
            "samples": n,
            "seed": self.seed,
            "tile": self.tile and list(self.tile),
            "hypotheses": [{"sample": int(i), "share": float(s)} for i, s in zip(self.chosen, self.shares)],
            "areas": [[int((one == c).sum()) for one in self.maps] for c in range(classes)],
        }


def draw(model: Segmenter, image: Tensor, name: str, samples: int, seed: int) -> Drawing:
    """Draw samples of an image [c h w]: the same as `stochseg sample` draws with this seed."""
    if not 1 <= samples <= MOST_SAMPLES:
        raise InputError(f"samples {samples}: must be from 1 to {MOST_SAMPLES}")
    if not 0 <= seed < 2**63:
        raise InputError(f"seed {seed}: must be a whole number from 0")
    tiling = model.tiling((image.shape[-2], image.shape[-1]))
    z = latents(seed, [image_number(image)], samples, model.latent)
    z = z if tiling is None else tiling.widened(z)
    maps = model.sample(image[None], z=z, tile="auto")
    picked, shares = choose.most_different(maps, min(HYPOTHESES, samples), len(model.classes))
    count = int((shares[0] > 0).sum())  # where few differ, the rest repeats them
    return Drawing(
        name,
        image[None],
        z,
        seed,
        maps[0].cpu().numpy(),
        model.probabilities(image[None], tile="auto")[0].cpu().numpy(),
        class_frequencies(maps, len(model.classes))[0].float().cpu().numpy(),
        picked[0][:count].tolist(),
        shares[0][:count].tolist(),
        None if tiling is None else (tiling.rows.tile, tiling.columns.tile),
    )


def between(model: Segmenter, drawing: Drawing, one: int, other: int, part: float) -> NDArray[np.uint8]:
    """The map [h w] at a part 0 to 1 of the way between two samples: on the arc between their z, whose points are as
    likely as the ends. The ends are the samples themselves."""
    ends = len(drawing.maps)
    if not (0 <= one < ends and 0 <= other < ends and 0 <= part <= 1):
        raise InputError(f"between samples {one} and {other} at {part}: samples are 0 to {ends - 1}, the way 0 to 1")
    if part in (0, 1) or one == other:
        return np.asarray(drawing.maps[other if part == 1 else one])
    angle = part * math.pi / 2
    z = math.cos(angle) * drawing.z[:, one : one + 1] + math.sin(angle) * drawing.z[:, other : other + 1]
    return np.asarray(model.sample(drawing.image, z=z, tile="auto")[0, 0].cpu())


def as_npz(drawing: Drawing) -> bytes:
    """Maps, q, mean and the samples that stand for all, named as `stochseg sample` names them."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, maps=drawing.maps, q=drawing.q, mean=drawing.mean, chosen=np.array(drawing.chosen), seed=drawing.seed
    )
    return buffer.getvalue()


def as_zip(drawing: Drawing, model: Segmenter) -> bytes:
    """A PNG a sample, whose values are class ids."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, one in enumerate(drawing.maps, 1):
            png = io.BytesIO()
            map_picture(one, model.classes).save(png, "png")
            archive.writestr(f"{number:04d}.png", png.getvalue())
    return buffer.getvalue()


class Kept:
    """The last drawings, as many as fit into a number of bytes, by names that cannot be guessed."""

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self.most_bytes = most_bytes
        self._drawings: OrderedDict[str, Drawing] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, drawing: Drawing) -> str:
        key = secrets.token_urlsafe(12)
        with self._lock:
            self._drawings[key] = drawing
            while len(self._drawings) > 1 and self.bytes > self.most_bytes:
                self._drawings.popitem(last=False)
        return key

    def get(self, key: str) -> Drawing | None:
        with self._lock:
            if key in self._drawings:
                self._drawings.move_to_end(key)
            return self._drawings.get(key)

    @property
    def bytes(self) -> int:
        return sum(drawing.bytes for drawing in self._drawings.values())
