"""A published street segmenter, tuned on a store's training images, and what it says of all images: a black box.

    git clone https://github.com/sacmehta/EdgeNets
    stochseg prepare cityscapes --source ROOT --scale 1 --out stores/streets-full
    python benchmarks/pretrained_segmenter.py --edgenets EdgeNets --data stores/streets-full --out predictions
    stochseg blackbox import --data stores/streets --predictions predictions --resize true

ESPNetv2 (Mehta et al. 2019, arXiv 1811.11431) with the weights of that repository, trained on Cityscapes, which is
imported from a clone as it is. The store has the 19 classes of Cityscapes first. Cross entropy and Dice, as little
training as carries it over to other cameras. Printed is how well it does on the validation images, and DIR gets one NPY
of probabilities [19 h w] an image. --steps 0 takes it as it was published.
"""

import argparse
import math
import sys
import time
from copy import deepcopy
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stochseg.config import InputConfig
from stochseg.data.batches import Batches
from stochseg.data.store import Split, open_store
from stochseg.denormals import without_denormals
from stochseg.metrics.overlap import class_iou, class_overlaps
from stochseg.models.blackbox import IMAGENET

CLASSES = 19
WEIGHTS = "model/segmentation/model_zoo/espnetv2/espnetv2_s_2.0_city_1024x512.pth"
MULTIPLE = 32
WARM_UP = 50
VARIED = InputConfig(
    crop=(320, 416), jitter=1, flips="horizontal", turns=False, scale=0.4, intensity=0.2, class_flips=False
)


class Segmenter(nn.Module):
    """The network on images as stochseg has them: [b 3 h w] in [-1, 1] -> logits [b 19 h w], of any size."""

    def __init__(self, clone: Path) -> None:
        super().__init__()
        sys.path.insert(0, str(clone))  # its modules import each other by their names
        network = import_module("model.segmentation.espnetv2").ESPNetv2Segmentation
        facts = argparse.Namespace(s=2.0, channels=3, num_classes=1000, model_width=224, model_height=224)
        self.network = network(facts, classes=CLASSES + 1, dataset="city")
        self.network.load_state_dict(torch.load(clone / WEIGHTS, map_location="cpu", weights_only=True))
        self.register_buffer("mean", torch.tensor(IMAGENET["mean"]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET["std"]).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        near = [round(side / MULTIPLE) * MULTIPLE for side in size]
        x = F.interpolate((x / 2 + 0.5 - self.mean) / self.std, near, mode="bilinear", align_corners=False)
        logits: Tensor = self.network(x.contiguous(memory_format=torch.channels_last))[:, :CLASSES]
        return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy and one less the Dice of the classes that a batch holds; labels [b h w], others than the 19 ignored."""
    known = labels < CLASSES
    target = labels.long().where(known, 0)
    entropy = F.cross_entropy(logits, target.where(known, -100))
    true = F.one_hot(target, CLASSES).permute(0, 3, 1, 2) * known[:, None]
    likely = logits.softmax(1) * known[:, None]
    both, areas = (likely * true).sum((0, 2, 3)), (likely + true).sum((0, 2, 3))
    return entropy + (1 - (2 * both + 1) / (areas + 1))[true.sum((0, 2, 3)) > 0].mean()


@without_denormals()
def tune(model: Segmenter, batches: Batches, steps: int, rate: float) -> nn.Module:
    """The moving average of the weights over the training."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=rate, fused=True)
    average, start = deepcopy(model), time.perf_counter()
    model.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        batch = batches.at(step)
        loss = loss_of(model(batch.images), batch.labels[:, 0])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            for mine, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
                if mine.is_floating_point():
                    mine.lerp_(new, 1 - min(0.99, (1 + step) / (10 + step)))
                else:  # how many batches a norm has seen
                    mine.copy_(new)
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}, loss {loss.item():.3f}, {time.perf_counter() - start:.0f} s", flush=True)
    return average.eval()


@torch.no_grad()
def probabilities(model: nn.Module, split: Split, row: int) -> Tensor:
    """[19 h w] of one image: the mean over it and its mirror image."""
    image = torch.from_numpy(np.array(split.images[row])).permute(2, 0, 1)[None].float() / 127.5 - 1
    plain, mirrored = model(image).softmax(1), model(image.flip(-1)).softmax(1).flip(-1)
    mean: Tensor = (plain + mirrored)[0] / 2
    return mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edgenets", type=Path, required=True, help="a clone of sacmehta/EdgeNets")
    parser.add_argument("--data", type=Path, required=True, help="a store of street scenes at the size of their source")
    parser.add_argument("--out", type=Path, required=True, help="folder for the predictions")
    parser.add_argument("--steps", type=int, default=750)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    if not (args.edgenets / WEIGHTS).is_file():
        parser.error(f"--edgenets {args.edgenets}: has no {WEIGHTS}; git clone https://github.com/sacmehta/EdgeNets")
    if args.out.exists():
        parser.error(f"--out {args.out}: exists; name a new folder")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    store = open_store(args.data)
    model = Segmenter(args.edgenets).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    tuned = tune(model, Batches(store.split("train"), args.batch, VARIED, args.seed), args.steps, args.rate)
    args.out.mkdir(parents=True)
    for name, split in store.splits.items():
        overlaps = torch.zeros(len(store.classes), 2, dtype=torch.float64)
        shown = torch.zeros(len(store.classes), dtype=torch.bool)
        right = known = 0
        for row, image in enumerate(split.ids):
            likely = probabilities(tuned, split, row)
            np.save(args.out / f"{Path(image).name}.npy", likely.half().numpy())
            label = torch.from_numpy(np.array(split.labels[row]))
            best = likely.argmax(0)[None]
            overlaps += class_overlaps(best, label, len(store.classes), store.ignore).sum(0)
            shown |= torch.bincount(label.flatten(), minlength=len(shown)) > 0
            right += int((best == label).sum())
            known += int((label < CLASSES).sum())
        iou = {c.name: v for c, v, there in zip(store.classes[:CLASSES], class_iou(overlaps).tolist(), shown) if there}
        mean = sum(iou.values()) / len(iou)
        print(f"{name}: {len(split)} images, {right / known:.3f} of the pixels right, mean IoU {mean:.3f}")
        print("  " + ", ".join(f"{c} {v:.2f}" for c, v in iou.items()), flush=True)


if __name__ == "__main__":
    main()
