"""A user's own images, made: blobs of a known place, which up to four raters outline differently."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

RATERS = ("ann", "bob", "cem", "dora")


@dataclass(frozen=True)
class Made:
    """name: PATIENT/NAME; image: uint8 [h w]; masks: bool [h w] by rater, 2 to 4 of them."""

    name: str
    patient: str
    image: np.ndarray
    masks: dict[str, np.ndarray]


def make(count: int = 12, size: tuple[int, int] = (48, 64)) -> list[Made]:
    """Images of patients with three images each."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: size[0], : size[1]]
    found = []
    for i in range(count):
        middle = rng.uniform(0.4, 0.6, 2) * size
        distance = np.hypot(rows - middle[0], columns - middle[1])
        radius = rng.uniform(6, 12)
        image = (60 + 120 * (distance < radius) + rng.normal(0, 10, size)).clip(0, 255).astype(np.uint8)
        masks = {rater: distance < radius + n - 1 for n, rater in enumerate(RATERS[: 2 + i % 3])}
        found.append(Made(f"p{i // 3}/scan{i:02d}", f"p{i // 3}", image, masks))
    return found


def save(array: np.ndarray, file: Path) -> Path:
    """An array as whatever the suffix says."""
    file.parent.mkdir(parents=True, exist_ok=True)
    match "".join(file.suffixes[-2:]) if file.name.endswith(".nii.gz") else file.suffix:
        case ".npy":
            np.save(file, array)
        case ".nii" | ".nii.gz":
            import nibabel

            nibabel.save(nibabel.Nifti1Image(array, np.diag([0.5, 0.5, 2, 1])), file)
        case _:
            Image.fromarray(array).save(file)
    return file


def write_raters(root: Path, made: list[Made], suffix: str = ".png", white: int = 255) -> Path:
    """images/NAME and raters/RATER/NAME."""
    for one in made:
        save(one.image, root / "images" / f"{one.name}{suffix}")
        for rater, mask in one.masks.items():
            save((mask * white).astype(np.uint8), root / "raters" / rater / f"{one.name}{suffix}")
    return root


def write_labels(root: Path, made: list[Made]) -> Path:
    """images/NAME and labels/NAME_RATER."""
    for one in made:
        save(one.image, root / "images" / f"{one.name}.png")
        for rater, mask in one.masks.items():
            save((mask * 255).astype(np.uint8), root / "labels" / f"{one.name}_{rater}.png")
    return root


def write_table(root: Path, made: list[Made]) -> Path:
    """A CSV, and files of whatever names."""
    lines = ["image;label;rater;group"]
    for n, one in enumerate(made):
        image = save(one.image, root / "pictures" / f"{n}.png")
        for rater, mask in one.masks.items():
            label = save((mask * 255).astype(np.uint8), root / "drawn" / f"{rater} {n}.tif")
            lines.append(f"{image.relative_to(root)};{label.relative_to(root)};{rater};{one.patient}")
    (root / "all.csv").write_text("\n".join(lines))
    return root
