"""Where the slices of an image lie: sizes in millimetres, and volumes on the grid that they came from."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stochseg.errors import InputError


@dataclass(frozen=True)
class Space:
    """affine: [4 4] from (slice, row, column) to millimetres, None where the file does not say. axes: which way these
    point, to the left, back and head (DICOM), or to the right, front and head (NIfTI). axis: of a NIfTI file, along
    which its slices lie. dicom: the files of the series, where it is one."""

    affine: NDArray[np.float64] | None = None
    axes: Literal["LPS", "RAS"] = "LPS"
    axis: int | None = None
    dicom: tuple[Path, ...] = ()

    @property
    def pixel_mm2(self) -> float | None:
        """Area of a pixel."""
        if self.affine is None:
            return None
        return float(np.linalg.norm(np.cross(self.affine[:3, 1], self.affine[:3, 2])))

    @property
    def voxel_mm3(self) -> float | None:
        return None if self.affine is None else float(abs(np.linalg.det(self.affine[:3, :3])))


def write_nifti(file: Path, values: NDArray[Any], space: Space) -> None:
    """A volume [s h w] as NIfTI: on the grid of the NIfTI file that it came from, else as [columns rows slices].

    Without a place in space pixels are 1 mm, slices one behind the other. Raises InputError where nibabel is not there.
    """
    try:
        nibabel = import_module("nibabel")
    except ImportError as error:
        raise InputError(
            '--format nifti: takes nibabel, which is not installed; run `pip install "stochseg[medical]"`'
        ) from error
    affine = np.eye(4)[:, [2, 1, 0, 3]] if space.affine is None else space.affine.copy()
    if space.axes == "LPS":
        affine[:2] *= -1
    came_from = [2, 1, 0] if space.axis is None else [space.axis, *(a for a in range(3) if a != space.axis)]
    order = np.argsort(came_from)
    image = nibabel.Nifti1Image(np.ascontiguousarray(values.transpose(order)), affine[:, [*order, 3]])
    image.header.set_xyzt_units("mm" if space.affine is not None else "unknown")
    nibabel.save(image, file)
