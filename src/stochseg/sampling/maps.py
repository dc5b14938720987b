"""Samples as files that other programs read, beside samples.npz:

png        samples/0001.png, ... with a palette: values are class ids, colours those of the classes; of a volume
           samples/0001/0001.png, ... by sample and slice
nifti      samples/0001.nii.gz, ... on the grid of the image, with mean.nii.gz (P(not background)) and entropy.nii.gz
dicom-seg  samples/0001.dcm, ... one SEG a sample, and mean.dcm, the share of samples with each class: data/dicom_seg.py
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stochseg.data.dicom_seg import write_segmentations
from stochseg.data.space import Space, write_nifti
from stochseg.data.store import ClassInfo
from stochseg.report.panels import normalised_entropy

MapFormat = Literal["npz", "png", "nifti", "dicom-seg"]


def write_maps(
    folder: Path,
    maps: NDArray[np.uint8],
    mean: NDArray[np.floating],
    classes: Sequence[ClassInfo],
    space: Space,
    format: MapFormat,
) -> None:
    """Write maps [n s h w] below a folder. mean: [k s h w]; npz: nothing, they are in samples.npz already."""
    if format == "npz":
        return
    if format == "dicom-seg":
        return write_segmentations(folder, maps, mean, classes, space.dicom)
    place = folder / "samples"
    place.mkdir()
    for number, one in enumerate(maps, 1):
        if format == "nifti":
            write_nifti(place / f"{number:04d}.nii.gz", one, space)
        elif len(one) == 1:
            map_picture(one[0], classes).save(place / f"{number:04d}.png")
        else:
            (place / f"{number:04d}").mkdir()
            for row, map_ in enumerate(one, 1):
                map_picture(map_, classes).save(place / f"{number:04d}" / f"{row:04d}.png")
    if format == "nifti":
        write_nifti(folder / "mean.nii.gz", (1 - mean[0]).astype(np.float32), space)
        write_nifti(folder / "entropy.nii.gz", normalised_entropy(mean).astype(np.float32), space)


def map_picture(map_: NDArray[np.uint8], classes: Sequence[ClassInfo]) -> Image.Image:
    """A class map [h w] as a picture with a palette: its values are the ids."""
    picture = Image.fromarray(map_)
    picture.putpalette([part for info in classes for part in info.color])
    return picture
