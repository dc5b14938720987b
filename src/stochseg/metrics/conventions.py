"""How each source counts: one row of options a name. A score without its convention says nothing.

Rows say what the papers' evaluation code does with the pairs of a sample set and a label set; the functions of this
package take the name and look up the row. To add a convention, add a row.
"""

from dataclasses import dataclass
from typing import Literal

from stochseg.errors import InputError

Similarity = Literal["iou", "dice"]
Absent = float | Literal["left out"]
Statistic = Literal["V", "U"]
Flip = tuple[int, int, float]
"""(from, to, probability): class `from` is `to` instead, in the whole image, with this probability."""
Matching = Literal["repeat", "lcm", "rectangular", "transport", "none"]


@dataclass(frozen=True)
class Convention:
    """The options of one way to count. Get one with `get_convention`, vary it with `dataclasses.replace`."""

    name: str
    source: str
    """Where this way of counting comes from."""
    similarity: Similarity = "iou"
    """Distance of two maps is 1 minus this, averaged over the counted classes."""
    counted: tuple[int, ...] | Literal["flips"] | None = None
    """Ids of the classes that enter the mean over classes; None: all but the background, 1 to k-1; "flips": those of
    the flip table."""
    absent: Absent = 1.0
    """Score of a class that neither map of a pair holds: 1.0, 0.0, or "left out" of the mean over classes."""
    smooth: float = 0.0
    """Pixels of overlap granted to every pair in every class, as if the maps shared so many more: IoU is (both +
    smooth) / (either + smooth). No source does so; the energy loss of training does (`objective.smooth`)."""
    pooled: bool = False
    """One ratio of sums over all pairs in place of a mean of the pairs' ratios."""
    statistic: Statistic = "V"
    """V: the pair of a map with itself stays in the mean distance within a set; U: it is left out."""
    most_samples: int | None = None
    """The source scores no more samples than this: the first ones."""
    matching: Matching = "repeat"
    """Matched IoU: "repeat" the labels r -> n (n a multiple of r); "lcm" repeats both sides to lcm(n, r);
    "rectangular" pairs only as many as the smaller side has; "transport" splits weights (optimal transport), which
    for equal weights is "lcm"; "none": the source has no such score."""
    matched: Similarity | None = None
    """What is matched on; None: the similarity of the distance."""
    matched_absent: float | None = None
    """In place of `absent` in what is matched on; None: the same."""
    with_flips: str | None = None
    """Name of the row that holds where classes flip; None: this one."""

    def class_ids(
        self, classes: int, ignore: int | None = None, flips: tuple[int, ...] | None = None
    ) -> tuple[int, ...]:
        """Ids of the classes to count when there are `classes` in all; the ignore class is never counted.

        flips: the classes of the flip table, where there is one.

        >>> get_convention("car").class_ids(4, ignore=3)
        (1, 2)
        """
        check_classes(classes, ignore)
        if self.counted == "flips":
            if flips is None:
                raise InputError(
                    f"convention '{self.name}' counts the classes that flip; give flips=[(from, to, probability), ...], "
                    "or a convention that counts all classes, such as 'ccdm'"
                )
            ids = flips
        else:
            ids = tuple(range(1, classes)) if self.counted is None else self.counted
        ids = tuple(c for c in ids if c != ignore)
        if not ids:
            raise InputError(f"classes={classes} with ignore={ignore} leaves no class to score; raise classes")
        if min(ids) < 0 or max(ids) >= classes:
            raise InputError(f"convention '{self.name}' counts class {max(ids)}, classes={classes} ends before it")
        return ids


def check_classes(classes: int, ignore: int | None) -> None:
    """InputError where there cannot be that many classes, or the ignore class is none of them."""
    if not 2 <= classes <= 255:
        raise InputError(f"classes is {classes}; give the number of classes, background included, 2 to 255")
    if ignore is not None and not 0 <= ignore < classes:
        raise InputError(f"ignore is {ignore}; with classes={classes} it is one of 0 to {classes - 1}, or None")


CONVENTIONS = {
    row.name: row
    for row in (
        Convention(
            "car",
            "CAR (arXiv 2006.13144) on LIDC: IoU of the foreground, labels repeated to the samples",
            with_flips="car-cityscapes",
        ),
        Convention(
            "car-cityscapes",
            "CAR (arXiv 2006.13144) on Cityscapes: classes that flip against all modes, absent ones left out",
            counted="flips",
            absent="left out",
            matching="none",
        ),
        Convention(
            "kohl",
            "Probabilistic U-Net (arXiv 1806.05034) on Cityscapes: classes that flip against all modes, absent left out",
            counted="flips",
            absent="left out",
            matching="none",
        ),
        Convention("phiseg", "PHiSeg (arXiv 1906.04045): all classes but the background", matching="none"),
        Convention(
            "ssn",
            "SSN (arXiv 2006.06015) on BraTS: all classes but the background, the first 20 samples",
            most_samples=20,
            matching="none",
        ),
        Convention("ccdm", "CCDM (arXiv 2303.08888): as car, both sides repeated to fit", matching="lcm"),
        Convention(
            "mose",
            "MoSE (arXiv 2212.07328): samples have weights, matched by optimal transport",
            matching="transport",
            with_flips="mose-cityscapes",
        ),
        Convention(
            "mose-cityscapes",
            "MoSE (arXiv 2212.07328) on Cityscapes: classes that flip, absent ones left out, optimal transport",
            counted="flips",
            absent="left out",
            matching="transport",
        ),
        Convention(
            "flow-ssn",
            "Flow-SSN (arXiv 2507.18838): only as many samples as raters are matched",
            matching="rectangular",
        ),
        Convention(
            "d-persona",
            "D-Persona (arXiv 2403.13417): IoU of two empty maps is 0 (their Dice, which is matched on, 1)",
            absent=0.0,
            matching="rectangular",
            matched="dice",
            matched_absent=1.0,
        ),
        Convention(
            "values",
            "VALUES (arXiv 2401.08501): one Dice of the sums over all pairs, 0 where all are empty",
            similarity="dice",
            pooled=True,
            matching="none",
        ),
    )
}


def get_convention(name: str | Convention, flips: bool = False) -> Convention:
    """The convention of this name; a Convention is handed through. InputError lists the names known.

    flips: the row that holds where classes flip (of "car", "car-cityscapes").

    >>> get_convention("car").statistic
    'V'
    """
    if isinstance(name, str):
        if name not in CONVENTIONS:
            raise InputError(f"convention '{name}' is not known; choose one of {', '.join(sorted(CONVENTIONS))}")
        name = CONVENTIONS[name]
    return CONVENTIONS[name.with_flips] if flips and name.with_flips else name
