"""What several tests share: a tiny store, and where the real data lies."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from stochseg.data.store import LESION_CLASSES
from stochseg.data.store_writer import StoreWriter

SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Two test processes on two cores: more threads would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blobs on noise at 32x32: 24 training and 9 validation images, two raters who disagree on the size."""
    return write_blobs(tmp_path_factory.mktemp("store") / "tiny", {"train": 24, "val": 9})


def write_blobs(
    path: Path,
    counts: dict[str, int],
    size: int = 32,
    raters: int = 2,
    channels: int = 1,
    flips: Sequence[tuple[int, int, float]] = (),
) -> Path:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size]
    with StoreWriter(path, classes=LESION_CLASSES, raters=raters, flips=flips) as writer:
        for name, count in counts.items():
            ids = [f"{name}-{i}" for i in range(count)]
            split = writer.add_split(
                name, ids, [f"{name}-p{i // 3}" for i in range(count)], (size, size, channels), "made"
            )
            for i in range(count):
                distance = np.hypot(*(np.array([rows, columns]) - rng.uniform(size / 3, 2 * size / 3, (2, 1, 1))))
                radius = rng.uniform(4, size / 4)
                split.images[i] = (
                    (60 + 120 * (distance < radius) + rng.normal(0, 10, (size, size)))
                    .clip(0, 255)[..., None]
                    .repeat(channels, 2)
                )
                for rater in range(raters):
                    split.labels[i, rater] = distance < radius + 2 * rater - 1
    return path
