"""A saved model: where it lies, its weights, and what its config.json says of classes."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from stochseg.data.store import ClassInfo
from stochseg.errors import InputError
from stochseg.models.weights_file import read_weights


def numbered_classes(count: int) -> list[ClassInfo]:
    """Classes without names: 'class 0', 'class 1', ... in well separated colours."""
    import colorsys

    def color(index: int) -> tuple[int, int, int]:
        r, g, b = colorsys.hsv_to_rgb(0.61803 * index % 1, 0.7, 0.9)
        return (round(255 * r), round(255 * g), round(255 * b)) if index else (0, 0, 0)

    return [ClassInfo(f"class {i}", color(i)) for i in range(count)]


def model_folder(path: Path) -> Path:
    """The folder with config.json and model.safetensors of a run directory or an exported folder."""
    for folder in (path / "model", path):
        if (folder / "config.json").is_file() and (folder / "model.safetensors").is_file():
            return folder
    if not path.exists():
        raise InputError(f"{path}: no such run; train one with `stochseg train --out {path}`")
    if not path.is_dir() or (path / "index.json").is_file():
        kind = "store" if path.is_dir() else "file"
        raise InputError(f"{path}: is a {kind}, no run; give the folder of a run or of an exported model")
    raise InputError(f"{path}: holds no model yet; let the training reach its first validation, or train again")


def load_weights(networks: nn.Module, file: Path) -> None:
    """Load a safetensors file into the networks; InputError names what is missing, unknown or of another shape."""
    try:
        state, _ = read_weights(file)
    except InputError as error:
        raise InputError(f"{error}; copy or train the model again") from error
    own = networks.state_dict()
    wrong = sorted(
        name
        for name in own.keys() | state.keys()
        if name not in own or name not in state or own[name].shape != state[name].shape
    )
    if wrong:
        raise InputError(f"{file}: does not fit its config.json at {_few(wrong)}")
    networks.load_state_dict(state)


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def as_tuples(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a config, whose lists were tuples before they were JSON."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}


def classes_of(facts: Mapping[str, Any]) -> list[ClassInfo]:
    """The classes that facts describe."""
    return [ClassInfo(c["name"], tuple(c["color"])) for c in facts["classes"]]
