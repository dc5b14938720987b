"""stochseg: learn the distribution of segmentations of an image, and sample coherent ones with calibrated frequencies.

The public names; each is loaded when first used, so that importing the package is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from stochseg import metrics
    from stochseg.errors import InputError, RunError
    from stochseg.evaluation import evaluate
    from stochseg.models.blackbox import BlackBox
    from stochseg.models.car import CAR
    from stochseg.models.segmenter import load
    from stochseg.scoring.folders import score
    from stochseg.training.run import train

__all__ = ["CAR", "BlackBox", "InputError", "RunError", "__version__", "evaluate", "load", "metrics", "score", "train"]

_HOMES = {
    "BlackBox": "stochseg.models.blackbox",
    "CAR": "stochseg.models.car",
    "InputError": "stochseg.errors",
    "RunError": "stochseg.errors",
    "evaluate": "stochseg.evaluation",
    "load": "stochseg.models.segmenter",
    "score": "stochseg.scoring.folders",
    "train": "stochseg.training.run",
}


def __getattr__(name: str) -> Any:
    if name == "metrics":
        return import_module("stochseg.metrics")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'stochseg' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
