"""The noise that samples are made of: independent draws, or draws spread evenly over the normal distribution."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from stochseg.errors import InputError

Draws = Literal["independent", "stratified"]
NEAREST_END = 1e-6
"""Points of (0, 1) are held this far from its ends, where the normal quantile is infinite."""


def latents(seed: int, images: Sequence[int], n: int, length: int, draws: Draws = "independent") -> Tensor:
    """Standard normal z [b n z] that depends on the seed, the image's number and the sample's number alone.

    So a sample is the same in whatever batch its image is, and more samples go on where fewer ended.

    draws: "independent", or "stratified": points of a scrambled Sobol sequence (Owen 1998), of which each is standard
    normal by itself, while together they fill every coordinate evenly: of n = 2^m samples one lies in each n-th of each.
    They represent the distribution better than independent draws of the same number, and are not independent: a score
    of them is not one of draws, and is to be reported apart. Raises InputError for another word.
    """
    if draws not in get_args(Draws):
        raise InputError(f"--draws {draws}: must be {' or '.join(get_args(Draws))}")
    each = _sobol if draws == "stratified" else _independent
    return torch.from_numpy(np.stack([each(np.random.default_rng([seed, i]), n, length) for i in images]))


def _independent(rng: np.random.Generator, n: int, length: int) -> np.ndarray:
    return rng.standard_normal((n, length), dtype=np.float32)


def _sobol(rng: np.random.Generator, n: int, length: int) -> np.ndarray:
    from scipy.special import ndtri
    from scipy.stats.qmc import Sobol

    whole = 1 << (n - 1).bit_length()  # the sequence is balanced at powers of two, and scipy warns elsewhere
    points = Sobol(length, scramble=True, rng=rng).random(whole)[:n]
    return np.asarray(ndtri(points.clip(NEAREST_END, 1 - NEAREST_END)), np.float32)
