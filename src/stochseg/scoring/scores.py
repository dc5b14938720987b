"""All scores of a batch of sample sets, whoever made them, and their means with intervals: plain maps in, numbers out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stochseg.metrics.agreement import (
    best_sample,
    collective_insight,
    combined_sensitivity,
    diversity_agreement,
    max_dice,
)
from stochseg.metrics.areas import area_crps, empty_brier, empty_probability
from stochseg.metrics.calibration import brier_score, dice_of_mean, negative_log_likelihood, soft_dice
from stochseg.metrics.conventions import Convention, Flip
from stochseg.metrics.distances import set_distances
from stochseg.metrics.ged import energy_distance_of, mean_within
from stochseg.metrics.intervals import bootstrap_interval
from stochseg.metrics.marginals import class_frequencies
from stochseg.metrics.matching import hungarian_iou_of
from stochseg.metrics.uncertainty import normalized_cross_correlation


@dataclass(frozen=True)
class Score:
    """How a score is called in tables, and which way is better; "" for what describes and does not rank."""

    title: str
    better: Literal["lower", "higher", ""]


SCORES = {
    "ged": Score("GED", "lower"),
    "hm_iou": Score("matched IoU", "higher"),
    "diversity": Score("diversity of the samples", ""),
    "raters_diversity": Score("diversity of the raters", ""),
    "distance_to_labels": Score("distance to labels", "lower"),
    "dice": Score("Dice of the mean", "higher"),
    "soft_dice": Score("soft Dice", "higher"),
    "max_dice": Score("D_max: best sample for each rater", "higher"),
    "best_dice": Score("Dice of the best sample", "higher"),
    "best_iou": Score("IoU of the best sample", "higher"),
    "combined_sensitivity": Score("combined sensitivity", "higher"),
    "diversity_agreement": Score("diversity agreement", "higher"),
    "collective_insight": Score("collective insight", "higher"),
    "ncc": Score("NCC of uncertainty maps", "higher"),
    "area_crps": Score("CRPS of the area, pixels", "lower"),
    "empty": Score("P(empty) of the samples", ""),
    "raters_empty": Score("P(empty) of the raters", ""),
    "empty_brier": Score("Brier score of P(empty)", "lower"),
    "brier": Score("Brier score of the mean", "lower"),
    "nll": Score("NLL of the mean, nats", "lower"),
    "mode_total_variation": Score("mode frequencies, total variation", "lower"),
    "missed_mass": Score("probability of missed modes", "lower"),
    "off_mode_share": Score("samples like no mode", "lower"),
}


def score_maps(
    maps: Tensor,
    labels: Tensor,
    classes: int,
    convention: Convention,
    ignore: int | None = None,
    flips: Sequence[Flip] | None = None,
    sample_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """The set scores of samples [b n h w] against labels [b r h w], each [b]; no `hm_iou` where a source has none."""
    distances = set_distances(maps, labels, classes, convention, ignore, flips)
    parts = energy_distance_of(distances, convention.statistic, sample_weights)
    scores = {"ged": parts.ged}
    if convention.matching != "none":
        scores["hm_iou"] = hungarian_iou_of(distances, convention.matching, sample_weights)
    sizes = None if distances.sizes is None else distances.sizes[2]
    among_raters = mean_within(distances.yy, distances.present, "V" if distances.exact else "U", sizes)
    return scores | {
        "diversity": parts.diversity,
        "raters_diversity": among_raters.where(distances.defined, float("nan")),
        "distance_to_labels": parts.d_ys,
    }


def more_scores(
    maps: Tensor, labels: Tensor, classes: int, ignore: int | None = None, flips: Sequence[Flip] | None = None
) -> dict[str, Tensor]:
    """The scores that no convention changes, each [b]: agreement with single raters, areas, marginals of the samples.

    flips: of the labels' classes; only the marginals are scored then, since no single label is right.
    """
    mean = class_frequencies(maps, classes)
    if flips:
        return {
            "brier": brier_score(mean, labels, ignore, flips),
            "nll": negative_log_likelihood(mean, labels, ignore, flips=flips),
        }
    return {
        "dice": dice_of_mean(maps, labels, classes, ignore),
        "soft_dice": soft_dice(mean, labels, ignore=ignore),
        "max_dice": max_dice(maps, labels, classes, ignore),
        "best_dice": best_sample(maps, labels, classes, "dice", ignore),
        "best_iou": best_sample(maps, labels, classes, "iou", ignore),
        "combined_sensitivity": combined_sensitivity(maps, labels, classes, ignore),
        "diversity_agreement": diversity_agreement(maps, labels, classes, ignore),
        "collective_insight": collective_insight(maps, labels, classes, ignore),
        "ncc": normalized_cross_correlation(maps, labels, classes, ignore),
        "area_crps": area_crps(maps, labels, classes, ignore),
        "empty": empty_probability(maps, classes, ignore),
        "raters_empty": empty_probability(labels, classes, ignore),
        "empty_brier": empty_brier(maps, labels, classes, ignore),
        "brier": brier_score(mean, labels, ignore),
        "nll": negative_log_likelihood(mean, labels, ignore),
    }


def averages(values: dict[str, NDArray[np.float64]], groups: NDArray[Any]) -> dict[str, Any]:
    """Means over the images where a score is defined, 95 % intervals over groups, and how many images are undefined.

    values: [N] each, nan where undefined; groups: [N]. `NAME_interval` is None where one group alone has values; the
    mean is None, with no interval, where no image has one.
    """
    result: dict[str, Any] = {"images": len(groups), "groups": len(np.unique(groups))}
    result["undefined"] = {name: int(np.isnan(v).sum()) for name, v in values.items() if np.isnan(v).any()}
    for name, each in values.items():
        defined = ~np.isnan(each)
        result[name] = float(each[defined].mean()) if defined.any() else None
        if defined.any():
            several = len(np.unique(groups[defined])) > 1  # one patient alone says nothing about others
            result[f"{name}_interval"] = list(bootstrap_interval(each, groups)) if several else None
    return result


def calibration_errors(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expected calibration errors [draws] of summed bins [draws 3 bins]: counts, confidence, accuracy. 0 of nothing."""
    counts, confidence, accuracy = sums[:, 0], sums[:, 1], sums[:, 2]
    error: NDArray[np.float64] = np.abs(accuracy - confidence).sum(1) / np.maximum(counts.sum(1), 1)
    return error
