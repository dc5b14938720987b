"""Samples from a segmenter that you have already: it is asked about every image, and never changed.

    python examples/blackbox.py [--out runs/blackbox] [--minutes 3]

The segmenter here is no network at all: whatever is bright after a blur. It marks one outline where raters draw several,
or nothing. A model on top of it learns from the raters how it errs, and what else they may draw.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import stochseg
from stochseg.config import CalibrationConfig
from stochseg.data.ambiguous import prepare_ambiguous
from stochseg.data.store import open_store


def bright(images: Tensor) -> Tensor:
    """Class maps [b h w] of images [b 1 h w] in [-1, 1]: 1 where a blurred image is brighter than a third of white."""
    return (F.avg_pool2d((images + 1) / 2, 5, stride=1, padding=2, count_include_pad=False)[:, 0] > 1 / 3).long()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/blackbox"))
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--images", type=int, default=2400)
    arguments = parser.parse_args()

    few = max(8, arguments.images // 24)
    store = prepare_ambiguous(arguments.out / "store", arguments.images, val=few, test=few)
    model = stochseg.CAR(
        classes=2,
        channels=1,
        size=(64, 64),
        calibration=CalibrationConfig(net="convnet", width=32),
        blackbox=bright,
        config="demo",
    )
    run = stochseg.train(model, store, arguments.out / "run", config="demo", minutes=arguments.minutes)

    test = stochseg.evaluate(run, store, "test", blackbox=bright)
    print(f"GED of the samples {test['ged']:.3f}, of the likeliest map of q {test['baselines']['argmax']['ged']:.3f}")

    loaded = stochseg.CAR.load(run, blackbox=bright)  # the segmenter is in no saved file: attach it again
    image = torch.from_numpy(open_store(store).split("test").images[:1]).permute(0, 3, 1, 2) / 127.5 - 1
    maps = loaded.sample(image, n=4)
    print("pixels marked in four samples of one image:", maps[0].flatten(1).sum(1).tolist())


if __name__ == "__main__":
    main()
