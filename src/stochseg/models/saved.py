"""A model on disk: its weights, what it takes to build its networks again, its card, and what it was calibrated to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from stochseg import hub
from stochseg.card import new_card
from stochseg.data.pixel_files import as_windows
from stochseg.data.reading import parse_json
from stochseg.errors import InputError
from stochseg.models.calibrated import forget_calibrated, read_calibrated
from stochseg.models.methods import method_class
from stochseg.models.model_files import load_weights, model_folder
from stochseg.models.weights_file import write_weights

if TYPE_CHECKING:
    from stochseg.models.segmenter import Segmenter

Kind = TypeVar("Kind", bound="Segmenter")
FORMAT = "stochseg-model"
VERSION = 1


def save_model(model: Segmenter, folder: Path, card: str = "") -> None:
    """Write model.safetensors, config.json, the card README.md and the calibration: all that `load_model` needs."""
    folder.mkdir(parents=True, exist_ok=True)
    forget_calibrated(folder)
    write_weights(folder / "model.safetensors", model.networks.state_dict(), {})
    (folder / "config.json").write_text(json.dumps(facts_of(model), indent=1))
    (folder / "README.md").write_text(card or model.card or new_card(model))
    if model.calibrated:
        model.calibrated.write(folder)


def load_model(cls: type[Kind], path: Path, precision: str, calibration: nn.Module | None) -> Kind:
    """The model of a run directory, an exported folder or the hub, on the CPU; see `Segmenter.load`."""
    of_hub = not path.exists() and hub.is_hub_name(path) and find_spec("huggingface_hub")
    folder = hub.fetch(str(path)) if of_hub else model_folder(path)
    file = folder / "config.json"
    try:
        facts = parse_json(file.read_text())
        if facts.get("format") != FORMAT or facts.get("version", 0) > VERSION:
            raise InputError(f"{file}: format {facts.get('format')} {facts.get('version')}; update stochseg or retrain")
        _check_facts(facts)
        kind = method_class(facts.get("method", "car"))
        if not issubclass(kind, cls):
            raise InputError(f"{file}: is of the method {kind.method}; load it with {kind.__name__}.load")
        try:
            model = kind.from_facts(facts, precision, calibration)
            model.windows = as_windows(facts.get("windows"))
        except InputError as error:
            raise InputError(f"{file}: {error}") from error
    except InputError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, MemoryError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise InputError(f"{file}: damaged or of another version ({reason}); copy or train the model again") from error
    load_weights(model.networks, folder / "model.safetensors")
    model.calibrated = read_calibrated(folder, len(model.classes))
    model.card = (folder / "README.md").read_text() if (folder / "README.md").is_file() else ""
    return model


def facts_of(model: Segmenter) -> dict[str, Any]:
    """What config.json says of a model: what all methods have in common, and the method's own facts."""
    from stochseg import __version__

    facts: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "stochseg": __version__,
        "method": model.method,
        "channels": model.channels,
        "size": list(model.size),
        "classes": [asdict(c) for c in model.classes],
    }
    return facts | ({} if model.windows is None else {"windows": model.windows}) | model.facts()


def _check_facts(facts: Mapping[str, Any]) -> None:
    """ValueError where what every method's facts have in common is no plain number or text."""
    whole = [facts["channels"], *facts["size"]]
    if len(whole) != 3 or not all(type(n) is int and n > 0 for n in whole):
        raise ValueError(f"channels {facts['channels']!r}, size {facts['size']!r}")
    for c in facts["classes"]:
        if len(c["color"]) != 3 or not all(type(n) is int and 0 <= n <= 255 for n in c["color"]):
            raise ValueError(f"color {c['color']!r}")
