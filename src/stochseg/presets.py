"""From a preset, a YAML file and flags to a checked Config, and back."""

import dataclasses
import re
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from stochseg.config import BUDGETS, Config
from stochseg.errors import InputError

if TYPE_CHECKING:
    from stochseg.regression.config import StudyConfig

Settings = TypeVar("Settings", Config, "StudyConfig")
PRESETS = Path(__file__).parent / "configs"


LARGEST = 2**20
"""Bytes of a config file that is read."""


class _PlainYAML(yaml.SafeLoader):
    """Values alone: no objects, as SafeLoader has it, and no references, which make a small file a huge config."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            where = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "references (*name) are not read", where)
        return super().compose_node(parent, index)


def preset_names() -> list[str]:
    """The presets that come with the package."""
    return sorted(file.stem for file in PRESETS.glob("*.yaml"))


def read_preset(name: str) -> dict[str, Any]:
    """The keys that a preset (by name) or a YAML file (by path) sets."""
    file = PRESETS / f"{name}.yaml" if name in preset_names() else Path(name)
    if not file.is_file():
        raise InputError(f"--config {name}: no such preset or file; presets: {', '.join(preset_names())}")
    try:
        if (size := file.stat().st_size) > LARGEST:
            raise InputError(f"--config {file}: {size} bytes; a config has at most {LARGEST}")
        keys = yaml.load(file.read_text(), Loader=_PlainYAML)
    except OSError as error:
        raise InputError(f"--config {file}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"--config {file}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(keys, dict):
        raise InputError(f"--config {file}: holds no keys; start from a preset: {', '.join(preset_names())}")
    return keys


def study_of(preset: str) -> str | None:
    """The study that a preset or YAML file describes (its key `study`); None for a training on a store."""
    study = read_preset(preset).get("study")
    return None if study is None else str(study)


def load_config(preset: str = "lidc", overrides: dict[str, Any] | None = None) -> Config:
    """A checked Config from a preset or YAML file and overrides, by dotted name: {"training.batch": 8}.

    Raises InputError that names the key where one does not exist or has a wrong value.
    """
    keys = read_preset(preset)
    if "study" in keys:
        raise InputError(
            f"--config {preset}: a study that makes its own data, not a training on a store; run it with "
            f"`stochseg train --config {preset}`"
        )
    return checked(Config, preset, keys, overrides)


def checked(kind: type[Settings], preset: str, keys: dict[str, Any], overrides: dict[str, Any] | None) -> Settings:
    """A config of this kind from keys of `preset` (for messages) and overrides; see `load_config`."""
    from jsonargparse import ArgumentParser, Namespace

    overrides = overrides or {}
    keys = flatten(keys)
    if any(name in overrides for name in BUDGETS):  # a budget that is asked for replaces the preset's
        keys = {name: value for name, value in keys.items() if name not in BUDGETS}
    keys |= overrides
    known = flatten(dataclasses.asdict(kind(steps=1)))
    for key in keys:
        if key not in known:
            raise InputError(f"config key '{key}' does not exist{_nearest(key, list(known))}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "config", fail_untyped=True)
    try:
        parsed: Namespace = parser.parse_object({"config": unflatten(keys)})
        config = parser.instantiate(parsed).config
    except InputError:
        raise
    except Exception as error:  # jsonargparse raises several kinds; each says which key and why
        reason = re.sub(r'Parser key "config\.([\w.]+)":', r"\1:", " ".join(str(error).split()))
        raise InputError(f"--config {preset}: {reason}") from error
    assert isinstance(config, kind)
    return config


def flatten(keys: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in keys.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} -> {"a": {"b": 1}}."""
    keys: dict[str, Any] = {}
    for name, value in flat.items():
        *folders, last = name.split(".")
        inner = keys
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[last] = value
    return keys


def _nearest(key: str, known: list[str]) -> str:
    close = get_close_matches(key, known, 1)
    return f"; did you mean '{close[0]}'?" if close else f"; keys: {', '.join(known)}"
