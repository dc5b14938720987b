"""The calibration errors as torchmetrics: sums over bins of confidence, for all images together."""

from typing import Any, get_args

from torch import Tensor

from stochseg.errors import InputError
from stochseg.metrics.areas import empty_counts
from stochseg.metrics.exact_metrics import BinnedMetric, marginals_of
from stochseg.metrics.reliability import FINE_BINS, Binning, ReliabilityCounts, Target, reliability_counts


class ExpectedCalibrationError(BinnedMetric):
    """`expected_calibration_error` over all pixels and raters of all images; lower is better.

    Of probabilities, or, with `from_samples`, of the class frequencies of samples. It is no mean of images' values:
    for intervals take `reliability_counts(..., per_image=True)`. plot() draws the reliability curve.

    >>> import torch
    >>> metric = ExpectedCalibrationError(classes=2, target="foreground", from_samples=True)
    >>> metric.update(torch.tensor([[[[0, 1]], [[1, 1]]]]), torch.tensor([[[[1, 1]], [[1, 1]]]]))
    >>> metric.compute().item()  # the samples are half sure of what both raters say at the first of two pixels
    0.25
    """

    def __init__(
        self,
        classes: int = 2,
        bins: int = 15,
        target: Target = "top",
        binning: Binning = "width",
        ignore: int | None = None,
        from_samples: bool = False,
        **kwargs: Any,
    ) -> None:
        if target not in get_args(Target):
            raise InputError(f"target is '{target}'; choose 'top', 'foreground' or 'class'")
        if binning not in get_args(Binning):
            raise InputError(f"binning is '{binning}'; choose 'width' or 'mass'")
        if not 1 <= bins <= FINE_BINS:
            raise InputError(f"bins is {bins}; give at least 1, up to {FINE_BINS}")
        settings = {
            "classes": classes,
            "bins": bins,
            "target": target,
            "binning": binning,
            "ignore": ignore,
            "from_samples": from_samples,
        }
        counted = FINE_BINS if binning == "mass" else bins
        apart = [classes - (ignore is not None)] if target == "class" else []
        super().__init__(reliability_counts, settings, [*apart, counted], **kwargs)

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """predictions: probabilities [b k h w], or, with `from_samples`, integer [b n h w]; labels: integer [b r h w]."""
        at = self.settings
        q = marginals_of(predictions, labels, at["classes"], at["from_samples"])
        bins = FINE_BINS if at["binning"] == "mass" else at["bins"]
        self._add(reliability_counts(q, labels, bins, at["target"], at["ignore"]))

    def _counts(self, state: Tensor) -> ReliabilityCounts:
        found = super()._counts(state)
        return found.equal_mass(self.settings["bins"]) if self.settings["binning"] == "mass" else found

    def _curve_names(self) -> list[str]:
        if self.settings["target"] != "class":
            return super()._curve_names()
        return [f"class {c}" for c in range(self.settings["classes"]) if c != self.settings["ignore"]]


class EmptyCalibrationError(BinnedMetric):
    """Calibration error of P(empty), from `empty_counts`; lower is better. plot() draws its reliability curve."""

    def __init__(self, classes: int = 2, bins: int = 10, ignore: int | None = None, **kwargs: Any) -> None:
        if bins < 1:
            raise InputError(f"bins is {bins}; give at least 1")
        super().__init__(empty_counts, {"classes": classes, "bins": bins, "ignore": ignore}, [bins], **kwargs)

    def update(self, samples: Tensor, labels: Tensor) -> None:
        """samples: integer [b n h w]; labels: integer [b r h w]."""
        self._add(empty_counts(samples, labels, **self.settings))
