"""Scores against labels whose classes flip: all 2^m modes at once, exactly, without building their maps.

A flip (from, to, p) turns class `from` into `to` in the whole image with probability p, independently of other flips
(Kohl et al. 2018, arXiv 1806.05034, section 4.2). The IoU of one class against a mode depends on the one bit that
touches that class: a few counts a sample, class pair and bit hold all there is to know. The mean over classes is

    s = sum_i N_i / sum_i D_i,   N_i = sum of IoU over the classes of flip i, D_i = how many of them are counted

where N_i and D_i depend on bit i alone. D differs between modes only where absent classes are left out; it is a small
integer, so the expectation over independent bits needs no more than the distribution of the others' counts R_i:

    E s = sum_i sum_bit P(bit) N_i(bit) E[1 / (D_i(bit) + R_i)],   R_i = sum of D_j over j != i
"""

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from stochseg.errors import InputError
from stochseg.metrics.conventions import Convention, Flip, get_convention
from stochseg.metrics.distances import Gauge, SetDistances, gauges, leave_out, overlaps, seen
from stochseg.metrics.inputs import check_maps
from stochseg.metrics.modes import check_flips, flip_mode_probabilities

Outcome = tuple[float, Tensor, Tensor]
"""Probability, and what the classes of one flip then add to numerator and denominator of the mean over classes."""
MOST_MATCHED_FLIPS = 10
"""Matched IoU needs a column a mode, 2^m of them."""


def flip_distances(
    samples: Tensor,
    labels: Tensor,
    flips: Sequence[Flip],
    classes: int,
    convention: str | Convention = "car-cityscapes",
    ignore: int | None = None,
) -> SetDistances:
    """Distances of samples [b n h w] to all modes of labels [b 1 h w]: expectations over the modes in ys and yy, exact.

    Where the convention has a matched IoU, `matched` holds the similarity to each mode, [b n 2^m] (bit i of a mode's
    number is flip i) and `modes` their probabilities. Raises InputError as `set_distances` does, and for a flip table
    that does not fit, more than one label an image, or a convention that pools.
    """
    rule = get_convention(convention, flips=True)
    flips = check_flips(flips, classes, ignore)
    ids = rule.class_ids(classes, ignore, tuple(sorted(_classes_of(flips))))
    flips = [flip for flip in flips if flip[0] in ids or flip[1] in ids]
    samples, labels, present = check_maps(samples, labels, classes)
    if labels.shape[1] != 1:
        raise InputError(f"labels hold {labels.shape[1]} maps an image; with flips give the one that is not flipped")
    if rule.pooled:
        raise InputError(f"convention '{rule.name}' pools all pairs and knows no flips; take 'car-cityscapes'")
    if rule.matching != "none" and len(flips) > MOST_MATCHED_FLIPS:
        raise InputError(f"{len(flips)} flips have 2^{len(flips)} modes to match; take at most {MOST_MATCHED_FLIPS}")
    drawn = samples.shape[1]
    samples = samples[:, : rule.most_samples]
    n = samples.shape[1]
    flipped = labels.clone()
    for source, target, _ in flips:
        flipped[labels == source] = target
    maps = leave_out(torch.cat([samples, labels, flipped], 1), labels, ignore)  # column n + bit: label at that bit
    gauge, matched = gauges(rule)
    counts = {}
    holds = torch.zeros_like(present[:, 0])
    for c in ids:
        both, area, _ = overlaps(maps, maps, c)
        counts[c] = both, area[:, :, None] + area[:, None, :]
        gauge.add(both[:, :n, :n], counts[c][1][:, :n, :n])
        holds |= area[:, n:].sum(1) > 0

    groups = [*(flip[:2] for flip in flips), *((c,) for c in ids if c not in _classes_of(flips))]
    tables = [[counts[c] for c in group if c in counts] for group in groups]
    bits = [_bits(p) for _, _, p in flips] + [[(0, 1.0)]] * (len(tables) - len(flips))
    to_modes = [
        [(p, *_added(gauge, table, slice(n), n + bit)) for bit, p in each]
        for table, each in zip(tables, bits, strict=True)
    ]
    among_modes = [
        [(p * q, *_added(gauge, table, n + one, n + other)) for (one, p), (other, q) in product(each, repeat=2)]
        for table, each in zip(tables, bits, strict=True)
    ]
    similar, modes = samples.new_zeros(0), None
    if rule.matching != "none":
        modes = flip_mode_probabilities(flips).to(maps.device)
        similar = torch.stack([_to_one_mode(matched, tables, n, mode) for mode in range(len(modes))], -1)
    return SetDistances(
        ys=1 - expected_mean(to_modes)[:, :, None],
        ss=1 - gauge.similarity(identical=1.0),
        yy=1 - expected_mean(among_modes)[:, None, None],
        present=present,
        matched=similar,
        defined=seen(labels, ignore) & (holds | (rule.absent != "left out")),
        modes=modes,
        drawn=drawn,
        exact=True,
    )


def expected_mean(flips: Sequence[Sequence[Outcome]]) -> Tensor:
    """E[sum_i N_i / sum_i D_i] for independent i, each given by its outcomes; 1 where nothing is counted (0/0).

    The D are small integers, equal in shape to the N; the answer has that shape. Exact: see the module.
    """
    counts = [_distribution(outcomes) for outcomes in flips]
    nothing = torch.ones_like(counts[0][..., :1])
    before = [nothing]  # distributions of D_0 + ... + D_{i-1}
    for each in counts:
        before.append(_convolve(before[-1], each))
    expected = before[-1][..., 0].clone()  # P(nothing is counted): two maps without any class that counts are alike
    after = nothing
    for i in reversed(range(len(flips))):
        rest = _convolve(before[i], after)
        sizes = torch.arange(rest.shape[-1], dtype=rest.dtype, device=rest.device)
        for p, added, counted in flips[i]:
            total = counted[..., None] + sizes
            expected += p * added * (rest / total.clamp(min=1)).sum(-1)  # where the total is 0, so is `added`
        after = _convolve(counts[i], after)
    return expected


def _classes_of(flips: Sequence[Flip]) -> set[int]:
    return {c for flip in flips for c in flip[:2]}


def _bits(p: float) -> list[tuple[int, float]]:
    """The values of a bit with their probabilities."""
    return [(bit, q) for bit, q in ((0, 1 - p), (1, p)) if q > 0]


def _added(gauge: Gauge, table: list[tuple[Tensor, Tensor]], row: slice | int, column: int) -> tuple[Tensor, Tensor]:
    """What the classes of a flip add to numerator and denominator, from their counts [b m m] at row and column."""
    parts = [gauge.of_class(both[:, row, column], areas[:, row, column]) for both, areas in table]
    return sum(part[0] for part in parts), sum(part[1] for part in parts)  # type: ignore[return-value]


def _to_one_mode(gauge: Gauge, tables: Sequence[list[tuple[Tensor, Tensor]]], n: int, mode: int) -> Tensor:
    """Similarity [b n] of the samples to the mode of this number; classes beyond the flips have bit 0."""
    parts = [_added(gauge, table, slice(n), n + (mode >> i & 1)) for i, table in enumerate(tables)]
    added, counted = (torch.stack(side).sum(0) for side in zip(*parts, strict=True))
    return (added / counted).where(counted > 0, 1.0)


def _distribution(outcomes: Sequence[Outcome]) -> Tensor:
    """P(D = 0, 1, ...) as a last axis."""
    exact = outcomes[0][1].dtype
    highest = max(int(counted.max()) for _, _, counted in outcomes)
    values = torch.arange(highest + 1, device=outcomes[0][2].device)
    return torch.stack([p * (counted[..., None] == values).to(exact) for p, _, counted in outcomes]).sum(0)


def _convolve(a: Tensor, b: Tensor) -> Tensor:
    """Distribution of the sum of two independent counts, over the last axis."""
    result = a.new_zeros((*torch.broadcast_shapes(a.shape[:-1], b.shape[:-1]), a.shape[-1] + b.shape[-1] - 1))
    for i in range(b.shape[-1]):
        result[..., i : i + a.shape[-1]] += a * b[..., i : i + 1]
    return result
