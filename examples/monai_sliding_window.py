"""MONAI's sliding window around the calibrated marginals, for images larger than those of training.

    pip install monai
    python examples/monai_sliding_window.py runs/lidc scan.png --out q.npy

For samples of large images, one z for the whole, there is `stochseg sample`.
"""

import argparse
from pathlib import Path

import numpy as np
from monai.inferers import SlidingWindowInferer

import stochseg
from stochseg.data.image_files import read_image

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("run")
parser.add_argument("image", type=Path)
parser.add_argument("--out", default="q.npy")
given = parser.parse_args()

model = stochseg.load(given.run)
image = read_image(given.image, model.channels)[None]  # float [1 c h w] in [-1, 1]
inferer = SlidingWindowInferer(roi_size=model.size, sw_batch_size=8, overlap=0.5, mode="gaussian")
q = inferer(image, model.probabilities)  # float [1 k h w]
np.save(given.out, q[0].numpy())
print(f"q of {q.shape[-2]}x{q.shape[-1]} pixels, adding up to {q.sum(1).min():.4f} to {q.sum(1).max():.4f}")
