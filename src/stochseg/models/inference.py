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

from stochseg.models.convolutions import DoublingConv, ReflectedConv
from stochseg.models.padding import pad_to_multiple
from stochseg.models.refinement import STRIDE, MergingUp, Refinement

_ready: WeakKeyDictionary[nn.Module, tuple[Any, nn.Module | None]] = WeakKeyDictionary()
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
            found = _ready[network] = state, _packed(made)
    return found[1] or network


def _packs() -> bool:
    return hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight") and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _packed(network: nn.Module) -> nn.Module | None:
    """The network with `_Packed` in place of convolutions that have a norm, and of those that double; None if it has none."""
    found = False
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Sequential) and isinstance(getattr(child, "norm", None), nn.BatchNorm2d):
                rest = [each for key, each in child.named_children() if key not in ("conv", "dropout", "norm")]
                module._modules[name] = _Packed(child.conv, child.norm, *rest)
            elif isinstance(child, MergingUp):
                module._modules[name] = _Packed(child.conv, child.norm, nn.LeakyReLU(child.slope))
            elif isinstance(child, DoublingConv) and name == "up":
                module._modules[name] = _Packed(child)
            else:
                continue
            found = True
    if not found:
        return None
    return _PackedRefinement(network) if isinstance(network, Refinement) else network


class _Packed(nn.Module):
    """A convolution, the norm after it and an activation as one operation of oneDNN, the one that torch.compile uses."""

    def __init__(self, conv: Any, norm: Any = None, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.doubles = isinstance(conv, DoublingConv)
        self.reflection = conv.reflection if isinstance(conv, ReflectedConv) else None
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
        y = self.blocks(x)
        if not self.doubles:
            return y
        b, _, h, w = y.shape
        pixels = y.permute(0, 2, 3, 1).view(b, h, w, 2, 2, -1)
        return pixels.transpose(2, 3).reshape(b, 2 * h, 2 * w, -1).permute(0, 3, 1, 2)

    def blocks(self, x: Tensor) -> Tensor:
        """x: [b c h w]. Returns [b o h w], or where it doubles the pixels of each block of four as [b 2*2*o h w]."""
        x = x.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        if self.reflection is not None:
            x = self.reflection(x)
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *self.how, *self.activation)
        return y


class _PackedRefinement(nn.Module):
    """`Refinement` once it is packed. Deep and skip features are one product again: adding an image's share to its samples
    and the activation after it would take longer than to compute the share for each."""

    def __init__(self, net: Refinement) -> None:
        super().__init__()
        self.net: Any = net
        self.latent, self.field_part, self.masks_ignored = net.latent, net.field_part, net.masks_ignored

    def encode(self, x: Tensor, q: Tensor) -> Any:
        net = self.net
        padded, crop = pad_to_multiple(torch.cat([x, q], 1), STRIDE)
        half = net.down1(padded)
        quarter = net.down2(half)
        eighth = net.down3(quarter)
        coarse = net.up2(torch.cat([net.up1(net.down4(eighth)), eighth], 1))
        return coarse, quarter, half, crop

    def decode(self, features: Any, z: Tensor) -> Tensor:
        net = self.net
        coarse, quarter, half, crop = features
        b, n, _ = z.shape
        z = z.flatten(0, 1)
        first, second, third = (_mixing(inject, z) for inject in (net.inject1, net.inject2, net.inject3))
        x = net.inject1.mixed(_each(coarse, n), *first)
        x = net.up3(_merged(x, quarter, n))
        x = net.inject2.mixed(x, *second)
        rows = net.up4.blocks(_merged(x, half, n)).permute(0, 2, 3, 1)  # [b*n h/2 w/2 2*2*c]
        h, w = rows.shape[1:3]
        weight, offset = third
        pixels = rows.reshape(b * n, 4 * h * w, -1)
        logits: Tensor = torch.baddbmm(
            offset[:, :, None], weight.transpose(1, 2), pixels.transpose(1, 2)
        )  # [b*n k h*w]
        ordered = logits.view(b, n, -1, h, w, 2, 2).transpose(4, 5).reshape(b, n, -1, 2 * h, 2 * w)
        cropped: Tensor = crop(ordered)
        return cropped

    def hypotheses(self, features: Any, z: Tensor) -> tuple[Tensor, None]:
        return self.decode(features, z), None


def _mixing(inject: Any, z: Tensor) -> tuple[Tensor, Tensor]:
    """`mixing` of z in float32, which autocast would take in bfloat16 with a copy of each of its few weights."""
    with torch.autocast("cpu", enabled=False):
        weight, offset = inject.mixing(z.float())
    return weight.to(torch.bfloat16), offset.to(torch.bfloat16)


def _each(x: Tensor, n: int) -> Tensor:
    """Features of images [b c h w] for n samples of each: [b*n c h w]."""
    return x[:, None].expand(-1, n, -1, -1, -1).flatten(0, 1)


def _merged(deep: Tensor, skip: Tensor, n: int) -> Tensor:
    """LeakyReLU of deep [b*n c h w] beside skip [b s h w], as [b*n c+s h w], pixel after pixel in memory."""
    b, s, h, w = skip.shape
    c = deep.shape[1]
    both = deep.new_empty(b, n, h, w, c + s)
    torch.ops.aten.leaky_relu.out(deep.permute(0, 2, 3, 1).view(b, n, h, w, c), 0.01, out=both[..., :c])
    both[..., c:] = skip.permute(0, 2, 3, 1)[:, None]
    return both.flatten(0, 1).permute(0, 3, 1, 2)
