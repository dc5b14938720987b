"""What `stochseg calibrate` adds to a model: temperatures and coverage levels, in one small file beside the weights."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stochseg.data.reading import parse_json
from stochseg.errors import InputError
from stochseg.models.temperature import check_temperature

NAME = "calibration.json"
FORMAT = "stochseg-calibration"
VERSION = 1


@dataclass(frozen=True)
class Coverage:
    """Sets of pixels that cover a new rater's outline with a stated probability; see metrics/coverage.py.

    levels: one a class, None where none was fitted (the set is the whole image then). samples: how many samples of an
    image the sets are made of; the levels hold for that number alone. probability: what was asked for. share: the part
    of an outline's pixels that must lie inside for it to count as covered. size: (h, w) of the images that the levels
    were fitted on, None where it was not noted.
    """

    levels: tuple[float | None, ...]
    samples: int
    probability: float
    share: float = 1.0
    size: tuple[int, int] | None = None

    def holds_for(self, size: tuple[int, int]) -> bool:
        """Whether the promise is about images of this size (h, w): what lies around an outline moves the levels."""
        return self.size == size

    def fitted_at(self) -> str:
        """The size in words, width first."""
        return "a size that was not noted" if self.size is None else f"{self.size[1]}x{self.size[0]}"


@dataclass(frozen=True)
class Calibrated:
    """temperature: one a class, None for 1. coverage: None where none was fitted. record: where both come from."""

    temperature: tuple[float, ...] | None = None
    coverage: Coverage | None = None
    record: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write FOLDER/calibration.json, whole or not at all."""
        covered = self.coverage and {
            "levels": list(self.coverage.levels),
            "samples": self.coverage.samples,
            "probability": self.coverage.probability,
            "share": self.coverage.share,
            "size": self.coverage.size and list(self.coverage.size),
        }
        facts = {
            "format": FORMAT,
            "version": VERSION,
            "temperature": self.temperature and list(self.temperature),
            "coverage": covered,
            "record": self.record,
        }
        partial = folder / f"{NAME}.partial"
        partial.write_text(json.dumps(facts, indent=1))
        os.replace(partial, folder / NAME)


def read_calibrated(folder: Path, classes: int) -> Calibrated | None:
    """The calibration that lies beside a model of this many classes; None where there is none."""
    file = folder / NAME
    if not file.is_file():
        return None
    cure = "remove it, or run `stochseg calibrate` again"
    try:
        facts = parse_json(file.read_text())
        if facts["format"] != FORMAT or facts["version"] > VERSION:
            raise InputError(f"{file}: format {facts['format']} {facts['version']}; update stochseg, or {cure}")
        temperature, covered = facts["temperature"], facts["coverage"]
        if temperature is not None:
            temperature = check_temperature(temperature, classes)
        if covered is not None:
            levels = tuple(None if level is None else float(level) for level in covered["levels"])
            if len(levels) != classes:
                raise InputError(f"{file}: levels of {len(levels)} classes, the model has {classes}; {cure}")
            size = covered.get("size")
            covered = Coverage(
                levels,
                int(covered["samples"]),
                float(covered["probability"]),
                float(covered["share"]),
                None if size is None else (int(size[0]), int(size[1])),
            )
        return Calibrated(temperature, covered, dict(facts["record"]))
    except InputError as error:
        raise InputError(str(error) if str(file) in str(error) else f"{file}: {error}; {cure}") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: damaged ({type(error).__name__}: {error}); {cure}") from error


def forget_calibrated(folder: Path) -> None:
    """Remove the calibration of a model that is about to change."""
    (folder / NAME).unlink(missing_ok=True)
