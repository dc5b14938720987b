"""Our losses against what the official code returned for the same maps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stochseg.objectives.calibration import calibration_kl, mask_ignored
from stochseg.objectives.cross_entropy import cross_entropy

PARITY = Path(__file__).parents[1].parent / "shared" / "reference" / "parity"
UNLABELLED = 24
"""The class that the official code ignores, in both data sets."""

pytestmark = pytest.mark.skipif(not PARITY.is_dir(), reason=f"no parity files in {PARITY}")


@pytest.fixture(params=["LIDC", "CITYSCAPES19"])
def expected(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    found: Mapping[str, Any] = np.load(PARITY / f"losses_{request.param}.npz")
    return found


def test_cross_entropy(expected: Mapping[str, Any]) -> None:
    logits, label = torch.from_numpy(expected["logits"]), torch.from_numpy(expected["label"])
    assert cross_entropy(logits, label, UNLABELLED).item() == pytest.approx(float(expected["cross_entropy"]), rel=1e-5)
    one_hot = torch.nn.functional.one_hot(label.long(), logits.shape[1]).movedim(-1, 1)
    assert cross_entropy(logits, one_hot, UNLABELLED).item() == pytest.approx(
        float(expected["cross_entropy"]), rel=1e-5
    )


def test_calibration_kl(expected: Mapping[str, Any]) -> None:
    q = torch.from_numpy(expected["logits"]).softmax(1)
    mean, ignored = torch.from_numpy(expected["mean_samples"]), torch.from_numpy(expected["label"]) == UNLABELLED
    wanted = pytest.approx(float(expected["calibration_kl"]), rel=1e-5)
    assert calibration_kl(mean, q, ignored).item() == wanted
    if ignored.any():  # masked maps are equal where ignored, so they need no mask in the loss
        assert calibration_kl(mask_ignored(mean, ignored, 24), mask_ignored(q, ignored, 24)).item() == wanted
