"""Scores of data whose answers are known, against hand counts, plain loops and the generated data's exact truth."""

from collections import Counter
from itertools import product
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stochseg.data.ambiguous import ambiguous_image, draw_from_modes
from stochseg.errors import InputError
from stochseg.metrics.flip_modes import flip_frequencies, flip_mode_frequencies
from stochseg.metrics.modes import (
    check_flips,
    expected_missed_mass,
    expected_missed_modes,
    expected_total_variation,
    flip_mode_probabilities,
    missed_mass,
    missed_modes,
    mode_frequencies,
    mode_total_variation,
    nearest_modes,
    off_mode_share,
)

FLIPS = [(1, 4, 0.25), (2, 5, 0.6), (0, 3, 1.0)]


def maps_of(seed, *shape, classes=2):
    return torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def slow_iou(a, b, classes, keep):
    """Mean over classes that either map holds on the kept pixels; 1 where there are none."""
    scores = []
    for c in range(1, classes):
        x, y = (a == c) & keep, (b == c) & keep
        if (x | y).any():
            scores.append(float((x & y).sum()) / float((x | y).sum()))
    return sum(scores) / len(scores) if scores else 1.0


def slow_frequencies(samples, modes, weights, classes, ignore):
    found, off = [], []
    for image, answers, weight in zip(samples, modes, weights):
        keep = ~(answers == ignore).any(0) if ignore is not None else torch.ones_like(answers[0], dtype=torch.bool)
        rows, away = [0.0] * len(answers), 0.0
        for one, w in zip(image, weight.tolist()):
            near = [
                -1.0 if (m == 255).all() else slow_iou(one, m, classes if ignore is None else classes - 1, keep)
                for m in answers
            ]
            rows[near.index(max(near))] += w / float(weight.sum())
            away += (max(near) < 0.5) * w / float(weight.sum())
        found.append(rows)
        off.append(away)
    return found, off


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from([(2, None), (3, None), (4, 3)]), st.integers(1, 5), st.booleans())
def test_frequencies_agree_with_a_loop(seed, kind, n, weighted):
    classes, ignore = kind
    samples, modes = maps_of(seed, 2, n, 3, 4, classes=classes), maps_of(seed + 1, 2, 3, 3, 4, classes=classes)
    modes[0, 1] = 255
    if ignore is not None:  # some ignored pixels, not nearly all
        modes[modes == ignore] = 0
        modes[:, 0, 0, :2] = ignore
    weights = maps_of(seed + 2, 2, n, classes=9).double() + 0.5 if weighted else torch.ones(2, n)
    given_weights = weights if weighted else None
    slow, off = slow_frequencies(samples, modes, weights, classes, ignore)
    found = mode_frequencies(samples, modes, classes, ignore, given_weights)
    for row, expected in zip(found.tolist(), slow):
        assert row == pytest.approx(expected)
    assert found[0, 1] == 0
    assert found.sum(1).tolist() == pytest.approx([1, 1])
    assert off_mode_share(samples, modes, classes, ignore, 0.5, given_weights).tolist() == pytest.approx(off)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6))
def test_samples_that_are_modes_are_counted_whatever_the_order(seed):
    modes = torch.zeros(1, 4, 4, 4, dtype=torch.uint8)
    for j in range(4):
        modes[0, j].view(-1)[: 4 * j] = 1
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(0, 4, (20,), generator=generator)
    found = mode_frequencies(modes[:, chosen], modes)
    times = Counter(chosen.tolist())
    assert found.tolist() == [[times[j] / 20 for j in range(4)]]
    order = torch.randperm(4, generator=generator)
    assert torch.equal(mode_frequencies(modes[:, chosen.flip(0)], modes[:, order]), found[:, order])
    assert off_mode_share(modes[:, chosen], modes).item() == 0
    assert nearest_modes(modes[:, chosen], modes).nearest.tolist() == [chosen.tolist()]


def test_nonsense_is_nearest_to_something_and_off():
    modes = torch.tensor([[[[1, 1, 0, 0, 0]], [[1, 1, 1, 0, 0]]]])
    samples = torch.tensor([[[[0, 0, 0, 1, 1]], [[0, 0, 0, 0, 0]], [[1, 1, 0, 0, 0]], [[1, 0, 0, 0, 0]]]])
    assert mode_frequencies(samples, modes).tolist() == [[1, 0]]  # of equals the first
    assert off_mode_share(samples, modes).item() == 0.5  # the last has IoU 1/2, which is not below
    assert off_mode_share(samples, modes, iou_below=0.51).item() == 0.75


def test_an_empty_sample_belongs_to_the_empty_mode():
    modes = torch.tensor([[[[0, 2]], [[0, 0]]]])
    assert mode_frequencies(torch.tensor([[[[0, 0]]]]), modes, classes=3).tolist() == [[0, 1]]


def test_an_image_whose_pixels_are_all_left_out_is_undefined():
    modes = torch.tensor([[[[2, 0]], [[1, 2]]], [[[1, 0]], [[0, 1]]]])
    samples = torch.tensor([[[[1, 1]]], [[[1, 0]]]])
    found = mode_frequencies(samples, modes, 3, ignore=2)
    assert found[0].isnan().all()
    assert found[1].tolist() == [1, 0]
    p = torch.tensor([0.5, 0.5])
    for value in (off_mode_share(samples, modes, 3, 2), mode_total_variation(found, p), missed_modes(found, p)):
        assert value.isnan().tolist() == [True, False]
    assert missed_mass(found, p).isnan().tolist() == [True, False]


def test_bool_and_one_hot_maps_are_taken():
    modes = torch.tensor([[[[0, 0]], [[1, 1]]]])
    samples = maps_of(0, 1, 5, 1, 2)
    expected = mode_frequencies(samples, modes)
    hot = [torch.nn.functional.one_hot(m.long(), 2).movedim(-1, 2) for m in (samples, modes)]
    assert torch.equal(mode_frequencies(*hot), expected)
    assert torch.equal(mode_frequencies(samples.bool(), modes.bool()), expected)


def test_total_variation_and_missed_modes_by_hand():
    f = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.0]])
    p = torch.tensor([0.5, 0.25, 0.2, 0.05])
    assert mode_total_variation(f, p).tolist() == pytest.approx([0.25, 0.3])  # the second has 0.25 nowhere
    assert missed_modes(f, p).tolist() == [2, 1]
    assert missed_modes(f, p, at_least=0.1).tolist() == [1, 0]
    assert missed_mass(f, p).tolist() == pytest.approx([0.25, 0.05])
    assert mode_total_variation(torch.zeros(1, 4), p).item() == pytest.approx(1)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any), st.integers(1, 4))
def test_expectations_agree_with_an_enumeration_of_all_draws(weights, n):
    p = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    variation = modes = mass = 0.0
    for draw in product(range(len(weights)), repeat=n):
        chance = float(p[list(draw)].prod())
        f = torch.bincount(torch.tensor(draw), minlength=len(weights))[None] / n
        variation += chance * float(mode_total_variation(f, p))
        modes += chance * float(missed_modes(f, p))
        mass += chance * float(missed_mass(f, p))
    assert expected_total_variation(p, n).item() == pytest.approx(variation, abs=1e-6)  # f is float32
    assert expected_missed_modes(p, n).item() == pytest.approx(modes)
    assert expected_missed_mass(p, n).item() == pytest.approx(mass)


@pytest.mark.parametrize("n", [1, 16, 100])
def test_the_closed_form_is_the_sum_over_the_binomial(n):
    p = torch.tensor([[0.3, 0.5, 0.2], [0.25, 0.75, 0.0], [1e-9, 1 - 1e-9, 0], [1, 0, 0]], dtype=torch.float64)
    for row, found in zip(p.tolist(), expected_total_variation(p, n).tolist()):
        slow = sum(comb(n, i) * q**i * (1 - q) ** (n - i) * abs(i / n - q) for q in row for i in range(n + 1)) / 2
        assert found == pytest.approx(slow, rel=1e-9, abs=1e-15)


def test_draws_from_the_exact_truth_score_what_is_expected_and_a_collapsed_model_does_not():
    n, repeats = 16, 150
    made = [ambiguous_image(np.random.default_rng(i), size=32) for i in range(6)]
    for seed, image in enumerate(made):
        p = torch.from_numpy(image.probabilities)
        modes = image.modes[None].repeat(repeats, 0)
        samples = torch.from_numpy(draw_from_modes(modes, image.probabilities[None].repeat(repeats, 0), n, seed))
        answers = torch.from_numpy(modes)
        found = mode_frequencies(samples, answers)
        checks = (
            (mode_total_variation(found, p), expected_total_variation(p, n)),
            (missed_modes(found, p), expected_missed_modes(p, n)),
            (missed_mass(found, p), expected_missed_mass(p, n)),
        )
        for values, expected in checks:
            error = 4 * values.std().item() / repeats**0.5
            assert values.mean().item() == pytest.approx(expected.item(), abs=max(error, 1e-9))
        assert off_mode_share(samples, answers).max() == 0
        missing = answers.masked_fill((p == 0)[None, :, None, None], 255)
        assert torch.equal(mode_frequencies(samples, missing), found)
        likeliest = int(p.argmax())
        collapsed = answers[:1, [likeliest] * n]
        assert mode_total_variation(mode_frequencies(collapsed, answers[:1]), p).item() == pytest.approx(
            1 - float(p[likeliest])
        )


def drawn_flips(seed, b, n, present=(True, True, True)):
    """Labels of classes 0 to 2 and samples whose flips are drawn one by one: maps, labels and bits [b n m]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (b, 1, 5, 6), generator=generator, dtype=torch.uint8)
    labels.view(b, -1)[:, :3] = torch.arange(3)
    for (source, _, _), here in zip(FLIPS, present):
        if not here:
            labels[labels == source] = 6
    p = torch.tensor([p for _, _, p in FLIPS])
    bits = torch.rand(b, n, len(FLIPS), generator=generator) < p
    samples = labels.repeat(1, n, 1, 1)
    for j, (source, target, _) in enumerate(FLIPS):
        samples = samples.where(~((labels == source) & bits[:, :, j, None, None]), target)
    return samples, labels, bits


@pytest.mark.parametrize("ignore", [None, 6])
def test_flips_are_found_where_they_were_made(ignore):
    samples, labels, bits = drawn_flips(0, 4, 9)
    found = flip_frequencies(samples, labels, FLIPS, 7, ignore)
    torch.testing.assert_close(found.flipped, bits.double().mean(1))
    torch.testing.assert_close(found.kept, 1 - bits.double().mean(1))
    assert (found.neither == 0).all()
    joint = flip_mode_frequencies(samples, labels, FLIPS, 7, ignore)
    for i in range(4):
        times = Counter(sum(int(bit) << j for j, bit in enumerate(row)) for row in bits[i].tolist())
        assert joint.frequencies[i].tolist() == pytest.approx([times[mode] / 9 for mode in range(8)])
        assert joint.probabilities[i].tolist() == flip_mode_probabilities(FLIPS).tolist()


def test_joint_probabilities_are_products_in_the_order_of_bits():
    found = flip_mode_probabilities(FLIPS)
    for mode in range(8):
        chance = 1.0
        for j, (_, _, p) in enumerate(FLIPS):
            chance *= p if mode >> j & 1 else 1 - p
        assert found[mode].item() == pytest.approx(chance)
    assert found.sum().item() == pytest.approx(1)


def test_a_flip_that_the_label_lacks_is_left_out():
    samples, labels, bits = drawn_flips(1, 2, 200, present=(True, False, True))
    found = flip_frequencies(samples, labels, FLIPS, 7, ignore=6)
    for shares in found:
        assert shares.isnan().tolist() == [[False, True, False]] * 2
    joint = flip_mode_frequencies(samples, labels, FLIPS, 7, ignore=6)
    assert joint.probabilities[0].tolist() == pytest.approx([0, 0, 0, 0, 0.75, 0.25, 0, 0])
    share = bits[..., 0].double().mean(1)
    torch.testing.assert_close(joint.frequencies[:, 5], share)
    torch.testing.assert_close(mode_total_variation(*joint), (share - 0.25).abs())
    assert missed_modes(*joint).tolist() == [0, 0]
    samples, labels, _ = drawn_flips(2, 1, 3, present=(False, False, False))
    nothing = flip_mode_frequencies(samples, labels, FLIPS, 7)
    assert nothing.frequencies.isnan().all()
    assert mode_total_variation(*nothing).isnan().all()


def test_a_sample_that_shows_neither_side_belongs_to_no_mode():
    labels = torch.tensor([[[[1, 1, 1, 2]]]])
    samples = torch.tensor([[[[4, 4, 1, 5]], [[4, 1, 0, 2]], [[0, 0, 0, 2]], [[1, 1, 4, 1]]]])
    flips = FLIPS[:2]
    found = flip_frequencies(samples, labels, flips, 6)
    assert found.flipped.tolist() == [[0.25, 0.25]]
    assert found.kept.tolist() == [[0.25, 0.5]]  # a majority decides; a draw, and no pixel of either, are neither
    assert found.neither.tolist() == [[0.5, 0.25]]
    joint = flip_mode_frequencies(samples, labels, flips, 6)
    assert joint.frequencies.tolist() == [[0, 0, 0, 0.25]]  # only the first sample decides both
    expected = (0.75 * 0.4 + 0.25 * 0.4 + 0.75 * 0.6 + abs(0.25 - 0.15) + 0.75) / 2
    assert mode_total_variation(*joint).item() == pytest.approx(expected)


def test_weights_of_samples_count_as_repeats():
    samples, labels, _ = drawn_flips(3, 2, 3)
    repeated, weights = samples[:, [0, 1, 1, 1, 2, 2]], torch.tensor([1.0, 3.0, 2.0])
    for score in (flip_frequencies, flip_mode_frequencies):
        found = score(samples, labels, FLIPS, 7, sample_weights=weights)
        for a, b in zip(found, score(repeated, labels, FLIPS, 7)):
            torch.testing.assert_close(a, b)
    modes = samples[:, :2]
    torch.testing.assert_close(
        mode_frequencies(samples, modes, 7, sample_weights=weights), mode_frequencies(repeated, modes, 7)
    )


@pytest.mark.parametrize(
    ("flips", "message"),
    [
        ([], "flips are empty"),
        ([(1, 2)], r"flips\[0\] is \(1, 2\)"),
        ([(1, 2, 0.5, 1)], r"flips\[0\] is"),
        ([(1.5, 2, 0.5)], r"flips\[0\] is"),
        ([(1, 7, 0.5)], "class 7; with classes=7 it is one of 0 to 6"),
        ([(-1, 2, 0.5)], "class -1"),
        ([(1, 6, 0.5)], "the ignored one"),
        ([(1, 1, 0.5)], r"flips\[0\] is \(1, 1, 0.5\); from and to are the same class"),
        ([(1, 2, 0.5), (2, 3, 0.5)], r"flips\[1\] has class 2, as flips\[0\] has"),
        ([(1, 2, 1.5)], "probability 1.5"),
        ([(1, 2, float("nan"))], "probability nan"),
        (["abc"], r"flips\[0\] is abc"),
    ],
)
def test_a_table_of_flips_that_is_none_says_why(flips, message):
    with pytest.raises(InputError, match=message):
        check_flips(flips, 7, ignore=6)
    with pytest.raises(InputError, match=message):
        flip_frequencies(torch.ones(1, 2, 2, 2).byte(), torch.ones(1, 1, 2, 2).byte(), flips, 7, 6)


def test_tables_of_flips_may_come_from_files():
    assert check_flips([[1, 4, "0.25"], (np.int64(2), 5, 1)], 6) == [(1, 4, 0.25), (2, 5, 1.0)]


def test_arguments_that_do_not_fit_say_why():
    samples, labels = torch.zeros(1, 2, 2, 2).byte(), torch.zeros(1, 2, 2, 2).byte()
    with pytest.raises(InputError, match="labels hold 2 maps"):
        flip_frequencies(samples, labels, FLIPS, 7)
    with pytest.raises(InputError, match="20 flips"):
        flip_mode_probabilities([(2 * i, 2 * i + 1, 0.5) for i in range(20)])
    with pytest.raises(InputError, match="iou_below is 0"):
        off_mode_share(samples, labels, iou_below=0)
    with pytest.raises(InputError, match="all 0"):
        mode_frequencies(samples, labels, sample_weights=torch.zeros(2))
    with pytest.raises(InputError, match="image 0"):
        mode_frequencies(samples, torch.full_like(labels, 255))
    f, p = torch.tensor([[0.5, 0.5]]), torch.tensor([0.5, 0.5])
    for bad, message in ((p[:1] * 2, "give"), (p * 2, "summing to 1"), (p - 1, "start at -0.5"), ([0.5], "tensor")):
        for score in (mode_total_variation, missed_modes, missed_mass):
            with pytest.raises(InputError, match=message):
                score(f, bad)
    with pytest.raises(InputError, match="add up to more"):
        mode_total_variation(f * 3, p)
    with pytest.raises(InputError, match=r"tensor \[b m\]"):
        mode_total_variation(p, p)
    with pytest.raises(InputError, match="n is 0"):
        expected_total_variation(p, 0)
    with pytest.raises(InputError, match="at_least is 2"):
        missed_modes(f, p, 2)
