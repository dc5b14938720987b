"""The small networks of many runs, all computed at once."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ManyMLPs(nn.Module):
    """A multilayer perceptron a run; a layer of all runs is one batched matrix product.

    Rows are in the order of the runs, as many each: to its user it is one network that takes rows, and a run's weights
    see only the rows of that run.
    """

    def __init__(
        self, runs: int, inputs: int, slope: float, width: int, depth: int, generator: torch.Generator
    ) -> None:
        """depth: hidden layers of `width`; slope: of the leaky ReLU below 0, 0 for a ReLU. Weights as `nn.Linear`'s."""
        super().__init__()
        self.runs, self.slope = runs, slope
        sizes = [inputs, *(width,) * depth, 1]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in zip(sizes, sizes[1:]):
            bound = 1 / math.sqrt(fan_in)
            for kept, rows in ((self.weights, fan_in), (self.biases, 1)):
                uniform = torch.rand(runs, rows, fan_out, generator=generator)
                kept.append(nn.Parameter(bound * (2 * uniform - 1)))

    def forward(self, *inputs: Tensor) -> Tensor:
        """One number a row, [rows 1]; inputs: numbers [rows 1] each."""
        h = torch.cat(inputs, 1).view(self.runs, -1, len(inputs))
        for weight, bias in zip(self.weights[:-1], self.biases[:-1]):
            h = F.leaky_relu_(torch.baddbmm(bias, h, weight), self.slope)
        return torch.baddbmm(self.biases[-1], h, self.weights[-1]).view(-1, 1)
