"""Everything that can be set, as frozen dataclasses. The text under a field is its help on the command line."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from stochseg.config.checks import require
from stochseg.config.input import Crop, InputConfig
from stochseg.config.networks import BaselineConfig, CalibrationConfig, DiscriminatorConfig, RefinementConfig
from stochseg.config.objective import ObjectiveConfig
from stochseg.config.training import PhaseConfig, PhasesConfig, TrainingConfig, ValidationConfig

__all__ = [
    "BUDGETS",
    "BaselineConfig",
    "CalibrationConfig",
    "Config",
    "Crop",
    "DiscriminatorConfig",
    "InputConfig",
    "ObjectiveConfig",
    "PhaseConfig",
    "PhasesConfig",
    "RefinementConfig",
    "TrainingConfig",
    "ValidationConfig",
    "to_plain",
]

BUDGETS = ("minutes", "steps", "epochs")


@dataclass(frozen=True)
class Config:
    """A training run."""

    method: Literal["car", "deterministic", "mc-dropout", "probabilistic-unet", "ssn", "ccdm"] = "car"
    """car: ours and the paper's; the others are for comparison, with a network and a loss of their own."""
    seed: int = 0
    """Seed of everything random."""
    minutes: float | None = None
    """Stop after this many minutes of training."""
    steps: int | None = None
    """Stop after this many steps."""
    epochs: int | None = None
    """Stop after this many passes over the training split."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the hardware gains by it."""
    device: str = "auto"
    """auto: a CUDA device where there is one, else the CPU; or a name such as cuda:1."""
    deterministic: bool = False
    """On a GPU: none but deterministic algorithms, slower, so that two runs have the same bits; a CPU needs none of it."""
    input: InputConfig = field(default_factory=InputConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    phases: PhasesConfig = field(default_factory=PhasesConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, "at least 0")
        for name in BUDGETS:
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "above 0")
        require(
            any(getattr(self, name) is not None for name in BUDGETS),
            "minutes",
            None,
            "a budget: --minutes, --steps or --epochs",
        )
        sees = self.method == "car" and self.calibration.net != "none"
        what = f"method {self.method}" if self.method != "car" else "calibration.net none"
        require(
            not (
                self.input.whole
                and self.input.crop
                and self.objective.adversarial
                and self.discriminator.net == "pixel"
            ),
            "input.whole",
            True,
            "false with discriminator.net pixel, which takes no other size than the crop's",
        )
        require(sees or not self.input.blackbox, "input.blackbox", True, f"false: {what} sees no black box")


def to_plain(config: Any) -> dict[str, Any]:
    """The config as plain lists, dicts and numbers, for YAML and JSON."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return list(value) if isinstance(value, tuple) else value

    result = plain(dataclasses.asdict(config))
    assert isinstance(result, dict)
    return result
