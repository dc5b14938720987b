"""The losses and their weights."""

from dataclasses import dataclass, replace
from typing import Literal

from stochseg.config.checks import require


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the losses. Zero switches a part off, and its cost with it."""

    samples: int = 6
    """Samples of an image in each training step; refinement.net hypotheses compares all its shapes instead, exactly."""
    raters: Literal["all", "one"] = "all"
    """All raters of an image in each step, or one drawn at random as in the paper."""
    cross_entropy: float = 1.0
    """Cross entropy of q, for the calibration network."""
    adversarial: float = 0.0
    """Adversarial loss of the samples (paper: 10)."""
    adversary: Literal["paper", "relativistic"] = "paper"
    """paper: non-saturating, on soft maps. relativistic: sample against a rater of the same image, on class maps."""
    calibration: float = 0.0
    """KL of the samples' mean from q (paper: 5)."""
    energy: float = 1.0
    """Unbiased energy loss of samples and raters."""
    kernel: Literal["minmax", "product", "dice", "crps"] = "minmax"
    """Distance in the energy loss. minmax: 1 - IoU, overlap min(s, y). product: 1 - IoU, overlap s * y. dice: 1 - Dice,
    which sees of all maps of one area only their pixels' frequencies. crps: mean |s - y|, those of all maps."""
    smooth: float = 1.0
    """Pixels of overlap granted to every pair in the energy loss; no part of crps."""
    block: int = 1
    """Side of the blocks of pixels that are summed before the energy loss compares maps: less work, the same large shapes."""
    spread: float = 1.0
    """Weight of the samples' distance among themselves in the energy loss. 1 is unbiased; (m - 1) / m, at m = 16 0.9375,
    is what the GED of m samples rewards, a little less spread than the raters have."""
    marginal: float = 5.0
    """How far the samples' mean is from the raters' mean."""
    marginal_score: Literal["log", "brier"] = "log"
    """log: cross entropy; of the mean of few samples it prefers soft maps to hard ones, the more the rarer they are. brier:
    squared distance, estimated without that bias; what classes that flip as a whole need."""
    empty: float = 0.0
    """Cross entropy of the chosen P(empty) against the share of raters who mark nothing; no part without such a
    choice (refinement.choice, or net hypotheses)."""
    nearest: float = 0.0
    """Cross entropy of each rater under the nearest shape of refinement.net hypotheses, so that rare answers get a shape too;
    falls evenly to 0 over the training. No part of other networks."""
    r1: float = 10.0
    """Gradient penalty of the discriminator on real pairs."""
    r2: float = 0.0
    """The same on pairs of image and sample."""
    r1_on: Literal["probability", "logit"] = "logit"
    """What the penalties are taken of: the paper's is the probability."""

    def __post_init__(self) -> None:
        for name in (
            "cross_entropy",
            "adversarial",
            "calibration",
            "energy",
            "marginal",
            "empty",
            "nearest",
            "r1",
            "r2",
            "smooth",
        ):
            require(getattr(self, name) >= 0, f"objective.{name}", getattr(self, name), "at least 0")
        require(self.spread > 0, "objective.spread", self.spread, "above 0")
        require(self.block >= 1, "objective.block", self.block, "at least 1")
        require(
            self.block == 1 or self.kernel != "product", "objective.block", self.block, "1 for objective.kernel product"
        )
        require(self.samples >= 1, "objective.samples", self.samples, "at least 1")
        require(
            self.samples >= 2 or not self.energy, "objective.samples", self.samples, "at least 2 for the energy loss"
        )
        require(
            self.samples >= 2 or not self.marginal or self.marginal_score == "log",
            "objective.samples",
            self.samples,
            "at least 2 for marginal_score brier",
        )

    def at(self, progress: float) -> "ObjectiveConfig":
        """The weights when this share of the training's budget is used up."""
        return replace(self, nearest=self.nearest * max(0.0, 1 - progress)) if self.nearest else self
