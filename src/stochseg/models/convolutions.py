"""Convolutions of the paper's networks: what `torch.nn`'s compute, without what they are slow with."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TwiceDifferentiable(nn.Conv2d):
    """For networks whose gradients have gradients, as R1 wants them.

    If autograd derives those of the weights, they are a convolution whose kernel is a whole map, which takes a CPU ten
    times as long as the operation that is made for it, and was half of the paper's step on a GPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        if not torch.is_grad_enabled() or device not in ("cpu", "cuda") or torch.compiler.is_compiling():
            return super().forward(x)
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled(device):
            low = torch.get_autocast_dtype(device)
            x, weight, bias = x.to(low), weight.to(low), None if bias is None else bias.to(low)
        with torch.autocast(device, enabled=False):
            y: Tensor = _Conv.apply(x, weight, bias, self.stride, self.padding)  # type: ignore[no-untyped-call]
        return y


class Reflection(nn.Module):
    """One pixel more on every side, by reflection. Autocast would make a float32 copy here; there is nothing to gain by it.

    On a GPU the gradient of torch's padding is added up by atomic operations, that of these copies is not.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda:
            x = torch.cat([x[:, :, 1:2], x, x[:, :, -2:-1]], 2)
            return torch.cat([x[..., 1:2], x, x[..., -2:-1]], 3)
        with torch.autocast(x.device.type, enabled=False):
            return F.pad(x, (1, 1, 1, 1), mode="reflect")


class ReflectedConv(TwiceDifferentiable):
    """A 3x3 convolution padded by reflection: `nn.Conv2d` pads so too, but under autocast in float32."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(inside, outside, 3)
        self.reflection = Reflection()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.reflection(x))


class DoublingConv(nn.ConvTranspose2d):
    """A transposed 2x2 convolution of stride 2, which doubles h and w."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(inside, outside, 2, stride=2)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        assert self.bias is not None
        return doubled(x, self.weight, self.bias)


def doubled(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What `DoublingConv` computes. A CPU takes five times as long over the gradients with the bias in the convolution."""
    if not torch.is_grad_enabled():
        return F.conv_transpose2d(x, weight, bias, stride=2)
    y = F.conv_transpose2d(x, weight, stride=2)
    return y.add_(bias.to(y.dtype)[:, None, None])


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = stride, padding
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        of_x, *of_parameters = ctx.needs_input_grad[:3]
        d_x = _GradientOfInput.apply(g, x, weight, *ctx.how) if of_x else None  # type: ignore[no-untyped-call]
        d_parameters = (
            _gradients(g, x, weight, ctx.how, [False, *of_parameters])[1:] if any(of_parameters) else (None, None)
        )
        return d_x, *d_parameters, None, None


class _GradientOfInput(torch.autograd.Function):
    """Linear in g and in the weights; of x only the shape counts."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, weight: Tensor, stride: Any, padding: Any) -> Tensor:
        ctx.save_for_backward(g, weight)
        ctx.how = stride, padding
        d_x: Tensor = _gradients(g, x, weight, ctx.how, [True, False, False])[0]
        return d_x

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:
        g, weight = ctx.saved_tensors
        of_g, _, of_weight = ctx.needs_input_grad[:3]
        d_g = F.conv2d(d, weight, None, *ctx.how) if of_g else None
        d_weight = _gradients(g, d, weight, ctx.how, [False, True, False])[1] if of_weight else None
        return d_g, None, d_weight, None, None


def _gradients(g: Tensor, x: Tensor, weight: Tensor, how: Any, wanted: list[bool]) -> Any:
    """Those of input, weights and bias that are wanted, for the gradient g of the output."""
    stride, padding = how
    return torch.ops.aten.convolution_backward(
        g, x, weight, [len(weight)], stride, padding, [1, 1], False, [0, 0], 1, wanted
    )
