"""Everything to go on bit for bit, in one file that is replaced whole.

RUN/checkpoint/state.safetensors            tensors: networks, averaged networks, optimizers; numbers: its metadata
RUN/checkpoint/state.previous.safetensors   the one before
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stochseg.data.reading import parse_json
from stochseg.errors import InputError, RunError
from stochseg.models.weights_file import read_weights, write_weights
from stochseg.progress import say
from stochseg.training.phases import Phase

NAME = "state.safetensors"
PREVIOUS = "state.previous.safetensors"


def save_checkpoint(
    folder: Path, networks: nn.Module, averaged: nn.Module | None, phases: list[Phase], numbers: dict[str, Any]
) -> None:
    """Write the state to a new file and put it in place of the old one, which stays as the previous.

    Raises InputError where it cannot be written (no space, no permission) and RunError where weights are not finite;
    the state on disk is then the old one.
    """
    tensors = {f"networks/{k}": v for k, v in networks.state_dict().items()}
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise RunError(
            f"{broken[0]} is not finite after step {numbers['step']}; the last good checkpoint was kept. Lower the "
            "learning rate (--phases.*.lr) and go on from it with --resume"
        )
    if averaged is not None:
        tensors |= {f"averaged/{k}": v for k, v in averaged.state_dict().items()}
    for phase in phases:
        for index, state in phase.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{phase.name}/{index}/{k}": v for k, v in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / NAME
    write_tensors(file.with_suffix(".partial"), tensors, {"numbers": json.dumps(numbers)})
    if file.exists():
        os.replace(file, folder / PREVIOUS)
    os.replace(file.with_suffix(".partial"), file)


def has_checkpoint(folder: Path) -> bool:
    """Whether there is a state to go on from; a run killed while it wrote its first one has none."""
    return any((folder / name).is_file() for name in (NAME, PREVIOUS))


def read_numbers(folder: Path) -> dict[str, Any]:
    """The numbers saved with the newest whole state, without loading it."""
    return _read(folder)[1]


def load_checkpoint(
    folder: Path, networks: nn.Module, averaged: nn.Module | None, phases: list[Phase]
) -> dict[str, Any]:
    """Load the newest whole state into the networks and optimizers; returns the numbers saved with it."""
    tensors, numbers = _read(folder, mend=True)
    try:
        networks.load_state_dict(_below(tensors, "networks/"))
        if averaged is not None:
            averaged.load_state_dict(_below(tensors, "averaged/"))
    except RuntimeError as error:
        raise InputError(
            f"{folder}: holds other networks than these; resume with the model that was trained"
        ) from error
    for phase in phases:
        flat = _below(tensors, f"optimizer/{phase.name}/")
        state: dict[int, dict[str, Tensor]] = {}
        parameters = list(phase.network.parameters())
        for name, tensor in flat.items():
            index, key = name.split("/")
            if tensor.ndim:  # the file keeps no memory format; another one than the weights' would round differently
                tensor = torch.empty_like(parameters[int(index)]).copy_(tensor)
            state.setdefault(int(index), {})[key] = tensor
        phase.optimizer.load_state_dict({"state": state, "param_groups": phase.optimizer.state_dict()["param_groups"]})
    return numbers


def write_tensors(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file whole and synced to the disk, or not at all."""
    from safetensors import SafetensorError

    try:
        write_weights(file, tensors, metadata)
    except (OSError, SafetensorError) as error:
        file.unlink(missing_ok=True)
        raise InputError(
            f"{file.parent}: cannot be written ({error}); free space there, then go on with --resume"
        ) from error


def _read(folder: Path, mend: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The newest whole state. mend: say so where it is the previous one, and put that in place of the damaged one, so
    that the next save keeps it."""
    reasons = []
    for name in (NAME, PREVIOUS):
        file = folder / name
        if not file.exists():
            continue
        try:
            tensors, metadata = read_weights(file, ours=True)
            numbers = parse_json(metadata["numbers"])
            step = numbers["step"]
        except (InputError, KeyError, TypeError, ValueError) as error:
            reasons.append(str(error) if isinstance(error, InputError) else f"{file}: damaged ({error!r})")
            continue
        if mend and reasons:
            say(f"{reasons[0]}; going on from {file.name}, step {step}")
            os.replace(file, folder / NAME)
        return tensors, numbers
    if reasons:
        raise InputError(f"{'; '.join(reasons)}; no whole checkpoint is left: start without --resume in another --out")
    raise InputError(f"{folder}: no checkpoint to resume from; start without --resume")


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def average_weights(networks: nn.Module, decay: float | None) -> torch.optim.swa_utils.AveragedModel | None:
    """Networks whose weights are an exponential moving average; the decay rises from 0.1 to its value.

    (1 + t) / (10 + t) after t updates lets the average forget the random start; buffers are copied.
    """
    if decay is None:
        return None

    def blend(averages: Any, current: Any, updates: Any) -> None:
        t = float(updates)
        keep = min(decay, (1 + t) / (10 + t))
        torch._foreach_lerp_(averages, current, 1 - keep)

    return torch.optim.swa_utils.AveragedModel(networks, multi_avg_fn=blend)
