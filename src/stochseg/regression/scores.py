"""How well samples are distributed as the data: the paper's log likelihood, and scores that nobody wins by collapsing."""

import torch
from torch import Tensor

from stochseg.data.regression import FORKED, Bimodal
from stochseg.metrics.areas import mean_difference

SCORES = {
    "log_likelihood": "log likelihood",
    "crps": "CRPS",
    "energy_distance": "energy distance",
    "frequency": "frequency of the upper branch",
    "frequency_error": "its error",
    "frequency_error_per_x": "its error, x by x",
}


def score_samples(truth: Bimodal, x: Tensor, samples: Tensor) -> dict[str, Tensor]:
    """Scores of each run, [s] each, in the dtype of the samples.

    x: [s m], the same in every run; samples: [s m n], n >= 2.

    log_likelihood: mean log density of the samples under the truth, the paper's score. It is highest for a generator
    that always gives the likeliest answer. crps: E|S - Y| - 1/2 E|S - S'| in units of y, lower is better;
    energy_distance: 2 E|S - Y| - E|S - S'| - E|Y - Y'|, 0 only for the true distribution (Szekely & Rizzo 2013). Both are
    means over x of unbiased estimates, exact but for the finite number of samples, and may fall a little below their
    least value. frequency: share of samples above 0 where the branches lie apart; frequency_error: its distance from
    pi; frequency_error_per_x: mean of those distances at each x, which noise of n samples alone makes about
    0.8 sqrt(pi (1 - pi) / n).
    """
    near = truth.mean_distance(x, samples).mean(2)
    within = mean_difference(samples.transpose(1, 2), "U")
    own = truth.mean_difference(x)
    apart = x[0] < FORKED
    upper = (samples[:, apart] > 0).to(samples.dtype).mean(2)
    pi = truth.pi[:, 0]
    frequency = upper.mean(1)
    return {
        "log_likelihood": truth.log_density(x, samples).mean((1, 2)),
        "crps": (near - within / 2).mean(1),
        "energy_distance": (2 * near - within - own).mean(1),
        "frequency": frequency,
        "frequency_error": (frequency - pi).abs(),
        "frequency_error_per_x": (upper - truth.pi).abs().mean(1),
    }


def grid_of_x(data: Bimodal, points: int) -> Tensor:
    """Numbers x that cover 0 to 1 evenly, the same in every setting: [s points]."""
    x = (torch.arange(points, device=data.pi.device) + 0.5) / points
    return x.expand(len(data.pi), -1)
