"""The official code's networks (EliasKassapis/CARSSS) in terms of ours: which of its tensors is which of ours."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from stochseg.errors import InputError

Net = Literal["calibration", "refinement", "discriminator"]
Dataset = Literal["lidc", "cityscapes"]

_CONVOLUTION = ("weight", "bias")
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def official_state(
    net: Net, dataset: Dataset, state: Mapping[str, Tensor], ours: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The official state dict of one network under the names of ours, ready for `load_state_dict`.

    net: "calibration" is SegNet for lidc and ConvNet for cityscapes; "refinement" is Refinement; "discriminator" is
    PixelDiscriminator. ours: the state dict of that network. SegNet's decoder uses some blocks several times: the
    official code lists their tensors under every place of use, ours once, and the repetitions are dropped. Raises
    InputError that lists what does not fit.
    """
    if wrong := misfits(net, dataset, state, ours):
        raise InputError(f"{net} network for {dataset}: {'; '.join(wrong)}")
    return {name: state[key] for key, name in names_of(net, dataset).items()}


def misfits(net: Net, dataset: Dataset, state: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> list[str]:
    """All that keeps an official state dict from being that of our network; arguments as `official_state`.

    Every key must be there and no other, with the shape and type of ours and finite numbers, and keys that stand for
    one tensor must hold the same numbers.
    """
    names = names_of(net, dataset)
    wrong = [f"no '{key}'" for key in names if key not in state]
    wrong += [f"unknown '{key}'" for key in state if key not in names]
    first: dict[str, str] = {}  # our name -> the official key that holds it first
    for key, name in names.items():
        owner = first.setdefault(name, key)
        if key not in state:
            continue
        found, wanted = state[key], ours[name]
        if found.shape != wanted.shape:
            wrong.append(f"'{key}' is {list(found.shape)} and must be {list(wanted.shape)}")
        elif found.dtype != wanted.dtype:
            wrong.append(f"'{key}' is {_type(found)} and must be {_type(wanted)}")
        elif not torch.isfinite(found).all():
            wrong.append(f"'{key}' holds numbers that are not finite")
        elif owner in state and not torch.equal(found, state[owner]):
            wrong.append(f"'{key}' differs from '{owner}', which is the same tensor in the official network")
    return wrong


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def names_of(net: Net, dataset: Dataset) -> dict[str, str]:
    """Official key -> our key; several official keys share one of ours where a block is used several times."""
    if net == "refinement":
        return _refinement()
    if net == "discriminator":
        return _discriminator()
    return _segnet() if dataset == "lidc" else _convnet()


def _segnet() -> dict[str, str]:
    names: dict[str, str] = {}
    for stage, depth in enumerate((2, 2, 4, 4, 4)):
        for block in range(depth):  # convolution, norm, ReLU, dropout
            names |= _block(f"enc{stage + 1}", 4 * block, f"encoder.{stage}.{block}")
    # The decoder counts from the deepest stage; for each: its name, and which of our blocks runs in each place.
    stages = {
        "dec5": (0, 0, 0, 0),
        "dec4.decode": (0, 1, 1, 2),
        "dec3.decode": (0, 1, 1, 2),
        "dec2.decode": (0, 1),
        "dec1.decode": (0, 1),
    }
    for stage, (prefix, blocks) in enumerate(stages.items()):
        names |= _tensors(f"{prefix}.0", f"decoder.{stage}.up", _CONVOLUTION)
        for place, block in enumerate(blocks):
            names |= _block(prefix, 1 + 4 * place, f"decoder.{stage}.blocks.{block}")
    return names | _tensors("out.1", "head", _CONVOLUTION)


def _convnet() -> dict[str, str]:
    names: dict[str, str] = {}
    for block in range(4):  # padding, convolution, dropout, norm, activation
        names |= _tensors(f"model.{5 * block + 1}", f"blocks.{block}.conv", _CONVOLUTION)
        names |= _tensors(f"model.{5 * block + 3}", f"blocks.{block}.norm", _NORM)
    return names | _tensors("model.21", "head", _CONVOLUTION)


def _refinement() -> dict[str, str]:
    names: dict[str, str] = {}
    for stage in range(1, 5):
        names |= _block(f"enc{stage}", 0, f"down{stage}") | _block(f"dec{stage - 1}", 0, f"up{stage}")
    for stage, injection in enumerate(("zres1", "zres2", "out"), 1):
        for theirs, ours in (("residual", "shift"), ("scale", "scale"), ("last_layer", "mix")):
            names |= _tensors(f"{injection}.{theirs}", f"inject{stage}.{ours}", _CONVOLUTION)
    return names


def _discriminator() -> dict[str, str]:
    names: dict[str, str] = {}
    for place in range(3):  # padding, convolution, activation
        names |= _tensors(f"model.{3 * place + 1}", f"fine.{2 * place}", _CONVOLUTION)
    for place in range(5):  # convolution, activation, dropout
        leaves = ("weight",) if place in (1, 2, 3) else _CONVOLUTION
        names |= _tensors(f"model.{3 * place + 10}", f"coarse.{2 * place + 1}", leaves)
    return names | _tensors("out.1", "head", _CONVOLUTION)


def _block(prefix: str, place: int, ours: str) -> dict[str, str]:
    """A convolution and the norm after it."""
    conv = _tensors(f"{prefix}.{place}", f"{ours}.conv", _CONVOLUTION)
    return conv | _tensors(f"{prefix}.{place + 1}", f"{ours}.norm", _NORM)


def _tensors(theirs: str, ours: str, leaves: tuple[str, ...]) -> dict[str, str]:
    return {f"{theirs}.{leaf}": f"{ours}.{leaf}" for leaf in leaves}
