"""Everything that can be set, as frozen dataclasses. The text under a field is its help on the command line."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from stochseg.errors import InputError

Crop = int | tuple[int, int] | None
"""The side of a square, (h, w), or None for whole images."""
BUDGETS = ("minutes", "steps", "epochs")


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
        _require(min(sides) >= 16, "input.crop", self.crop, "at least 16 pixels")
        _require(all(0 < share <= 1 for share in self.zoom), "input.zoom", self.zoom, "shares above 0, up to 1")
        _require(self.label_draws >= 1, "input.label_draws", self.label_draws, "at least 1")
        _require(
            not self.flip_blackbox or (self.blackbox and self.label_draws == 1),
            "input.flip_blackbox",
            True,
            "false unless input.blackbox is true and input.label_draws 1",
        )
        _require(0 <= self.jitter <= 1, "input.jitter", self.jitter, "from 0 to 1")
        _require(0 <= self.rotate <= 180, "input.rotate", self.rotate, "from 0 to 180 degrees")
        _require(0 <= self.scale < 1, "input.scale", self.scale, "at least 0 and below 1")
        _require(0 <= self.intensity < 1, "input.intensity", self.intensity, "at least 0 and below 1")


@dataclass(frozen=True)
class CalibrationConfig:
    """The calibration network F(x) -> q."""

    net: Literal["unet", "segnet", "convnet", "none"] = "unet"
    """unet: small, for small machines. segnet: the paper's for LIDC (VGG19). convnet: the paper's over a black box.
    none: every class equally likely everywhere, so that the refinement network stands alone (an ablation)."""
    widths: tuple[int, ...] = (16, 32, 64, 128)
    """Channels a level of the unet."""
    patch: int = 1
    """unet only: side of the blocks of pixels that its first level takes as one; 2 saves most work at full size."""
    width: int = 64
    """Channels of the convnet, and of the first level of the segnet."""
    dropout: float = 0.0
    """Dropout rate."""
    pretrained: str | None = None
    """ImageNet weights for the segnet's encoder: 'imagenet' downloads them, or a local file. None starts at random."""

    def __post_init__(self) -> None:
        _require(
            len(self.widths) >= 2 and min(self.widths) > 0, "calibration.widths", self.widths, "two or more widths"
        )
        _require(self.patch >= 1, "calibration.patch", self.patch, "at least 1")
        _require(0 <= self.dropout < 1, "calibration.dropout", self.dropout, "at least 0 and below 1")
        _require(self.width >= 1, "calibration.width", self.width, "at least 1")
        _require(
            self.pretrained is None or self.net == "segnet",
            "calibration.pretrained",
            self.pretrained,
            "none unless net is segnet",
        )


@dataclass(frozen=True)
class RefinementConfig:
    """The refinement network G([x, q], z) -> sample."""

    net: Literal["film", "paper"] = "film"
    """film: ours, z at every scale, cheap per sample. paper: the paper's stochastic U-Net."""
    widths: tuple[int, ...] = (16, 32, 64, 128)
    """Channels a level of film."""
    patch: int = 1
    """Film only: side of the blocks of pixels that its first level takes as one; 2 saves most work at full size."""
    width: int = 32
    """Channels of the paper's first level; each level doubles them."""
    latent: int = 16
    """Length of z; film adds its 64 numbers of coarse spatial noise to it."""
    spatial_noise: bool = True
    """Film only: an 8x8 field of noise over the image as a part of z."""
    fine: bool = True
    """Film with patch above 1 only: z enters the first level too; without, training takes about a fifth more steps."""
    choice: bool = False
    """Film only: one number of z chooses, with a probability that is learned, whether anything is there at all."""
    class_noise: bool = False
    """Film only: z has a Gumbel number for each class, the same in the whole image, which is added to log q. All pixels then
    draw their class together, each with the probabilities q: what classes that flip as a whole need."""
    dropout: float = 0.1
    """Paper only: dropout rate."""

    def __post_init__(self) -> None:
        _require(len(self.widths) >= 2 and min(self.widths) > 0, "refinement.widths", self.widths, "two or more widths")
        _require(self.patch >= 1, "refinement.patch", self.patch, "at least 1")
        _require(self.latent >= 1, "refinement.latent", self.latent, "at least 1")
        for name in ("choice", "class_noise"):
            _require(
                self.net == "film" or not getattr(self, name), f"refinement.{name}", True, "false unless net is film"
            )
        _require(self.width >= 1, "refinement.width", self.width, "at least 1")
        _require(0 <= self.dropout < 1, "refinement.dropout", self.dropout, "at least 0 and below 1")


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The discriminator D([x, label]); built only where objective.adversarial is above 0."""

    net: Literal["pooled", "pixel"] = "pooled"
    """pooled: ours, any image size. pixel: the paper's, tied to one size."""
    width: int = 32
    """Channels of the first layers (paper: 64)."""

    def __post_init__(self) -> None:
        _require(self.width >= 1, "discriminator.width", self.width, "at least 1")


@dataclass(frozen=True)
class BaselineConfig:
    """The other methods (`--method`), each with one network of its own."""

    widths: tuple[int, ...] = (16, 32, 64, 128)
    """Channels a level of the backbone."""
    patch: int = 1
    """Side of the blocks of pixels that its first level takes as one; 2 saves most work at full size."""
    latent: int = 6
    """probabilistic-unet: length of z."""
    beta: float = 1.0
    """probabilistic-unet: weight of the divergence of the posterior from the prior, in nats an image."""
    rank: int = 10
    """ssn: rank of the covariance."""
    dropout: float = 0.5
    """mc-dropout: dropout rate, in training and in sampling."""
    diffusion_steps: int = 250
    """ccdm: steps of the noise process."""
    sampling_steps: int = 250
    """ccdm: steps of a sample, up to diffusion_steps; fewer stride over them."""

    def __post_init__(self) -> None:
        _require(len(self.widths) >= 2 and min(self.widths) > 0, "baseline.widths", self.widths, "two or more widths")
        for name in ("patch", "latent", "rank", "diffusion_steps", "sampling_steps"):
            _require(getattr(self, name) >= 1, f"baseline.{name}", getattr(self, name), "at least 1")
        _require(self.beta >= 0, "baseline.beta", self.beta, "at least 0")
        _require(0 <= self.dropout < 1, "baseline.dropout", self.dropout, "at least 0 and below 1")
        _require(
            self.sampling_steps <= self.diffusion_steps,
            "baseline.sampling_steps",
            self.sampling_steps,
            f"at most baseline.diffusion_steps {self.diffusion_steps}",
        )


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the losses. Zero switches a part off, and its cost with it."""

    samples: int = 6
    """Samples of an image in each training step."""
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
    """Cross entropy of the chosen P(empty) against the share of raters who mark nothing; no part without refinement.choice."""
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
            "r1",
            "r2",
            "smooth",
        ):
            _require(getattr(self, name) >= 0, f"objective.{name}", getattr(self, name), "at least 0")
        _require(self.spread > 0, "objective.spread", self.spread, "above 0")
        _require(self.block >= 1, "objective.block", self.block, "at least 1")
        _require(self.samples >= 1, "objective.samples", self.samples, "at least 1")
        _require(
            self.samples >= 2 or not self.energy, "objective.samples", self.samples, "at least 2 for the energy loss"
        )
        _require(
            self.samples >= 2 or not self.marginal or self.marginal_score == "log",
            "objective.samples",
            self.samples,
            "at least 2 for marginal_score brier",
        )


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
        _require(self.lr > 0, "phases.*.lr", self.lr, "above 0")
        _require(all(0 <= beta < 1 for beta in self.betas), "phases.*.betas", self.betas, "at least 0 and below 1")
        _require(self.weight_decay >= 0, "phases.*.weight_decay", self.weight_decay, "at least 0")
        _require(1 <= self.active <= self.period, "phases.*.active", self.active, "from 1 to period")


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
        _require(self.batch >= 1, "training.batch", self.batch, "at least 1")
        _require(
            self.accumulate >= 1 and self.batch % self.accumulate == 0,
            "training.accumulate",
            self.accumulate,
            f"a divisor of training.batch {self.batch}",
        )
        _require(self.ema is None or 0 < self.ema < 1, "training.ema", self.ema, "between 0 and 1")
        _require(self.clip is None or self.clip > 0, "training.clip", self.clip, "above 0, or none")
        _require(self.warmup >= 0, "training.warmup", self.warmup, "at least 0")
        _require(self.log_every >= 1, "training.log_every", self.log_every, "at least 1")
        _require(self.timeout > 0, "training.timeout", self.timeout, "above 0")


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
        _require(self.every >= 1, "validation.every", self.every, "at least 1")
        _require(self.images is None or self.images >= 1, "validation.images", self.images, "at least 1, or none")
        _require(self.samples >= 2, "validation.samples", self.samples, "at least 2")
        _require(self.slack >= 0, "validation.slack", self.slack, "at least 0")


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
        _require(self.seed >= 0, "seed", self.seed, "at least 0")
        for name in BUDGETS:
            value = getattr(self, name)
            _require(value is None or value > 0, name, value, "above 0")
        _require(
            any(getattr(self, name) is not None for name in BUDGETS),
            "minutes",
            None,
            "a budget: --minutes, --steps or --epochs",
        )
        sees = self.method == "car" and self.calibration.net != "none"
        what = f"method {self.method}" if self.method != "car" else "calibration.net none"
        _require(
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
        _require(sees or not self.input.blackbox, "input.blackbox", True, f"false: {what} sees no black box")


def to_plain(config: Any) -> dict[str, Any]:
    """The config as plain lists, dicts and numbers, for YAML and JSON."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return list(value) if isinstance(value, tuple) else value

    result = plain(dataclasses.asdict(config))
    assert isinstance(result, dict)
    return result


def _require(holds: bool, flag: str, value: object, wanted: str) -> None:
    if not holds:
        raise InputError(f"--{flag} {value}: must be {wanted}")
