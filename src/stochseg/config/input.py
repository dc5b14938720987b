"""What of an image the networks see."""

from dataclasses import dataclass
from typing import Literal

from stochseg.config.checks import require

Crop = int | tuple[int, int] | None
"""The side of a square, (h, w), or None for whole images."""


@dataclass(frozen=True)
class InputConfig:
    """What of an image the networks see, and how training varies it."""

    crop: int | tuple[int, int] | None = 64
    """The crop in pixels: the side of a square, or [height, width]; none keeps whole images. Evaluation takes the centre,
    unless whole is set."""
    jitter: float = 0.0
    """How far a training crop may leave the centre, as a share of the room there is: 0 centre, 1 anywhere."""
    whole: bool = False
    """Validation and evaluation see whole images, whatever crop training sees."""
    zoom: tuple[float, ...] = ()
    """Shares of the crop's sides: for half of the training images a smaller crop, by a share drawn from these, is taken
    and enlarged (paper on Cityscapes: .8, .9, .95). Where it lies, jitter says."""
    label_draws: int = 1
    """Where classes flip: how many labels with flips drawn afresh an image gives in a training step, as so many raters."""
    flips: Literal["none", "horizontal", "both"] = "both"
    """Mirror images and labels at random in training: left to right, or along both axes."""
    turns: bool = True
    """Turn images and labels by random quarters in training (square crops only)."""
    rotate: float = 0.0
    """Rotate images and labels in training by up to this many degrees, either way; 0 is off."""
    scale: float = 0.0
    """Magnify or shrink images and labels in training by up to this share, 0.2 from 1/1.2 to 1.2; 0 is off."""
    warped: float = 1.0
    """Share of the training images that rotate and scale change; the others stay as sharp as those of evaluation."""
    intensity: float = 0.1
    """Strength of random brightness, contrast and gamma changes in training; 0 is off."""
    grey_as_rgb: bool = False
    """Repeat grey images to three channels, as the official code does (and ImageNet weights want)."""
    blackbox: bool = False
    """The calibration network also sees what a given segmenter says: predictions in the store (`stochseg blackbox`)."""
    class_flips: bool = True
    """Train on flips drawn afresh where the store says that classes flip; a black box is trained on labels as they are."""
    flip_blackbox: bool = False
    """In training, saved class ids of the black box flip together with the label (label_draws 1 only), as if it knew."""

    def __post_init__(self) -> None:
        sides = self.crop if isinstance(self.crop, tuple) else (self.crop or 16,)
        require(min(sides) >= 16, "input.crop", self.crop, "at least 16 pixels")
        require(all(0 < share <= 1 for share in self.zoom), "input.zoom", self.zoom, "shares above 0, up to 1")
        require(self.label_draws >= 1, "input.label_draws", self.label_draws, "at least 1")
        require(
            not self.flip_blackbox or (self.blackbox and self.label_draws == 1),
            "input.flip_blackbox",
            True,
            "false unless input.blackbox is true and input.label_draws 1",
        )
        require(0 <= self.jitter <= 1, "input.jitter", self.jitter, "from 0 to 1")
        require(0 <= self.rotate <= 180, "input.rotate", self.rotate, "from 0 to 180 degrees")
        require(0 <= self.scale < 1, "input.scale", self.scale, "at least 0 and below 1")
        require(0 < self.warped <= 1, "input.warped", self.warped, "above 0, up to 1")
        require(0 <= self.intensity < 1, "input.intensity", self.intensity, "at least 0 and below 1")
