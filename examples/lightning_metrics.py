"""Scores of stochseg in a Lightning module: torchmetrics that Lightning logs, resets and gathers over processes.

pip install lightning
python examples/lightning_metrics.py runs/lidc --data stores/lidc --split val
"""

import argparse

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

import stochseg
from stochseg import metrics
from stochseg.data.store import open_store


class Judge(lightning.LightningModule):
    def __init__(self, model: stochseg.CAR) -> None:
        super().__init__()
        self.model, self.networks = model, model.networks  # Lightning moves the networks, the model draws with them
        self.z = torch.Generator().manual_seed(0)
        self.ged = metrics.GeneralizedEnergyDistance(classes=len(model.classes), convention="car")
        self.hm_iou = metrics.HungarianIoU(classes=len(model.classes), convention="car")

    def validation_step(self, batch: list[torch.Tensor], number: int) -> None:
        images, labels = batch  # uint8 [b c h w], [b r h w]
        maps = self.model.sample(images / 127.5 - 1, n=16, generator=self.z)
        for name, metric in (("ged", self.ged), ("hm_iou", self.hm_iou)):
            metric.update(maps, labels)
            self.log(name, metric, on_epoch=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="val")
    given = parser.parse_args()
    split = open_store(given.data).split(given.split)
    images, labels = torch.from_numpy(split.images[:]).permute(0, 3, 1, 2), torch.from_numpy(split.labels[:])
    loader = DataLoader(TensorDataset(images, labels), batch_size=32)
    trainer = lightning.Trainer(accelerator="auto", devices=1, logger=False, enable_checkpointing=False)
    trainer.validate(Judge(stochseg.load(given.run)), loader)
