"""Scores of sets of segmentations against several raters: tensors in, tensors out, on any device.

Samples are integer maps [b n h w], labels integer maps [b r h w] in which a map filled with 255 is a missing rater.
Names are loaded when first used, so importing this package is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stochseg.metrics.calibration import (
        ReliabilityCounts,
        brier_score,
        class_frequencies,
        dice_of_mean,
        expected_calibration_error,
        negative_log_likelihood,
        reliability_counts,
        soft_dice,
    )
    from stochseg.metrics.conventions import CONVENTIONS, Convention, get_convention
    from stochseg.metrics.distances import SetDistances, pairwise_dice, pairwise_iou, set_distances
    from stochseg.metrics.ged import (
        EnergyDistance,
        energy_distance_of,
        energy_distance_parts,
        generalized_energy_distance,
    )
    from stochseg.metrics.intervals import bootstrap_interval, bootstrap_totals_interval
    from stochseg.metrics.matching import hungarian_iou, hungarian_iou_of
    from stochseg.metrics.raters import RatersReference, raters_reference

_HOME = {
    "ReliabilityCounts": "calibration",
    "brier_score": "calibration",
    "class_frequencies": "calibration",
    "dice_of_mean": "calibration",
    "expected_calibration_error": "calibration",
    "negative_log_likelihood": "calibration",
    "reliability_counts": "calibration",
    "soft_dice": "calibration",
    "CONVENTIONS": "conventions",
    "Convention": "conventions",
    "get_convention": "conventions",
    "SetDistances": "distances",
    "pairwise_dice": "distances",
    "pairwise_iou": "distances",
    "set_distances": "distances",
    "EnergyDistance": "ged",
    "energy_distance_of": "ged",
    "energy_distance_parts": "ged",
    "generalized_energy_distance": "ged",
    "bootstrap_interval": "intervals",
    "bootstrap_totals_interval": "intervals",
    "hungarian_iou": "matching",
    "hungarian_iou_of": "matching",
    "RatersReference": "raters",
    "raters_reference": "raters",
}

__all__ = [
    "CONVENTIONS",
    "Convention",
    "EnergyDistance",
    "RatersReference",
    "ReliabilityCounts",
    "SetDistances",
    "bootstrap_interval",
    "bootstrap_totals_interval",
    "brier_score",
    "class_frequencies",
    "dice_of_mean",
    "energy_distance_of",
    "energy_distance_parts",
    "expected_calibration_error",
    "generalized_energy_distance",
    "get_convention",
    "hungarian_iou",
    "hungarian_iou_of",
    "negative_log_likelihood",
    "pairwise_dice",
    "pairwise_iou",
    "raters_reference",
    "reliability_counts",
    "set_distances",
    "soft_dice",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
