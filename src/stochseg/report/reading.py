"""How the scores of an evaluation were counted, in sentences for the page: one for each option of its convention."""

from typing import Any, NamedTuple

from stochseg.metrics.conventions import Convention, get_convention
from stochseg.report.table import matched_title


class Reading(NamedTuple):
    """distance: what the distance of two maps is; matched: title and text of the matched score, None without one."""

    distance: str
    matched: tuple[str, str] | None


def reading_of(result: dict[str, Any], classes: int) -> Reading:
    """The sentences for a result of `evaluate` on maps of this many classes."""
    rule = get_convention(result["convention"])
    matched = None
    if result.get("hm_iou") is not None:
        text = f"{_matching(rule, result)} {_reference(rule, result)}"
        matched = (f"{capitalised(matched_title(rule.name))}: higher is better, at most 1", text)
    return Reading(_distance(rule, result, classes), matched)


def capitalised(text: str) -> str:
    """With a capital first letter, the rest as it is."""
    return text[0].upper() + text[1:]


def _distance(rule: Convention, result: dict[str, Any], classes: int) -> str:
    name = {"iou": "IoU", "dice": "Dice"}[rule.similarity]
    if rule.pooled:
        said = [
            f"Distances are 1 − {name}, from 0 to 1, where one {name} is made of the sums over all pairs of maps and all "
            "classes, not a mean of the pairs' own",
            "where nothing is marked in any of the maps, the distance is 1",
        ]
    else:
        over = f" over the {classes - 1} classes but the background" if classes > 2 else ""
        over = " over the classes that flip" if rule.counted == "flips" else over
        text = f"Distances between two maps are 1 − {name}, from 0 (equal) to 1 (nothing in common)"
        said = [text + (f", as a mean{over}" if over else "")]
        subject = "a class that neither map holds" if over else "two maps that mark nothing"
        treated = {
            "left out": "is left out" if over else "have no distance",
            1.0: "counts as equal" if over else "count as equal",
            0.0: f"{'counts' if over else 'count'} as different, even between a map and itself",
        }
        said.append(f"{subject} {treated[rule.absent]}")
    if result.get("flips"):
        said.append("the raters are all maps that flips can make of the label, each as likely as it is")
    if rule.most_samples is not None and rule.most_samples < result["samples"]:
        said.append(f"the first {rule.most_samples} samples are compared, the others not")
    return f"{'; '.join(said)}. This is convention {rule.name}."


def _matching(rule: Convention, result: dict[str, Any]) -> str:
    """How samples and raters meet, and on what."""
    n, r = result["samples"], result["raters_per_image"]
    measure = {"iou": "IoU", "dice": "Dice"}[rule.matched or rule.similarity]
    best = f"so that they overlap best; the mean {measure} of the pairs"
    if rule.matching == "rectangular":
        text = (
            f"The best {min(n, r)} pairs of a sample and a rater alone, each used once at most; their mean {measure}. The "
            "more samples are drawn, the easier these few are found."
        )
    elif result.get("flips"):
        text = f"Samples are shared among the maps that flips can make, each as often as it is likely, {best}."
    elif rule.matching == "repeat" and n % r == 0:
        times = "once" if n == r else f"{n // r} times"
        text = f"Samples and raters are paired, each rater {times}, {best}."
    else:
        text = f"Samples and raters are each repeated until there are as many of both, and paired {best}."
    if rule.matched_absent is not None:
        text += f" Two maps that mark nothing have a {measure} of {rule.matched_absent:g} here."
    return text


def _reference(rule: Convention, result: dict[str, Any]) -> str:
    if rule.matching == "rectangular" or result["baselines"].get("raters", {}).get("hm_iou") is None:
        return "What the raters would reach by it is not known."
    return (
        "The raters' own value pairs one half of them with the other, few maps with few: what is reachable is at least "
        "that, and a model above it need not be better than the raters."
    )
