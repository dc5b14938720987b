"""The methods by name: ours, and the baselines beside it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from stochseg.errors import InputError

if TYPE_CHECKING:
    from stochseg.models.segmenter import Segmenter

METHODS = {
    "car": "stochseg.models.car.CAR",
    "deterministic": "stochseg.baselines.deterministic.Deterministic",
    "mc-dropout": "stochseg.baselines.mc_dropout.MCDropout",
    "probabilistic-unet": "stochseg.baselines.probabilistic_unet.ProbabilisticUNet",
    "ssn": "stochseg.baselines.ssn.StochasticSegmentationNetwork",
    "ccdm": "stochseg.baselines.diffusion.CategoricalDiffusion",
}
"""Every method by name, and the class it is."""


def method_class(method: str) -> type[Segmenter]:
    """The class of a method; InputError lists those known."""
    if method not in METHODS:
        raise InputError(f"--method {method}: not known; choose one of {', '.join(METHODS)}")
    module, name = METHODS[method].rsplit(".", 1)
    found: type[Segmenter] = getattr(import_module(module), name)
    return found
