"""RUN/config.yaml: what a run was started with, and what one that is resumed may change of it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml

from stochseg.config import to_plain
from stochseg.errors import InputError
from stochseg.presets import flatten
from stochseg.training import run_lock
from stochseg.training.run_lock import locked

Settings = TypeVar("Settings")


@contextmanager
def begun(run: Path, keys: dict[str, Any], resume: bool) -> Iterator[None]:
    """Make the run directory, write config.yaml and hold the directory for this process.

    keys: of config.yaml; that of a resumed run is replaced, since what may be set anew may be new. InputError where the
    directory cannot be made, holds something and is not to be resumed, or another process trains there.
    """
    _make_folder(run, resume)
    with locked(run):
        _make_folder(run, resume)  # again: of two that began together, the second comes here when the first has ended
        try:
            (run / "config.yaml.partial").write_text(yaml.safe_dump(keys, sort_keys=False))
            os.replace(run / "config.yaml.partial", run / "config.yaml")
        except OSError as error:
            raise InputError(f"--out {run}: cannot be written ({error.strerror}); choose another directory") from error
        yield


def _make_folder(run: Path, resume: bool) -> None:
    try:
        if not resume and run.exists() and any(entry.name != run_lock.NAME for entry in run.iterdir()):
            raise InputError(f"--out {run}: is not empty; go on there with --resume, or choose another directory")
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {run}: cannot be written ({error.strerror}); choose another directory") from error


def config_to_resume(
    run: Path,
    config: str | None,
    overrides: dict[str, Any],
    load: Callable[[str, dict[str, Any]], Settings],
    is_free: Callable[[str], bool],
) -> Settings:
    """The config of a run, with what may be set anew; InputError for what may not.

    load: makes a config of a YAML file and overrides; is_free: whether the key of this name may be set anew.
    """
    file = run / "config.yaml"
    if not file.is_file():
        raise InputError(f"--resume: {run} holds no run to go on with; start without --resume")
    if config is not None:
        raise InputError(f"--config {config}: a resumed run keeps its own ({file}); leave --config out")
    before, now = (flatten(to_plain(load(str(file), each))) for each in ({}, overrides))
    for name, value in now.items():
        if not is_free(name) and value != before[name]:
            raise InputError(f"--resume: {name} was {before[name]} in {run}; leave it, or start a new run")
    return load(str(file), overrides)
