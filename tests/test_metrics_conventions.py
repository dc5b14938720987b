"""Every convention against a slow reading of its rules: one image, sets of pixels, loops over pairs and modes."""

from dataclasses import replace
from itertools import permutations, product
from math import lcm
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from stochseg import metrics
from stochseg.errors import InputError
from stochseg.metrics import CONVENTIONS, get_convention

PARITY = Path(__file__).parents[1].parent / "shared/reference/parity/metrics_cityscapes.npz"
FLIPS = [(1, 3, 0.25), (2, 4, 0.6)]
CLASSES, IGNORE = 6, 5


def pixels(one, c, out):
    return {(y, x) for y, row in enumerate(one.tolist()) for x, v in enumerate(row) if v == c} - out


def ignored(labels, ignore):
    return set().union(*(pixels(one, ignore, set()) for one in labels)) if ignore is not None else set()


def similarity(a, b, ids, out, measure, absent):
    """Mean over classes by sets of pixels; two maps without any class left to count are alike."""
    scores = []
    for c in ids:
        in_a, in_b = pixels(a, c, out), pixels(b, c, out)
        if in_a | in_b:
            both = len(in_a & in_b)
            scores.append(both / len(in_a | in_b) if measure == "iou" else 2 * both / (len(in_a) + len(in_b)))
        elif absent != "left out":
            scores.append(absent)
    return sum(scores) / len(scores) if scores else 1.0


def weighted(ours, theirs, distance, distinct):
    pairs = [
        (u * v, distance(a, b))
        for i, (u, a) in enumerate(ours)
        for j, (v, b) in enumerate(theirs)
        if not (distinct and i == j)
    ]
    return sum(w * d for w, d in pairs) / sum(w for w, _ in pairs)


def pooled_dice_distance(ours, theirs, ids, out):
    both = sum(len(pixels(a, c, out) & pixels(b, c, out)) for a in ours for b in theirs for c in ids)
    areas = sum(len(pixels(a, c, out)) + len(pixels(b, c, out)) for a in ours for b in theirs for c in ids)
    return 1 - 2 * both / areas if areas else 1.0


def slow_ged(samples, labels, rule, ids, out, statistic="V"):
    """samples, labels: lists of (weight, map)."""
    if rule.name == "ssn":
        samples = samples[:20]
    if rule.name == "values":
        ours, theirs = [s for _, s in samples], [y for _, y in labels]
        d = lambda a, b: pooled_dice_distance(a, b, ids, out)  # noqa: E731
        return 2 * d(ours, theirs) - d(ours, ours) - d(theirs, theirs)
    absent = {"car-cityscapes": "left out", "kohl": "left out", "mose-cityscapes": "left out", "d-persona": 0.0}
    d = lambda a, b: 1 - similarity(a, b, ids, out, "iou", absent.get(rule.name, 1.0))  # noqa: E731
    u = statistic == "U"
    return 2 * weighted(samples, labels, d, False) - weighted(samples, samples, d, u) - weighted(labels, labels, d, u)


def slow_matched(samples, labels, rule, ids, out):
    measure = "dice" if rule.name == "d-persona" else "iou"
    absent = "left out" if rule.name == "mose-cityscapes" else 1.0
    table = np.array([[similarity(s, y, ids, out, measure, absent) for _, y in labels] for _, s in samples])
    n, r = table.shape
    if rule.name in ("flow-ssn", "d-persona"):
        short, wide = (table.T, n) if r <= n else (table, r)
        return max(short[range(len(short)), order].mean() for order in permutations(range(wide), len(short)))
    if rule.name.startswith("mose"):
        u, v = (np.array([w for w, _ in side], float) for side in (samples, labels))
        sums = [np.kron(np.eye(n)[i], np.ones(r)) for i in range(n)] + [
            np.kron(np.ones(n), np.eye(r)[j]) for j in range(r)
        ]
        found = linprog(-table.ravel(), A_eq=np.array(sums), b_eq=np.concatenate([u / u.sum(), v / v.sum()]))
        return -found.fun
    size = lcm(n, r)
    rows = [table[i // (size // n)] for i in range(size)]
    columns = [j // (size // r) for j in range(size)]
    return max(sum(row[j] for row, j in zip(rows, order, strict=True)) for order in set(permutations(columns))) / size


def drawn_maps(seed, count, classes, empty=0.3, size=(3, 4)):
    g = np.random.default_rng(seed)
    maps = g.integers(0, classes, (count, *size)).astype(np.uint8)
    maps[g.random(count) < empty] = 0
    return torch.from_numpy(maps)


WITHOUT_FLIPS = [name for name, rule in CONVENTIONS.items() if rule.counted != "flips"]


@pytest.mark.parametrize("name", WITHOUT_FLIPS)
@pytest.mark.parametrize(("classes", "ignore"), [(2, None), (4, 3)])
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 4), r=st.integers(1, 3))
def test_each_convention_is_its_slow_reading(name, classes, ignore, seed, n, r):
    rule = get_convention(name)
    n = n * r if rule.matching == "repeat" else n
    if n * r > 8:
        n = r
    samples, labels = drawn_maps(seed, n, classes), drawn_maps(seed + 1, r, classes)
    ids = [c for c in range(1, classes) if c != ignore]
    out = ignored(labels, ignore)
    ours, theirs = [(1.0, s) for s in samples], [(1.0, y) for y in labels]
    ged = metrics.generalized_energy_distance(samples[None], labels[None], classes, name, ignore)
    assert ged.item() == pytest.approx(slow_ged(ours, theirs, rule, ids, out), abs=1e-12)
    if rule.matching == "none":
        with pytest.raises(InputError, match=f"'{name}' has no matched IoU"):
            metrics.hungarian_iou(samples[None], labels[None], classes, name, ignore)
        return
    hm_iou = metrics.hungarian_iou(samples[None], labels[None], classes, name, ignore)
    assert hm_iou.item() == pytest.approx(slow_matched(ours, theirs, rule, ids, out), abs=1e-9)


@pytest.mark.parametrize("statistic", ["V", "U"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 4), r=st.integers(2, 3))
def test_weights_are_those_of_the_slow_reading(statistic, seed, n, r):
    samples, labels = drawn_maps(seed, n, 3), drawn_maps(seed + 1, r, 3)
    g = np.random.default_rng(seed)
    u, v = g.random(n) + 0.01, g.random(r) + 0.01
    ours, theirs = list(zip(u, samples, strict=True)), list(zip(v, labels, strict=True))
    weights = {"sample_weights": torch.from_numpy(u), "label_weights": torch.from_numpy(v)[None]}
    rule = get_convention("mose")
    ged = metrics.generalized_energy_distance(samples[None], labels[None], 3, "mose", None, statistic, **weights)
    assert ged.item() == pytest.approx(slow_ged(ours, theirs, rule, [1, 2], set(), statistic), abs=1e-12)
    hm_iou = metrics.hungarian_iou(samples[None], labels[None], 3, "mose", **weights)
    assert hm_iou.item() == pytest.approx(slow_matched(ours, theirs, rule, [1, 2], set()), abs=1e-9)


def test_whole_weights_are_repeated_maps():
    samples, labels = drawn_maps(3, 3, 2)[None], drawn_maps(4, 2, 2)[None]
    times, of_labels = torch.tensor([1, 2, 3]), torch.tensor([2, 1])
    again = samples.repeat_interleave(times, 1), labels.repeat_interleave(of_labels, 1)
    weights = {"sample_weights": times, "label_weights": of_labels}
    torch.testing.assert_close(
        metrics.generalized_energy_distance(samples, labels, convention="mose", **weights),
        metrics.generalized_energy_distance(*again, convention="mose"),
    )
    torch.testing.assert_close(
        metrics.hungarian_iou(samples, labels, convention="mose", **weights),
        metrics.hungarian_iou(*again, convention="mose"),
    )


def test_equal_weights_transport_as_the_least_common_multiple_does():
    samples, labels = drawn_maps(5, 6, 2)[None], drawn_maps(6, 4, 2)[None]
    nearly = 1 + 1e-12 * torch.arange(6, dtype=torch.float64)  # not equal: the linear program
    by_plan = metrics.hungarian_iou(samples, labels, convention="mose", sample_weights=nearly)
    torch.testing.assert_close(by_plan, metrics.hungarian_iou(samples, labels, convention="ccdm"))


def test_a_label_of_weight_0_is_a_missing_one():
    samples, labels = drawn_maps(7, 4, 3)[None], drawn_maps(8, 3, 3)[None]
    gone = labels.clone()
    gone[:, 1] = 255
    some = torch.tensor([1.0, 0.0, 1.0])
    for score in (metrics.generalized_energy_distance, metrics.hungarian_iou):
        with_weights = score(samples, labels, 3, "mose", label_weights=some)
        torch.testing.assert_close(with_weights, score(samples, gone, 3, "mose"))


def test_ssn_scores_the_first_20_samples():
    samples, labels = drawn_maps(9, 24, 2)[None], drawn_maps(10, 2, 2)[None]
    first = metrics.generalized_energy_distance(samples[:, :20], labels, convention="phiseg")
    torch.testing.assert_close(metrics.generalized_energy_distance(samples, labels, convention="ssn"), first)
    weights = torch.rand(24, dtype=torch.float64)
    cut = metrics.generalized_energy_distance(samples[:, :20], labels, convention="phiseg", sample_weights=weights[:20])
    torch.testing.assert_close(
        metrics.generalized_energy_distance(samples, labels, convention="ssn", sample_weights=weights), cut
    )


def test_all_empty_sets_in_every_convention():
    empty = torch.zeros(1, 4, 3, 3, dtype=torch.uint8)
    for name in WITHOUT_FLIPS:
        assert metrics.generalized_energy_distance(empty, empty, convention=name).tolist() == [0.0]
        if get_convention(name).matching != "none":
            assert metrics.hungarian_iou(empty, empty, convention=name).tolist() == [1.0]
    left_out = replace(get_convention("ccdm"), absent="left out")
    assert metrics.generalized_energy_distance(empty, empty, convention=left_out).isnan().all()
    assert metrics.hungarian_iou(empty, empty, convention=left_out).isnan().all()


def test_empty_against_something_by_hand():
    """d-persona puts empty maps a distance 1 from themselves; values pools to nothing in common."""
    empty, full = torch.zeros(1, 2, 2, 2, dtype=torch.uint8), torch.ones(1, 2, 2, 2, dtype=torch.uint8)
    score = metrics.generalized_energy_distance
    assert score(empty, full, convention="car").item() == 2  # 2 * 1 - 0 - 0
    assert score(empty, full, convention="d-persona").item() == 1  # 2 * 1 - 1 - 0
    assert score(empty, full, convention="values").item() == 1  # the Dice of nothing is 0


def test_a_sample_without_counted_classes_does_not_undo_an_image():
    """Where the source would drop the image, a model that paints nothing would have its worst images left out."""
    rule = replace(get_convention("ccdm"), absent="left out")
    empty, full = torch.zeros(1, 2, 2, 2, dtype=torch.uint8), torch.ones(1, 2, 2, 2, dtype=torch.uint8)
    assert metrics.generalized_energy_distance(empty, full, convention=rule).tolist() == [2.0]
    assert metrics.generalized_energy_distance(full, empty, convention=rule).isnan().all()


# Classes that flip


def modes_of(label, flips):
    """All 2^m maps with their probabilities, built one by one."""
    for bits in product([0, 1], repeat=len(flips)):
        mode, probability = label.clone(), 1.0
        for bit, (source, target, p) in zip(bits, flips, strict=True):
            probability *= p if bit else 1 - p
            if bit:
                mode[label == source] = target
        yield probability, mode


@pytest.mark.parametrize("name", ["car-cityscapes", "kohl", "mose", "phiseg"])
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 3), statistic=st.sampled_from(["V", "U"]))
def test_flips_are_the_sum_over_all_modes(name, seed, n, statistic):
    label, samples = drawn_maps(seed, 1, CLASSES, empty=0)[0], drawn_maps(seed + 1, n, CLASSES)
    label[label == 1 + seed % 2] = 0  # one of the flipping classes is absent
    rule = get_convention(name, flips=True)
    ids = [1, 2, 3, 4]
    out = ignored(label[None], IGNORE)
    modes = list(modes_of(label, FLIPS))
    absent = 1.0 if name == "phiseg" else "left out"
    ours = [(1.0, s) for s in samples]
    d = lambda a, b: 1 - similarity(a, b, ids, out, "iou", absent)  # noqa: E731
    expected = (
        2 * weighted(ours, modes, d, False)
        - weighted(ours, ours, d, statistic == "U")
        - weighted(modes, modes, d, False)
    )
    arguments = (samples[None], label[None, None], CLASSES, name, IGNORE)
    ged = metrics.generalized_energy_distance(*arguments, statistic, flips=FLIPS)
    held = any(pixels(label, c, out) for c in ids)
    assert ged.item() == pytest.approx(expected, abs=1e-12) if held else ged.isnan().all()
    if name == "mose" and held:
        matched = metrics.hungarian_iou(*arguments, flips=FLIPS)
        assert matched.item() == pytest.approx(slow_matched(ours, modes, rule, ids, out), abs=1e-9)


def test_flips_with_all_classes_counted_and_one_that_cannot_flip():
    """Class 0 too, and a flip whose classes do not count, must change nothing."""
    label, samples = drawn_maps(1, 1, CLASSES, empty=0)[0], drawn_maps(2, 3, CLASSES)
    rule = replace(get_convention("phiseg"), counted=(0, 1, 3))
    modes = list(modes_of(label, FLIPS))
    ours = [(1.0, s) for s in samples]
    d = lambda a, b: 1 - similarity(a, b, (0, 1, 3), set(), "iou", 1.0)  # noqa: E731
    expected = 2 * weighted(ours, modes, d, False) - weighted(ours, ours, d, False) - weighted(modes, modes, d, False)
    found = metrics.generalized_energy_distance(samples[None], label[None, None], CLASSES, rule, flips=FLIPS)
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_a_batch_reports_the_images_without_any_flipping_class():
    label = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    label[0, 0, 0], label[2, 0, 1] = 1, IGNORE
    ged = metrics.generalized_energy_distance(label, label, CLASSES, "kohl", IGNORE, flips=FLIPS)
    assert ged.isnan().tolist() == [False, True, True]


def test_flips_of_the_official_code():
    if not PARITY.is_file():
        pytest.skip(f"needs the numbers of the official code in {PARITY.name}")
    with np.load(PARITY) as official:
        table = zip(*(official[key].tolist() for key in ("from_classes", "to_classes", "flip_probs")), strict=True)
        samples, label = torch.from_numpy(official["samples"]), torch.from_numpy(official["label"])[:, None]
        flips = list(table)
        for name in ("car", "car-cityscapes"):
            parts = metrics.energy_distance_parts(samples, label, 25, name, ignore=24, flips=flips)
            np.testing.assert_allclose(parts.ged, official["ged"], atol=1e-6)
            np.testing.assert_allclose(parts.d_ys, official["d_ys"], atol=1e-6)
            np.testing.assert_allclose(parts.d_ss, official["d_ss"], atol=1e-6)


def test_draws_from_the_modes_score_their_expectation():
    """n draws from the truth: E GED is d_yy / n, the line that a perfect model reaches."""
    label = drawn_maps(11, 1, CLASSES, empty=0, size=(8, 8))
    probabilities, modes = zip(*modes_of(label[0], FLIPS), strict=True)
    g = torch.Generator().manual_seed(0)
    picks = torch.multinomial(torch.tensor(probabilities), 500 * 8, replacement=True, generator=g).view(500, 8)
    samples = torch.stack(modes)[picks]
    arguments = (CLASSES, "car-cityscapes", IGNORE)
    found = metrics.generalized_energy_distance(samples, label[None].expand(500, 1, 8, 8), *arguments, flips=FLIPS)
    expected = metrics.raters_reference(label[None], 8, *arguments, flips=FLIPS).ged.item()
    assert found.mean().item() == pytest.approx(expected, abs=4 * found.std().item() / 500**0.5)
    assert expected > 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flips": None}, "counts the classes that flip; give flips"),
        ({"labels": torch.zeros(1, 2, 3, 4, dtype=torch.uint8)}, "labels hold 2 maps an image; with flips"),
        ({"convention": "values"}, "'values' pools all pairs and knows no flips"),
        ({"flips": [(1, 9, 0.5)]}, "9"),
        ({"flips": [(1, 3, 1.5)]}, "1.5"),
        ({"flips": [(1, 3, 0.5), (3, 4, 0.5)]}, "3"),
        ({"sample_weights": torch.tensor([1.0])}, r"sample_weights have shape \[1\]; give \[2\]"),
        ({"sample_weights": torch.tensor([1.0, -1.0])}, "sample_weights reach from -1"),
        ({"sample_weights": torch.tensor([0.0, 0.0])}, "sample_weights of an image are all 0"),
        ({"sample_weights": torch.tensor([0.0, 1.0]), "statistic": "U"}, "one sample has no other"),
    ],
)
def test_what_cannot_be_scored_says_why(options, message):
    given = {"convention": "kohl", "flips": FLIPS, "labels": torch.ones(1, 1, 3, 4, dtype=torch.uint8)} | options
    with pytest.raises(InputError, match=message):
        metrics.generalized_energy_distance(torch.ones(1, 2, 3, 4, dtype=torch.uint8), classes=CLASSES, **given)


def test_matching_without_weights_says_so():
    label = torch.ones(1, 1, 3, 4, dtype=torch.uint8)
    with pytest.raises(InputError, match="modes of classes that flip have probabilities"):
        metrics.hungarian_iou(label, label, CLASSES, "ccdm", flips=FLIPS)
    maps = drawn_maps(0, 2, 2)[None]
    with pytest.raises(InputError, match="knows no weights; take the convention 'mose'"):
        metrics.hungarian_iou(maps, maps, sample_weights=torch.tensor([1.0, 2.0]))


# What is taken as a map


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.int64])
def test_one_hot_is_what_its_ids_are(dtype):
    samples, labels = drawn_maps(1, 4, 3)[None], drawn_maps(2, 2, 3)[None]
    labels[:, 1] = 255

    def one_hot(maps):
        return torch.stack([maps == c for c in range(3)], 2).to(dtype)

    for score in (metrics.generalized_energy_distance, metrics.hungarian_iou):
        torch.testing.assert_close(score(one_hot(samples), one_hot(labels), 3), score(samples, labels, 3))


def test_masks_of_two_classes_may_be_bool():
    samples, labels = drawn_maps(1, 4, 2)[None], drawn_maps(2, 2, 2)[None]
    same = metrics.generalized_energy_distance(samples.bool(), labels.bool())
    torch.testing.assert_close(same, metrics.generalized_energy_distance(samples, labels))


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (torch.zeros(1, 2, 4, 3, 3), "k=4, classes=3"),
        (torch.full((1, 2, 3, 3, 3), 0.5), "other values than 0 and 1"),
        (torch.ones(1, 2, 3, 3, 3), "no class or several"),
    ],
)
def test_what_is_not_one_hot_says_why(maps, message):
    with pytest.raises(InputError, match=message):
        metrics.generalized_energy_distance(maps, torch.zeros(1, 2, 3, 3, dtype=torch.uint8), 3)


# What a review found, each once


def test_weights_of_another_length_are_refused():
    samples, labels = drawn_maps(1, 4, 2)[None], drawn_maps(2, 2, 2)[None]
    for weights in ({"sample_weights": torch.ones(7)}, {"label_weights": torch.ones(9)}):
        for score in (metrics.generalized_energy_distance, metrics.hungarian_iou):
            with pytest.raises(InputError, match="_weights have shape"):
                score(samples, labels, convention="mose", **weights)
    with pytest.raises(InputError, match=r"give \[24\] or \[1, 24\]"):
        metrics.generalized_energy_distance(
            drawn_maps(3, 24, 2)[None], labels, convention="ssn", sample_weights=torch.ones(21)
        )


def test_weights_may_be_lists_and_carry_no_gradient():
    samples, labels = drawn_maps(1, 2, 2)[None], drawn_maps(2, 2, 2)[None]
    tensor = torch.tensor([1.0, 3.0], requires_grad=True)
    for score in (metrics.generalized_energy_distance, metrics.hungarian_iou):
        found = score(samples, labels, convention="mose", sample_weights=tensor)
        assert not found.requires_grad
        torch.testing.assert_close(found, score(samples, labels, convention="mose", sample_weights=[1, 3]))


def test_flips_have_no_other_label_weights():
    label = torch.ones(1, 1, 3, 4, dtype=torch.uint8)
    with pytest.raises(InputError, match="label_weights: with flips"):
        metrics.hungarian_iou(label, label, CLASSES, "mose", flips=FLIPS, label_weights=torch.ones(4))


def test_many_flips_are_scored_without_their_modes():
    flips = [(i, 20 + i, 0.3) for i in range(1, 19)]
    label = torch.arange(1, 19, dtype=torch.uint8).view(1, 1, 3, 6)
    parts = metrics.energy_distance_parts(label, label, 40, "mose", flips=flips)
    assert 0 < parts.ged.item() < 1
    with pytest.raises(InputError, match="18 flips have"):
        metrics.hungarian_iou(label, label, 40, "mose", flips=flips)


def test_ssn_with_flips_takes_the_first_20_samples():
    label, samples = drawn_maps(1, 1, CLASSES, empty=0)[None], drawn_maps(2, 24, CLASSES)[None]
    found = metrics.energy_distance_parts(samples, label, CLASSES, "ssn", flips=FLIPS)
    torch.testing.assert_close(
        found, metrics.energy_distance_parts(samples[:, :20], label, CLASSES, "phiseg", flips=FLIPS)
    )


def test_rectangular_matching_leaves_missing_raters_out():
    samples, labels = drawn_maps(1, 3, 2)[None], drawn_maps(2, 4, 2)[None]
    gone = labels.clone()
    gone[:, [0, 2]] = 255
    found = metrics.hungarian_iou(samples, gone, convention="flow-ssn")
    torch.testing.assert_close(found, metrics.hungarian_iou(samples, labels[:, [1, 3]], convention="flow-ssn"))


def test_a_large_common_multiple_is_transported():
    """97 and 31 repeat to 3,007: the same score as optimal transport, in no time."""
    samples, labels = drawn_maps(1, 97, 2)[None], drawn_maps(2, 31, 2)[None]
    found = metrics.hungarian_iou(samples, labels, convention="ccdm").item()
    table = metrics.pairwise_iou(samples, labels)[0].numpy()
    rule = get_convention("mose")
    ours, theirs = [(1.0, s) for s in samples[0]], [(1.0, y) for y in labels[0]]
    assert table.shape == (97, 31)
    assert found == pytest.approx(slow_matched(ours, theirs, rule, [1], set()), abs=1e-9)


def test_the_raters_line_of_flips_and_of_few_samples():
    label = drawn_maps(11, 1, CLASSES, empty=0, size=(8, 8))[None]
    d_yy = metrics.energy_distance_parts(label, label, CLASSES, "kohl", IGNORE, flips=FLIPS).d_yy
    torch.testing.assert_close(metrics.raters_reference(label, 8, CLASSES, "kohl", IGNORE, flips=FLIPS).ged, d_yy / 8)
    labels = drawn_maps(12, 4, 2)[None]
    most = metrics.raters_reference(labels, 20, convention="phiseg").ged
    torch.testing.assert_close(metrics.raters_reference(labels, 50, convention="ssn").ged, most)


def test_the_raters_line_where_empty_maps_are_apart():
    """d-persona: two empty raters have distance 1, to themselves too, so draws from them score 0."""
    empty = torch.zeros(1, 4, 3, 3, dtype=torch.uint8)
    ged, hm_iou = metrics.raters_reference(empty, 16, convention="d-persona")
    assert ged.tolist() == [0.0]
    assert hm_iou.tolist() == [1.0]  # matched by Dice, where two empty maps agree


def test_pooling_one_sample_has_no_diversity():
    samples, labels = drawn_maps(1, 1, 2)[None], drawn_maps(2, 2, 2)[None]
    assert metrics.energy_distance_parts(samples, labels, convention="values").diversity.isnan().all()


def test_only_the_class_that_another_turns_into_may_count():
    label = torch.ones(1, 1, 3, 4, dtype=torch.uint8)  # class 1 alone, which becomes 3 in a quarter of the modes
    rule = replace(get_convention("kohl"), counted=(3,))
    found = metrics.energy_distance_parts(label, label, CLASSES, rule, flips=FLIPS)
    assert found.d_ys.item() == pytest.approx(0.25)
    assert found.d_yy.item() == pytest.approx(2 * 0.25 * 0.75)


def test_a_missing_map_has_no_similarity():
    a, b = drawn_maps(1, 2, 2)[None], drawn_maps(2, 2, 2)[None]
    b[:, 1] = 255
    found = metrics.pairwise_iou(a, b)
    assert found.isnan().tolist() == [[[False, True], [False, True]]]
    torch.testing.assert_close(found[:, :, :1], metrics.pairwise_iou(a, b[:, :1]))


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32])
def test_ids_of_16_bit_images_are_taken(dtype):
    maps = drawn_maps(1, 2, 2)[None]
    same = metrics.generalized_energy_distance(maps.to(dtype), maps)
    torch.testing.assert_close(same, metrics.generalized_energy_distance(maps, maps))


@pytest.mark.parametrize(
    "made",
    [
        lambda: metrics.HungarianIoU(convention="phiseg"),
        lambda: metrics.GeneralizedEnergyDistance(25, "kohl"),
        lambda: metrics.GeneralizedEnergyDistance(6, "values", flips=FLIPS),
        lambda: metrics.GeneralizedEnergyDistance(statistic="W"),
        lambda: metrics.NormalizedCrossCorrelation(floor=2.0),
    ],
)
def test_classes_refuse_what_cannot_be_scored_at_once(made):
    with pytest.raises(InputError):
        made()


def test_a_floor_that_is_no_probability_is_refused():
    q, label = torch.full((1, 2, 1, 1), 0.5), torch.ones(1, 1, 1, 1, dtype=torch.uint8)
    for floor in (0.0, 2.0):
        with pytest.raises(InputError, match="floor is"):
            metrics.negative_log_likelihood(q, label, floor=floor)
