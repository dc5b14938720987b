"""The classes of Cityscapes (Cordts et al. 2016, arXiv 1604.01685): names, colours, and the two ways labels number them."""

import numpy as np

from stochseg.data.class_flips import NamedFlip
from stochseg.data.store import ClassInfo

STREET_CLASSES = (
    ClassInfo("road", (128, 64, 128)),
    ClassInfo("sidewalk", (244, 35, 232)),
    ClassInfo("building", (70, 70, 70)),
    ClassInfo("wall", (102, 102, 156)),
    ClassInfo("fence", (190, 153, 153)),
    ClassInfo("pole", (153, 153, 153)),
    ClassInfo("traffic light", (250, 170, 30)),
    ClassInfo("traffic sign", (220, 220, 0)),
    ClassInfo("vegetation", (107, 142, 35)),
    ClassInfo("terrain", (152, 251, 152)),
    ClassInfo("sky", (70, 130, 180)),
    ClassInfo("person", (220, 20, 60)),
    ClassInfo("rider", (255, 0, 0)),
    ClassInfo("car", (0, 0, 142)),
    ClassInfo("truck", (0, 0, 70)),
    ClassInfo("bus", (0, 60, 100)),
    ClassInfo("train", (0, 80, 100)),
    ClassInfo("motorcycle", (0, 0, 230)),
    ClassInfo("bicycle", (119, 11, 32)),
)
"""The 19 classes that are scored; a class's place is its train id."""
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The same classes in files of label ids."""
VOID_LABEL_IDS = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
"""Label ids that are not scored: unlabelled, ego vehicle, border, out of roi, ground, parking, bridge, caravan, ..."""
VOID_TRAIN_ID = 255
PAPER_FLIPS = "sidewalk=8/17, person=7/17, car=6/17, vegetation=5/17, road=4/17"
"""The flips of Kohl et al. 2018 and CAR: independent, so there are 32 modes."""
OUTSIDE = 255
"""In `train_id_table`: an id that no label may have."""


def train_id_table(kind: str, unlabelled: int) -> np.ndarray:
    """From the values of a label file to class ids: uint8 [256], `OUTSIDE` where the value is none of this kind of file.

    kind: "labelIds" or "labelTrainIds"; unlabelled: the class id of what is not scored.
    """
    table = np.full(256, OUTSIDE, np.uint8)
    if kind == "labelTrainIds":
        table[: len(STREET_CLASSES)] = np.arange(len(STREET_CLASSES))
        table[VOID_TRAIN_ID] = unlabelled
    else:
        table[list(LABEL_IDS)] = np.arange(len(STREET_CLASSES))
        table[list(VOID_LABEL_IDS)] = unlabelled
    return table


def classes_with_flips(flips: list[NamedFlip]) -> tuple[list[ClassInfo], list[tuple[int, int, float]], int]:
    """All classes of a store, the flips by class id, and the id of the unlabelled class, which is the last.

    Classes that only flips make follow the 19, in the order of the flips, in the complementary colour of their source.
    """
    classes = list(STREET_CLASSES)
    ids = {info.name: i for i, info in enumerate(classes)}
    for flip in flips:
        if flip.target not in ids:
            r, g, b = classes[ids[flip.source]].color
            ids[flip.target] = len(classes)
            classes.append(ClassInfo(flip.target, (255 - r, 255 - g, 255 - b)))
    classes.append(ClassInfo("unlabelled", (0, 0, 0)))
    return classes, [(ids[source], ids[target], p) for source, target, p in flips], len(classes) - 1
