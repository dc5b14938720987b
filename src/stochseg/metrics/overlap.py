"""IoU of single maps against single labels, class by class: the usual score of a segmenter that gives one answer."""

import torch
from torch import Tensor

from stochseg.errors import InputError
from stochseg.metrics.conventions import check_classes
from stochseg.metrics.inputs import exact_dtype


def class_overlaps(maps: Tensor, labels: Tensor, classes: int, ignore: int | None = None) -> Tensor:
    """Pixels in both and pixels in either, of each class: float64 [b k 2]. Add up those of all images for `mean_iou`.

    maps, labels: integer [b h w]. Pixels that the label gives the class `ignore` are left out. Raises InputError for
    shapes that differ.

    >>> class_overlaps(torch.tensor([[[0, 1]]]), torch.tensor([[[1, 1]]]), classes=2).tolist()
    [[[0.0, 1.0], [1.0, 2.0]]]
    """
    check_classes(classes, ignore)
    if maps.ndim != 3 or maps.shape != labels.shape:
        raise InputError(f"maps are {list(maps.shape)} and labels {list(labels.shape)}; give both as [b h w]")
    valid = torch.ones_like(labels, dtype=torch.bool) if ignore is None else labels != ignore
    b = len(maps)
    pairs = (maps.long() * classes + labels.long() + torch.arange(b, device=maps.device)[:, None, None] * classes**2)[
        valid
    ]
    table = torch.bincount(pairs, minlength=b * classes**2).view(b, classes, classes).to(exact_dtype(maps.device))
    both = table.diagonal(dim1=1, dim2=2)
    return torch.stack([both, table.sum(1) + table.sum(2) - both], 2)


def class_iou(totals: Tensor) -> Tensor:
    """IoU of each class, [k], from overlaps [k 2] summed over images; nan for a class in neither maps nor labels."""
    return totals[:, 0] / totals[:, 1]
