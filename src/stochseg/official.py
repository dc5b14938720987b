"""The official code's networks (EliasKassapis/CARSSS) in terms of ours: which of its tensors is which of ours."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from stochseg.errors import InputError

Net = Literal["calibration", "refinement", "discriminator"]
Dataset = Literal["lidc", "cityscapes"]

_CONVOLUTION = ("weight", "bias")
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def official_state(net: Net, dataset: Dataset, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The official state dict of one network under the names of ours, ready for `load_state_dict`.

    net: "calibration" is SegNet for lidc and ConvNet for cityscapes; "refinement" is Refinement; "discriminator" is
    PixelDiscriminator. SegNet's decoder uses some blocks several times: the official code lists their tensors under
    every place of use, ours once, and the repetitions are dropped. Raises InputError at the first key that is missing
    or unknown.
    """
    names = _names(net, dataset)
    named = {key: name for key, name in names.items() if name is not None}
    for key in named:
        if key not in state:
            raise InputError(f"{net} network for {dataset}: no '{key}'; is this an official checkpoint for {dataset}?")
    for key in state:
        if key not in names:
            raise InputError(
                f"{net} network for {dataset}: unknown '{key}'; is this an official checkpoint for {dataset}?"
            )
    return {name: state[key] for key, name in named.items()}


def _names(net: Net, dataset: Dataset) -> dict[str, str | None]:
    """Official key -> our key; None for a repetition."""
    if net == "refinement":
        return _refinement()
    if net == "discriminator":
        return _discriminator()
    return _segnet() if dataset == "lidc" else _convnet()


def _segnet() -> dict[str, str | None]:
    names: dict[str, str | None] = {}
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
            again = block in blocks[:place]
            names |= _block(prefix, 1 + 4 * place, None if again else f"decoder.{stage}.blocks.{block}")
    return names | _tensors("out.1", "head", _CONVOLUTION)


def _convnet() -> dict[str, str | None]:
    names: dict[str, str | None] = {}
    for block in range(4):  # padding, convolution, dropout, norm, activation
        names |= _tensors(f"model.{5 * block + 1}", f"blocks.{block}.conv", _CONVOLUTION)
        names |= _tensors(f"model.{5 * block + 3}", f"blocks.{block}.norm", _NORM)
    return names | _tensors("model.21", "head", _CONVOLUTION)


def _refinement() -> dict[str, str | None]:
    names: dict[str, str | None] = {}
    for stage in range(1, 5):
        names |= _block(f"enc{stage}", 0, f"down{stage}") | _block(f"dec{stage - 1}", 0, f"up{stage}")
    for stage, injection in enumerate(("zres1", "zres2", "out"), 1):
        for theirs, ours in (("residual", "shift"), ("scale", "scale"), ("last_layer", "mix")):
            names |= _tensors(f"{injection}.{theirs}", f"inject{stage}.{ours}", _CONVOLUTION)
    return names


def _discriminator() -> dict[str, str | None]:
    names: dict[str, str | None] = {}
    for place in range(3):  # padding, convolution, activation
        names |= _tensors(f"model.{3 * place + 1}", f"fine.{2 * place}", _CONVOLUTION)
    for place in range(5):  # convolution, activation, dropout
        leaves = ("weight",) if place in (1, 2, 3) else _CONVOLUTION
        names |= _tensors(f"model.{3 * place + 10}", f"coarse.{2 * place + 1}", leaves)
    return names | _tensors("out.1", "head", _CONVOLUTION)


def _block(prefix: str, place: int, ours: str | None) -> dict[str, str | None]:
    """A convolution and the norm after it."""
    conv = _tensors(f"{prefix}.{place}", ours and f"{ours}.conv", _CONVOLUTION)
    return conv | _tensors(f"{prefix}.{place + 1}", ours and f"{ours}.norm", _NORM)


def _tensors(theirs: str, ours: str | None, leaves: tuple[str, ...]) -> dict[str, str | None]:
    return {f"{theirs}.{leaf}": ours and f"{ours}.{leaf}" for leaf in leaves}
