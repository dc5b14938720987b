"""The networks of every method."""

from dataclasses import dataclass
from typing import Literal

from stochseg.config.checks import require


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
    residual: bool = False
    """unet only, where a black box gives probabilities: the answer starts from those, and the network corrects them. A class
    that the black box never gives is then a fixed share of others."""
    width: int = 64
    """Channels of the convnet, and of the first level of the segnet."""
    dropout: float = 0.0
    """Dropout rate."""
    pretrained: str | None = None
    """ImageNet weights for the segnet's encoder: 'imagenet' downloads them, or a local file. None starts at random."""

    def __post_init__(self) -> None:
        require(len(self.widths) >= 2 and min(self.widths) > 0, "calibration.widths", self.widths, "two or more widths")
        require(self.patch >= 1, "calibration.patch", self.patch, "at least 1")
        require(0 <= self.dropout < 1, "calibration.dropout", self.dropout, "at least 0 and below 1")
        require(self.width >= 1, "calibration.width", self.width, "at least 1")
        require(
            self.pretrained is None or self.net == "segnet",
            "calibration.pretrained",
            self.pretrained,
            "none unless net is segnet",
        )


@dataclass(frozen=True)
class RefinementConfig:
    """The refinement network G([x, q], z) -> sample."""

    net: Literal["film", "hypotheses", "paper"] = "film"
    """film: ours, z at every scale, cheap per sample. hypotheses: ours too, one pass gives all the shapes that an image has,
    each with its probability, and the empty map; z only chooses. paper: the paper's stochastic U-Net."""
    hypotheses: int = 8
    """Hypotheses only: how many shapes there are beside the empty map."""
    widths: tuple[int, ...] = (16, 32, 64, 128)
    """Channels a level of film and hypotheses."""
    patch: int = 1
    """Film and hypotheses: side of the blocks of pixels that its first level takes as one; 2 saves most work at full size."""
    width: int = 32
    """Channels of the paper's first level; each level doubles them."""
    latent: int = 16
    """Length of z, which is 1 for hypotheses; film adds its 64 numbers of coarse spatial noise to it."""
    spatial_noise: bool = True
    """Film only: an 8x8 field of noise over the image as a part of z."""
    fine: bool = True
    """Film with patch above 1 only: z enters the first level too; without, training takes about a fifth more steps."""
    choice: bool = False
    """Film only: one number of z chooses, with a probability that is learned, whether anything is there at all."""
    class_noise: bool = False
    """Film only: z has a Gumbel number for each class, the same in the whole image, which is added to log q. All pixels then
    draw their class together, each with the probabilities q: what classes that flip as a whole need."""
    bound: float | None = None
    """Film only: the most by which a sample's logits may differ from log q, so that no sample shows what q rules out; none:
    no bound."""
    dropout: float = 0.1
    """Paper only: dropout rate."""

    def __post_init__(self) -> None:
        require(len(self.widths) >= 2 and min(self.widths) > 0, "refinement.widths", self.widths, "two or more widths")
        require(self.patch >= 1, "refinement.patch", self.patch, "at least 1")
        require(self.latent >= 1, "refinement.latent", self.latent, "at least 1")
        require(self.hypotheses >= 2, "refinement.hypotheses", self.hypotheses, "at least 2")
        for name in ("choice", "class_noise"):
            require(
                self.net == "film" or not getattr(self, name), f"refinement.{name}", True, "false unless net is film"
            )
        require(
            self.bound is None or (self.net == "film" and self.bound > 0),
            "refinement.bound",
            self.bound,
            "none, or above 0 where net is film",
        )
        require(self.width >= 1, "refinement.width", self.width, "at least 1")
        require(0 <= self.dropout < 1, "refinement.dropout", self.dropout, "at least 0 and below 1")


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The discriminator D([x, label]); built only where objective.adversarial is above 0."""

    net: Literal["pooled", "pixel"] = "pooled"
    """pooled: ours, any image size. pixel: the paper's, tied to one size."""
    width: int = 32
    """Channels of the first layers (paper: 64)."""

    def __post_init__(self) -> None:
        require(self.width >= 1, "discriminator.width", self.width, "at least 1")


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
        require(len(self.widths) >= 2 and min(self.widths) > 0, "baseline.widths", self.widths, "two or more widths")
        for name in ("patch", "latent", "rank", "diffusion_steps", "sampling_steps"):
            require(getattr(self, name) >= 1, f"baseline.{name}", getattr(self, name), "at least 1")
        require(self.beta >= 0, "baseline.beta", self.beta, "at least 0")
        require(0 <= self.dropout < 1, "baseline.dropout", self.dropout, "at least 0 and below 1")
        require(
            self.sampling_steps <= self.diffusion_steps,
            "baseline.sampling_steps",
            self.sampling_steps,
            f"at most baseline.diffusion_steps {self.diffusion_steps}",
        )
