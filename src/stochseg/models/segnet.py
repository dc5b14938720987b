"""SegNet on a VGG19-BN encoder: the paper's calibration network for LIDC."""

import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from stochseg.errors import InputError
from stochseg.models.convolutions import DoublingConv, ReflectedConv
from stochseg.models.dropout import Dropout
from stochseg.models.padding import pad_to_multiple

STRIDE = 32
VGG19_DEPTHS = (2, 2, 4, 4, 4)
VGG19_WIDTH = 64
IMAGENET_URL = "https://download.pytorch.org/models/vgg19_bn-c79401a0.pth"


class SegNet(nn.Module):
    """An encoder of five stages that halve the image, and a decoder of five that double it and see the encoder's maps.

    channels: of the input; classes: k; width: channels of the encoder's first stage, the next have 2, 4, 8 and 8 times
    as many; dropout: after every ReLU. Weights are random; `load_imagenet_weights` fills the encoder.
    """

    def __init__(self, channels: int, classes: int, width: int = VGG19_WIDTH, dropout: float = 0.1) -> None:
        super().__init__()
        widths = w1, w2, w3, w4, w5 = width, 2 * width, 4 * width, 8 * width, 8 * width
        self.encoder = nn.ModuleList()
        for depth, inside, outside in zip(VGG19_DEPTHS, (channels, *widths), widths, strict=False):
            blocks = [_block(inside, outside, dropout)] + [_block(outside, outside, dropout) for _ in range(depth - 1)]
            self.encoder.append(nn.Sequential(*blocks, nn.MaxPool2d(2)))
        self.decoder = nn.ModuleList(
            [
                _Up(w5, (w5,), (4,), dropout),
                _halving_up(w4 + w5, w3, 2, dropout),
                _halving_up(2 * w3, w2, 2, dropout),
                _halving_up(2 * w2, w1, 0, dropout),
                _halving_up(2 * w1, classes, 0, dropout),
            ]
        )
        self.head = ReflectedConv(classes, classes)
        _initialise(self.encoder, "fan_out")
        _initialise(self.decoder, "fan_in")
        _initialise(self.head, "fan_in")

    def forward(self, x: Tensor) -> Tensor:
        """x: [b c h w] of any size. Returns logits [b k h w]."""
        x, crop = pad_to_multiple(x, STRIDE)
        skips: list[Tensor] = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        x = self.decoder[0](skips.pop())
        for stage in self.decoder[1:]:
            x = stage(torch.cat([skips.pop(), x], 1))
        return crop(self.head(x))


def load_imagenet_weights(segnet: SegNet, source: str) -> None:
    """Fill the encoder with torchvision's VGG19-BN weights, all of them or none.

    source: "imagenet", which fetches IMAGENET_URL into torch hub's folder and checks its hash, or the path of such a
    file (.pth or .safetensors, keys `features.N.*`). The first convolution keeps its random weights where the network
    does not take 3 channels. Raises InputError where the file cannot be had or does not fit the encoder.
    """
    found = _read_weights(source)
    tensors: list[tuple[Tensor, Tensor]] = []
    for key, ours in _torchvision_keys(segnet):
        if key not in found:
            raise InputError(f"{source}: no '{key}' in it; the weights of torchvision's vgg19_bn are needed")
        if key.startswith("features.0.") and segnet.encoder[0][0].conv.in_channels != 3:  # type: ignore[index]
            continue
        if found[key].shape != ours.shape:
            raise InputError(
                f"{source}: '{key}' is {list(found[key].shape)} and the network has {list(ours.shape)}; "
                f"ImageNet weights need a SegNet of width {VGG19_WIDTH}"
            )
        tensors.append((ours, found[key]))
    with torch.no_grad():
        for ours, value in tensors:
            ours.copy_(value)


class _Up(nn.Module):
    """Doubles h and w, then runs each convolution block as often as `repeats` says, with the same weights each time."""

    def __init__(self, channels: int, widths: Sequence[int], repeats: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.up = DoublingConv(channels, channels)
        self.blocks = nn.ModuleList(
            _block(inside, outside, dropout) for inside, outside in zip((channels, *widths), widths, strict=False)
        )
        self.repeats = tuple(repeats)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        for block, times in zip(self.blocks, self.repeats, strict=True):
            for _ in range(times):
                x = block(x)
        return x


def _halving_up(channels: int, out: int, repeats: int, dropout: float) -> _Up:
    """Enter at half the channels, stay there for `repeats` rounds of one shared block, leave with `out` channels."""
    half = channels // 2
    if repeats:
        return _Up(channels, (half, half, out), (1, repeats, 1), dropout)
    return _Up(channels, (half, out), (1, 1), dropout)


def _block(inside: int, outside: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(inside, outside, 3, padding=1),
            norm=nn.BatchNorm2d(outside),
            relu=nn.ReLU(inplace=True),
            dropout=Dropout(dropout),
        )
    )


def _initialise(part: nn.Module, fan: Literal["fan_in", "fan_out"]) -> None:
    """He's normal weights and zero biases: torchvision's for VGG counts outputs, the official code's inputs."""
    for module in part.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=fan, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _torchvision_keys(segnet: SegNet) -> Iterator[tuple[str, Tensor]]:
    """torchvision's name of each tensor of the encoder. It numbers convolutions, norms, ReLUs and pools in a row."""
    number = 0
    for stage in segnet.encoder:
        for block in stage.children():
            if isinstance(block, nn.MaxPool2d):
                number += 1
                continue
            for offset, name in enumerate(("conv", "norm")):
                for leaf, tensor in block.get_submodule(name).state_dict(keep_vars=True).items():
                    if leaf != "num_batches_tracked":  # absent from the published file
                        yield f"features.{number + offset}.{leaf}", tensor
            number += 3


def _read_weights(source: str) -> Mapping[str, Tensor]:
    try:
        if source == "imagenet":
            return torch.hub.load_state_dict_from_url(
                IMAGENET_URL, map_location="cpu", check_hash=True, weights_only=True
            )
        if Path(source).suffix == ".safetensors":
            return load_file(source)
        found = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(
            f"{source}: no such file of ImageNet weights; give a path, or 'imagenet' to download them"
        ) from error
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        where = IMAGENET_URL if source == "imagenet" else source
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{where}: cannot be read as weights ({reason}); fetch {IMAGENET_URL} again and give its path"
        ) from error
    if not isinstance(found, Mapping):
        raise InputError(f"{source}: holds a {type(found).__name__}, not named tensors; fetch {IMAGENET_URL}")
    return found
