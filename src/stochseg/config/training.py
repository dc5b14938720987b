"""The loop: updates, schedule, and how the best model is chosen."""

from dataclasses import dataclass, field
from typing import Literal

from stochseg.config.checks import require


@dataclass(frozen=True)
class PhaseConfig:
    """How one network is updated, and in which steps."""

    optimizer: Literal["adamw", "adam"] = "adamw"
    """adamw, or adam with weight decay as in the paper."""
    lr: float = 2e-3
    """Learning rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of the two moments."""
    weight_decay: float = 1e-3
    """Weight decay."""
    halve_at: tuple[int, ...] = ()
    """Epochs after which the learning rate halves."""
    active: int = 1
    """Steps in which the network is updated, out of each `period` steps ..."""
    period: int = 1
    """... (paper's discriminator: the first 50 of every 250)."""
    accuracy_cap: float | None = None
    """Discriminator only: no update while its accuracy in the step before reached this (paper: 0.85)."""

    def __post_init__(self) -> None:
        require(self.lr > 0, "phases.*.lr", self.lr, "above 0")
        require(all(0 <= beta < 1 for beta in self.betas), "phases.*.betas", self.betas, "at least 0 and below 1")
        require(self.weight_decay >= 0, "phases.*.weight_decay", self.weight_decay, "at least 0")
        require(1 <= self.active <= self.period, "phases.*.active", self.active, "from 1 to period")


@dataclass(frozen=True)
class PhasesConfig:
    """The networks in the order of their updates within a step."""

    calibration: PhaseConfig = field(default_factory=PhaseConfig)
    refinement: PhaseConfig = field(default_factory=PhaseConfig)
    discriminator: PhaseConfig = field(default_factory=lambda: PhaseConfig(lr=2e-4, betas=(0.5, 0.99)))
    baseline: PhaseConfig = field(default_factory=PhaseConfig)


@dataclass(frozen=True)
class TrainingConfig:
    """The loop."""

    batch: int = 32
    """Images a step."""
    accumulate: int = 1
    """Parts into which a step's batch is cut to save memory; gradients are added up."""
    warmup: int = 100
    """Steps in which the learning rate rises to its value."""
    cosine: bool = True
    """Let the learning rate fall to zero over the budget along a cosine."""
    clip: float | None = 1.0
    """Largest gradient norm of a network; none does not clip."""
    ema: float | None = 0.999
    """Decay of the averaged weights that are validated and saved; none keeps the last weights."""
    compile: bool = False
    """Compile the networks of method car with torch.compile: minutes at the start, less time a step where it works."""
    compile_mode: Literal["default", "reduce-overhead"] = "default"
    """Of torch.compile; reduce-overhead records CUDA graphs, which pays for networks as small as those of lidc."""
    record: bool = True
    """On a GPU, record the kernels of a step's losses and gradients once and replay them (a CUDA graph); not with compile."""
    workers: int | None = None
    """Processes that draw the next batches; none: on a GPU up to 8, as there are cores, on a CPU 0."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl."""
    save_every: float = 60.0
    """Seconds between checkpoints; one is also written after each validation."""
    timeout: float = 600.0
    """Seconds that one of several processes waits for another that does not answer, before the run ends."""
    tensorboard: bool = False
    """Also log to RUN/tensorboard (extra `tensorboard`)."""
    wandb: str | None = None
    """Also log to this Weights & Biases project (extra `wandb`)."""

    def __post_init__(self) -> None:
        require(self.batch >= 1, "training.batch", self.batch, "at least 1")
        require(
            self.accumulate >= 1 and self.batch % self.accumulate == 0,
            "training.accumulate",
            self.accumulate,
            f"a divisor of training.batch {self.batch}",
        )
        require(self.ema is None or 0 < self.ema < 1, "training.ema", self.ema, "between 0 and 1")
        require(self.clip is None or self.clip > 0, "training.clip", self.clip, "above 0, or none")
        require(self.warmup >= 0, "training.warmup", self.warmup, "at least 0")
        require(
            self.workers is None or self.workers >= 0, "training.workers", self.workers, "at least 0, or none to choose"
        )
        require(self.log_every >= 1, "training.log_every", self.log_every, "at least 1")
        require(self.timeout > 0, "training.timeout", self.timeout, "above 0")


@dataclass(frozen=True)
class ValidationConfig:
    """How the best model is chosen."""

    split: str = "val"
    """The split to validate on."""
    every: int = 250
    """Steps between validations; the last step is always validated."""
    images: int | None = 300
    """Images of the split, a fixed seeded choice; none takes all."""
    samples: int = 16
    """Samples of an image."""
    select: Literal["ged", "last"] = "ged"
    """ged: keep the model of the lowest GED (U statistic, which more samples do not move). last: keep the newest."""
    slack: float = 0.003
    """A newer model is kept up to this much above the lowest GED: a few hundred images do not tell such models apart."""

    def __post_init__(self) -> None:
        require(self.every >= 1, "validation.every", self.every, "at least 1")
        require(self.images is None or self.images >= 1, "validation.images", self.images, "at least 1, or none")
        require(self.samples >= 2, "validation.samples", self.samples, "at least 2")
        require(self.slack >= 0, "validation.slack", self.slack, "at least 0")
