"""From a config to a network: the one place that knows which class a name stands for."""

from torch import nn

from stochseg.config import CalibrationConfig, DiscriminatorConfig, RefinementConfig
from stochseg.models.convnet import ConvNet, NoCalibration
from stochseg.models.discriminator import PixelDiscriminator, PooledDiscriminator
from stochseg.models.film import FilmRefinement
from stochseg.models.hypotheses import Hypotheses
from stochseg.models.refinement import Refinement
from stochseg.models.segnet import SegNet, load_imagenet_weights
from stochseg.models.unet import UNet


def build_calibration(config: CalibrationConfig, channels: int, classes: int, blackbox: bool = False) -> nn.Module:
    """channels: of all it sees; blackbox: whether the last of them, one a class, are a black box's."""
    if config.net == "unet":
        return UNet(channels, classes, config.widths, config.dropout, config.patch, config.residual and blackbox)
    if config.net == "none":
        return NoCalibration(classes)
    if config.net == "convnet":
        return ConvNet(channels, classes, config.width, config.dropout)
    segnet = SegNet(channels, classes, config.width, config.dropout)
    if config.pretrained:
        load_imagenet_weights(segnet, config.pretrained)
    return segnet


def build_refinement(config: RefinementConfig, channels: int, classes: int) -> nn.Module:
    if config.net == "film":
        return FilmRefinement(
            channels,
            classes,
            config.widths,
            config.latent,
            config.spatial_noise,
            config.patch,
            config.choice,
            config.fine,
            config.class_noise,
            config.bound,
        )
    if config.net == "hypotheses":
        return Hypotheses(channels, classes, config.hypotheses, config.widths, config.patch)
    return Refinement(channels, classes, config.latent, config.width, config.dropout)


def build_discriminator(config: DiscriminatorConfig, channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
    if config.net == "pixel":
        return PixelDiscriminator(channels, classes, size, config.width)
    return PooledDiscriminator(channels, classes, config.width)
