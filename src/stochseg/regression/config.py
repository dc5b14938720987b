"""What can be set of the regression study. The text under a field is its help on the command line."""

from dataclasses import dataclass, replace
from typing import Literal

from stochseg.config import ObjectiveConfig, PhaseConfig
from stochseg.errors import InputError

Method = Literal["adversarial", "calibrated", "energy"]
METHODS: dict[Method, str] = {
    "adversarial": "without L_cal",
    "calibrated": "with L_cal",
    "energy": "energy loss",
}
"""The objectives that are compared, and what tables and figures call them."""


@dataclass(frozen=True)
class StudyConfig:
    """The regression study: every pi with every sigma, by every method, as often as repeated."""

    seed: int = 0
    """Seed of everything random."""
    methods: tuple[Method, ...] = ("adversarial", "calibrated")
    """adversarial: the paper's objective without the calibration loss. calibrated: with it. energy: the energy loss in
    place of both, no part of the paper's grid."""
    pi: tuple[float, ...] = (0.5, 0.6, 0.9)
    """Probabilities of the upper branch."""
    sigma: tuple[float, ...] = (0.01, 0.02, 0.03)
    """Deviations of the noise."""
    repetitions: int = 5
    """Runs of each setting by each method."""
    calibration_steps: int = 1500
    """Steps of the calibration network, one a setting."""
    calibration_batch: int = 1000
    """Numbers x in each of them."""
    steps: int = 5000
    """Steps of the refinement network and the discriminator."""
    batch: int = 100
    """Numbers x in each of them, of each run."""
    samples: int = 10
    """Samples of each x; the method adversarial draws one."""
    calibration: float = 1.0
    """Weight of the calibration loss, beside 1 of the adversarial one; the method calibrated."""
    lr: float = 1e-4
    """Learning rate of all networks (Adam)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of Adam's two moments."""
    width: int = 64
    """Units of a hidden layer."""
    depth: int = 4
    """Hidden layers."""
    score_every: int = 100
    """Steps between the points of the training curves."""
    device: str = "auto"
    """auto: a CUDA device where there is one, else the CPU; or a name such as cuda:1."""

    def __post_init__(self) -> None:
        lists = {name: getattr(self, name) for name in ("methods", "pi", "sigma")}
        counts = (
            "repetitions",
            "calibration_steps",
            "calibration_batch",
            "steps",
            "batch",
            "width",
            "depth",
            "score_every",
        )
        checks = [
            ("seed", self.seed >= 0, "at least 0"),
            *((name, 0 < len(set(each)) == len(each), "one or more, all different") for name, each in lists.items()),
            ("pi", all(0 < p < 1 for p in self.pi), "above 0 and below 1"),
            ("sigma", all(0 < s <= 0.03 for s in self.sigma), "above 0 and at most 0.03"),
            *((name, getattr(self, name) >= 1, "at least 1") for name in counts),
            ("samples", self.samples >= 2, "at least 2"),
            ("calibration", self.calibration > 0, "above 0"),
            ("lr", self.lr > 0, "above 0"),
            ("betas", all(0 <= beta < 1 for beta in self.betas), "at least 0 and below 1"),
        ]
        for name, holds, wanted in checks:
            if not holds:
                value = getattr(self, name)
                raise InputError(f"--{name} {list(value) if isinstance(value, tuple) else value}: must be {wanted}")

    def objective(self, method: Method) -> ObjectiveConfig:
        """The weights of the losses; as in the paper there is no gradient penalty."""
        none = ObjectiveConfig(cross_entropy=1, energy=0, marginal=0, r1=0, samples=self.samples)
        weights: dict[Method, ObjectiveConfig] = {
            "adversarial": replace(none, adversarial=1, samples=1),
            "calibrated": replace(none, adversarial=1, calibration=self.calibration),
            "energy": replace(none, energy=1, kernel="crps"),
        }
        return weights[method]

    def phase(self) -> PhaseConfig:
        """How every network is updated."""
        return PhaseConfig(optimizer="adam", lr=self.lr, betas=self.betas, weight_decay=0)
