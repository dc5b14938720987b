"""The scores as torchmetrics `Metric`s: update with batch after batch, on one process or many, and compute once.

Each class is a thin shell over a function of this package, which its docstring names and which says what the score
means, what the arguments are and which errors they raise. `compute` is the mean over all images whose score is defined,
`undefined` says how many were not, and `per_image` returns the values that intervals and paired tests take.

The values of all images are kept (8 bytes each), gathered from all processes and added up without rounding, so on the
CPU the result is the same to the last bit whatever the order of the images, their batches and the number of processes.
Give each process its own images, such as every `world_size`-th: torch's DistributedSampler repeats some to deal out
equally many, and what comes twice counts twice. A process may have fewer images than another, or none; all must call
`compute`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from stochseg.metrics.agreement import (
    Over,
    Spread,
    best_sample,
    collective_insight,
    combined_sensitivity,
    diversity_agreement,
    max_dice,
)
from stochseg.metrics.areas import area_crps
from stochseg.metrics.calibration import (
    QUBIQ_THRESHOLDS,
    brier_score,
    dice_of_mean,
    negative_log_likelihood,
    soft_dice,
)
from stochseg.metrics.conventions import Absent, Convention, Flip, Similarity, Statistic
from stochseg.metrics.exact_metrics import PerImageMetric, marginals_of
from stochseg.metrics.ged import energy_distance_parts
from stochseg.metrics.matching import hungarian_iou
from stochseg.metrics.modes import check_flips, mode_frequencies, mode_total_variation, off_mode_share
from stochseg.metrics.uncertainty import normalized_cross_correlation


class _OfSets(PerImageMetric):
    """Of samples and labels. Settings that cannot be scored are an error now, and not with the first batch."""

    def __init__(self, function: Callable[..., Tensor], settings: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(function, settings, **kwargs)
        maps = torch.zeros(1, 2, 1, 1, dtype=torch.uint8)
        function(maps, maps[:, :1] if settings.get("flips") else maps, **settings)


class _OfSamples(_OfSets):
    def update(self, samples: Tensor, labels: Tensor) -> None:
        """samples: integer [b n h w]; labels: integer [b r h w]."""
        self._score(samples, labels)


class _OfWeightedSamples(_OfSets):
    def update(
        self,
        samples: Tensor,
        labels: Tensor,
        sample_weights: Tensor | None = None,
        label_weights: Tensor | None = None,
    ) -> None:
        """samples: integer [b n h w]; labels: integer [b r h w]; weights: [n] or [b n], and [r] or [b r]."""
        self._score(samples, labels, sample_weights=sample_weights, label_weights=label_weights)


class _OfProbabilities(PerImageMetric):
    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """predictions: probabilities [b k h w], or, with `from_samples`, integer [b n h w]; labels: integer [b r h w]."""
        options = dict(self.settings)
        q = marginals_of(predictions, labels, options.pop("classes"), options.pop("from_samples"))
        self._keep(self._function(q, labels, **options))


def _energy_distance(samples: Tensor, labels: Tensor, **settings: Any) -> Tensor:
    parts = energy_distance_parts(samples, labels, **settings)
    return torch.stack([parts.ged, parts.d_ys, parts.diversity], 1)


class _OfEnergyDistance(_OfWeightedSamples):
    """Metrics of one setting share their state in a MetricCollection, and distances are had once for all of them."""

    columns = 3

    def __init__(
        self,
        classes: int = 2,
        convention: str | Convention = "car",
        ignore: int | None = None,
        statistic: Statistic | None = None,
        flips: Sequence[Flip] | None = None,
        **kwargs: Any,
    ) -> None:
        settings = _sets(classes, convention, ignore, flips) | {"statistic": statistic}
        super().__init__(_energy_distance, settings, **kwargs)


def _sets(
    classes: int, convention: str | Convention, ignore: int | None, flips: Sequence[Flip] | None
) -> dict[str, Any]:
    flips = None if flips is None else check_flips(flips, classes, ignore)
    return {"classes": classes, "convention": convention, "ignore": ignore, "flips": flips}


class GeneralizedEnergyDistance(_OfEnergyDistance):
    """Mean over images of `generalized_energy_distance`; lower is better.

    >>> maps = torch.tensor([[[[0, 1]], [[0, 1]]], [[[0, 1]], [[0, 0]]]])  # two images, two maps of 1 x 2 pixels each
    >>> metric = GeneralizedEnergyDistance(classes=2, convention="car")
    >>> for samples, labels in zip(maps.split(1), maps.flip(0).split(1)):
    ...     metric.update(samples, labels)
    >>> metric.compute().item(), metric.per_image().tolist()
    (0.5, [0.5, 0.5])
    """

    higher_is_better = False
    plot_upper_bound = 2.0
    column = 0


class DistanceToLabels(_OfEnergyDistance):
    """Mean distance of samples to labels, `d_ys` of `energy_distance_parts`; lower is better, spread aside."""

    higher_is_better = False
    column = 1


class SampleDiversity(_OfEnergyDistance):
    """Mean distance of distinct samples, `diversity` of `energy_distance_parts`; as such neither good nor bad."""

    column = 2


class HungarianIoU(_OfWeightedSamples):
    """Mean over images of `hungarian_iou`; higher is better."""

    higher_is_better = True

    def __init__(
        self,
        classes: int = 2,
        convention: str | Convention = "car",
        ignore: int | None = None,
        flips: Sequence[Flip] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(hungarian_iou, _sets(classes, convention, ignore, flips), **kwargs)


class MaxDice(_OfSamples):
    """Mean over images of `max_dice`; higher is better, and the more so the more samples there are."""

    higher_is_better = True

    def __init__(
        self, classes: int = 2, ignore: int | None = None, absent: Absent = 1.0, over: Over = "raters", **kwargs: Any
    ) -> None:
        super().__init__(max_dice, {"classes": classes, "ignore": ignore, "absent": absent, "over": over}, **kwargs)


class BestSample(_OfSamples):
    """Mean over images of `best_sample`; higher is better, and the more so the more samples there are."""

    higher_is_better = True

    def __init__(
        self,
        classes: int = 2,
        measure: Similarity = "dice",
        ignore: int | None = None,
        absent: Absent = 1.0,
        **kwargs: Any,
    ) -> None:
        settings = {"classes": classes, "measure": measure, "ignore": ignore, "absent": absent}
        super().__init__(best_sample, settings, **kwargs)


class CombinedSensitivity(_OfSamples):
    """Mean over images of `combined_sensitivity`; higher is better."""

    higher_is_better = True

    def __init__(self, classes: int = 2, ignore: int | None = None, empty: float = math.nan, **kwargs: Any) -> None:
        super().__init__(combined_sensitivity, {"classes": classes, "ignore": ignore, "empty": empty}, **kwargs)


class DiversityAgreement(_OfSamples):
    """Mean over images of `diversity_agreement`; higher is better."""

    higher_is_better = True

    def __init__(self, classes: int = 2, ignore: int | None = None, spread: Spread = "variance", **kwargs: Any) -> None:
        super().__init__(diversity_agreement, {"classes": classes, "ignore": ignore, "spread": spread}, **kwargs)


class CollectiveInsight(_OfSamples):
    """Mean over images of `collective_insight`; higher is better."""

    higher_is_better = True

    def __init__(
        self,
        classes: int = 2,
        ignore: int | None = None,
        spread: Spread = "variance",
        empty: float = math.nan,
        **kwargs: Any,
    ) -> None:
        settings = {"classes": classes, "ignore": ignore, "spread": spread, "empty": empty}
        super().__init__(collective_insight, settings, **kwargs)


class NormalizedCrossCorrelation(_OfSamples):
    """Mean over images of `normalized_cross_correlation`; higher is better. Samples may be soft, [b n k h w]."""

    higher_is_better = True
    plot_lower_bound = -1.0

    def __init__(self, classes: int = 2, ignore: int | None = None, floor: float = 1e-8, **kwargs: Any) -> None:
        settings = {"classes": classes, "ignore": ignore, "floor": floor}
        super().__init__(normalized_cross_correlation, settings, **kwargs)


class AreaCRPS(_OfSamples):
    """Mean over images of `area_crps`, in pixels (or, `relative`, in shares of the image); lower is better."""

    higher_is_better = False
    plot_upper_bound = None

    def __init__(
        self,
        classes: int = 2,
        ignore: int | None = None,
        relative: bool = False,
        statistic: Statistic = "V",
        **kwargs: Any,
    ) -> None:
        settings = {"classes": classes, "ignore": ignore, "relative": relative, "statistic": statistic}
        super().__init__(area_crps, settings, **kwargs)


class DiceOfMean(_OfSamples):
    """Mean over images of `dice_of_mean`; higher is better."""

    higher_is_better = True

    def __init__(self, classes: int = 2, ignore: int | None = None, **kwargs: Any) -> None:
        super().__init__(dice_of_mean, {"classes": classes, "ignore": ignore}, **kwargs)


class SoftDice(_OfProbabilities):
    """Mean over images of `soft_dice` of probabilities, or of the class frequencies of samples; higher is better."""

    higher_is_better = True

    def __init__(
        self,
        classes: int = 2,
        thresholds: Sequence[float] = QUBIQ_THRESHOLDS,
        ignore: int | None = None,
        from_samples: bool = False,
        **kwargs: Any,
    ) -> None:
        settings = {"classes": classes, "thresholds": tuple(thresholds), "ignore": ignore, "from_samples": from_samples}
        super().__init__(soft_dice, settings, **kwargs)


class BrierScore(_OfProbabilities):
    """Mean over images of `brier_score` of probabilities, or of the class frequencies of samples; lower is better."""

    higher_is_better = False
    plot_upper_bound = 2.0

    def __init__(self, classes: int = 2, ignore: int | None = None, from_samples: bool = False, **kwargs: Any) -> None:
        settings = {"classes": classes, "ignore": ignore, "from_samples": from_samples}
        super().__init__(brier_score, settings, **kwargs)


class NegativeLogLikelihood(_OfProbabilities):
    """Mean over images of `negative_log_likelihood` of probabilities, or of samples' frequencies; lower is better."""

    higher_is_better = False
    plot_upper_bound = None

    def __init__(
        self,
        classes: int = 2,
        ignore: int | None = None,
        floor: float = 1e-6,
        from_samples: bool = False,
        **kwargs: Any,
    ) -> None:
        settings = {"classes": classes, "ignore": ignore, "floor": floor, "from_samples": from_samples}
        super().__init__(negative_log_likelihood, settings, **kwargs)


def _total_variation(samples: Tensor, modes: Tensor, probabilities: Tensor, classes: int, ignore: int | None) -> Tensor:
    return mode_total_variation(mode_frequencies(samples, modes, classes, ignore), probabilities)


class ModeTotalVariation(PerImageMetric):
    """Mean over images of `mode_total_variation` of `mode_frequencies`; lower is better. See `OffModeShare`."""

    higher_is_better = False

    def __init__(self, classes: int = 2, ignore: int | None = None, **kwargs: Any) -> None:
        super().__init__(_total_variation, {"classes": classes, "ignore": ignore}, **kwargs)

    def update(self, samples: Tensor, modes: Tensor, probabilities: Tensor) -> None:
        """samples: integer [b n h w]; modes: integer [b m h w], with probabilities [m] or [b m]."""
        self._score(samples, modes, probabilities)


class OffModeShare(PerImageMetric):
    """Mean over images of `off_mode_share`; lower is better."""

    higher_is_better = False

    def __init__(self, classes: int = 2, ignore: int | None = None, iou_below: float = 0.5, **kwargs: Any) -> None:
        super().__init__(off_mode_share, {"classes": classes, "ignore": ignore, "iou_below": iou_below}, **kwargs)

    def update(self, samples: Tensor, modes: Tensor) -> None:
        """samples: integer [b n h w]; modes: integer [b m h w]."""
        self._score(samples, modes)
