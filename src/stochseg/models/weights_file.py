"""safetensors files that know the sum of what they hold, so that a single changed bit is noticed."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from stochseg.errors import InputError

SUM = "sha256"
"""Key of the metadata under which the sum lies."""


def write_weights(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata with their sum, synced to the disk. OSError or SafetensorError where that fails."""
    from safetensors.torch import save_file

    # memory format is not kept in the file, so it is made plain here and restored by copying on loading
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, file, {**metadata, SUM: sum_of(plain, metadata)})
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def read_weights(file: Path, ours: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file; InputError where it is damaged or does not fit its sum.

    A file without a sum, of another program, is taken as it is, unless it can only be of ours.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            metadata = dict(opened.metadata() or {})
    except (SafetensorError, OSError, ValueError, MemoryError) as error:
        raise InputError(f"{file}: damaged or not readable ({error})") from error
    said = metadata.pop(SUM, None)
    if said is None and ours:
        raise InputError(f"{file}: damaged (its sha256 is not in it)")
    if said is not None and said != sum_of(tensors, metadata):
        raise InputError(f"{file}: damaged (its content does not fit its sha256)")
    return tensors, metadata


def sum_in(file: Path) -> str | None:
    """The sum that a file carries, without reading its tensors; None where it carries none or is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            found: str | None = (opened.metadata() or {}).get(SUM)
    except (SafetensorError, OSError, ValueError):
        return None
    return found


def sum_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """sha256 of names, types, shapes and numbers of all tensors, and of the metadata, in the order of names."""
    digest = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
