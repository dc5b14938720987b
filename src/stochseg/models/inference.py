"""The paper's networks made ready to draw from in bfloat16 on a CPU: norms folded, weights as oneDNN wants them.

As they are trained, each call writes all weights in bfloat16, and again in the order of the processor's tiles: more
than half the time of a small image.
"""

import copy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from stochseg.models.convolutions import DoublingConv

_ready: WeakKeyDictionary[nn.Module, tuple[Any, nn.Module]] = WeakKeyDictionary()
"""By network: the state of its weights, and the copy made of them. Not in the network, which is saved and copied without."""


def ready(network: nn.Module) -> nn.Module:
    """A copy of a network in eval mode that computes the same in bfloat16, made again when weights have changed.

    The network itself where there is nothing to gain. What is changed past torch's books, as by `weight.data.add_(1)`,
    goes unseen.
    """
    tensors = [*network.parameters(), *network.buffers()]
    if any(t.is_inference() or t.device.type != "cpu" for t in tensors) or not _packs():
        return network
    state = [(id(t), t.data_ptr(), t._version) for t in tensors]
    found = _ready.get(network)
    if found is None or found[0] != state:
        made = copy.deepcopy(network, {id(t): t for t in tensors})  # the tensors stay the network's
        with torch.no_grad():
            found = _ready[network] = state, made if _pack(made) else network
    return found[1]


def _packs() -> bool:
    return hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight") and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _pack(network: nn.Module) -> bool:
    """Put `_Packed` in place of the convolutions of a `Sequential` with a norm, and of those that double by themselves."""
    any_found = False
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Sequential) and {"conv", "norm"} <= child._modules.keys():
                rest = [each for key, each in child.named_children() if key not in ("conv", "dropout", "norm")]
                module._modules[name] = _Packed(child.conv, child.norm, *rest)
            elif isinstance(child, DoublingConv) and name == "up":
                module._modules[name] = _Packed(child)
            else:
                continue
            any_found = True
    return any_found


class _Packed(nn.Module):
    """A convolution, the norm after it and an activation as one operation of oneDNN, the one that torch.compile uses."""

    def __init__(self, conv: Any, norm: Any = None, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.doubles = isinstance(conv, DoublingConv)
        weight, bias = conv.weight, conv.bias
        if norm is not None:
            moments = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            weight, bias = fuse_conv_bn_weights(weight, bias, *moments, transpose=self.doubles)
        if self.doubles:  # every pixel becomes four by itself: a product of matrices
            weight, bias = weight.permute(2, 3, 1, 0).reshape(-1, len(weight), 1, 1), bias.repeat(4)
            self.how: tuple[Any, ...] = [0, 0], [1, 1], [1, 1], 1
        else:
            self.how = conv.padding, conv.stride, conv.dilation, conv.groups
        self.activation: tuple[Any, ...] = "none", [], ""
        if isinstance(activation, nn.LeakyReLU):
            self.activation = "leaky_relu", [activation.negative_slope], ""
        elif activation is not None:
            self.activation = "relu", [], ""
        low = weight.detach().to(torch.bfloat16).contiguous()
        self.weight = torch._C._nn.mkldnn_reorder_conv2d_weight(low.to_mkldnn(), *self.how)
        self.bias = bias.detach().to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *self.how, *self.activation)
        if not self.doubles:
            return y
        b, _, h, w = y.shape
        blocks = y.permute(0, 2, 3, 1).view(b, h, w, 2, 2, -1)
        return blocks.transpose(2, 3).reshape(b, 2 * h, 2 * w, -1).permute(0, 3, 1, 2)
