"""Set scores against the official numbers, against a slow implementation by sets of pixels, and by their laws."""

from itertools import permutations
from math import lcm, nan
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from stochseg import metrics
from stochseg.errors import InputError
from stochseg.metrics import distances as distances_module
from stochseg.metrics.conventions import get_convention
from stochseg.scoring.scores import score_maps

PARITY = Path(__file__).parents[1].parent / "shared/reference/parity/metrics_lidc.npz"


# The slow implementation: one image, maps as nested lists, pixels as sets of coordinates.


def slow_pixels(one: Tensor, c: int, left_out: set[tuple[int, int]]) -> set[tuple[int, int]]:
    found = {(y, x) for y, row in enumerate(one.tolist()) for x, value in enumerate(row) if value == c}
    return found - left_out


def slow_left_out(labels: Tensor, ignore: int | None) -> set[tuple[int, int]]:
    out: set[tuple[int, int]] = set()
    for one in labels:
        out |= slow_pixels(one, -1 if ignore is None else ignore, set())
    return out


def slow_similarity(a, b, ids, left_out, absent=1.0, dice=False) -> float:
    scores = []
    for c in ids:
        in_a, in_b = slow_pixels(a, c, left_out), slow_pixels(b, c, left_out)
        if in_a | in_b:
            both, either = len(in_a & in_b), len(in_a | in_b)
            scores.append(2 * both / (len(in_a) + len(in_b)) if dice else both / either)
        elif absent != "left out":
            scores.append(absent)
    return sum(scores) / len(scores) if scores else float("nan")


def slow_parts(samples, labels, classes, ignore=None, statistic="V") -> tuple[float, float, float, float]:
    labels = [y for y in labels if not (y == 255).all()]
    left_out = slow_left_out(labels, ignore)
    if len(left_out) == labels[0].numel():
        return (nan,) * 4
    ids = [c for c in range(1, classes) if c != ignore]

    def mean_distance(ours, theirs, distinct=False):
        found = [
            1 - slow_similarity(a, b, ids, left_out)
            for i, a in enumerate(ours)
            for j, b in enumerate(theirs)
            if not (distinct and i == j)
        ]
        return sum(found) / len(found)

    u = statistic == "U"
    d_ys = mean_distance(samples, labels)
    d_ss, d_yy = mean_distance(samples, samples, u), mean_distance(labels, labels, u)
    return 2 * d_ys - d_ss - d_yy, d_ys, d_ss, d_yy


def slow_hungarian(samples, labels, classes, ignore=None) -> float:
    labels = [y for y in labels if not (y == 255).all()]
    left_out = slow_left_out(labels, ignore)
    if len(left_out) == labels[0].numel():
        return nan
    ids = [c for c in range(1, classes) if c != ignore]
    size = lcm(len(samples), len(labels))
    table = [[slow_similarity(s, y, ids, left_out) for y in labels] for s in samples]
    rows = [table[i // (size // len(samples))] for i in range(size)]
    columns = [j // (size // len(labels)) for j in range(size)]
    return max(sum(row[j] for row, j in zip(rows, order, strict=True)) for order in set(permutations(columns))) / size


# What hypothesis draws: small sets of small maps, empty ones often, raters missing now and then.


@st.composite
def maps(draw, count, classes, size):
    kinds = [hnp.arrays(np.uint8, size, elements=st.integers(0, classes - 1)), st.just(np.zeros(size, np.uint8))]
    return torch.from_numpy(np.stack([draw(st.one_of(*kinds)) for _ in range(count)]))


@st.composite
def image_sets(draw, n_min=1, r_min=1, missing=True, scored=True):
    """(samples [1 n h w], labels [1 r h w], classes, ignore), r_min raters present at least; scored: some pixel counts."""
    size = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    classes = draw(st.integers(2, 4))
    ignore = draw(st.sampled_from([None, classes - 1])) if classes > 2 else None
    samples = draw(maps(draw(st.integers(n_min, 4)), classes, size))
    labels = draw(maps(draw(st.integers(r_min, 3)), classes, size))
    gone = draw(st.integers(0, 2)) if missing else 0
    labels = torch.cat([labels, torch.full((gone, *size), 255, dtype=torch.uint8)])
    labels = labels[draw(st.permutations(range(len(labels))))]
    assume(not scored or len(slow_left_out(labels, ignore)) < labels[0].numel())
    return samples[None], labels[None], classes, ignore


# Parity


@pytest.fixture(scope="module")
def official():
    if not PARITY.is_file():
        pytest.skip(f"needs the numbers of the official code in {PARITY.name}")
    with np.load(PARITY) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def test_energy_distance_is_the_official_one(official):
    parts = metrics.energy_distance_parts(official["samples"], official["labels"])
    for name in ("ged", "d_ys", "d_ss"):
        torch.testing.assert_close(getattr(parts, name), official[name].double(), rtol=1e-5, atol=1e-6)


def test_hungarian_iou_is_the_official_one(official):
    found = metrics.hungarian_iou(official["samples"], official["labels"])
    torch.testing.assert_close(found, official["hm_iou"].double(), rtol=1e-5, atol=1e-6)


# The slow implementation


@settings(deadline=None)
@given(image_sets(n_min=2, r_min=2, scored=False), st.sampled_from(["V", "U"]))
def test_energy_distance_agrees_with_sets_of_pixels(drawn, statistic):
    samples, labels, classes, ignore = drawn
    parts = metrics.energy_distance_parts(samples, labels, classes, ignore=ignore, statistic=statistic)
    slow = slow_parts(samples[0], labels[0], classes, ignore, statistic)
    assert [float(p) for p in parts[:4]] == pytest.approx(slow, abs=1e-12, nan_ok=True)
    distinct = slow_parts(samples[0], labels[0], classes, ignore, "U")[2]
    assert float(parts.diversity) == pytest.approx(distinct, abs=1e-12, nan_ok=True)
    assert float(parts.distance_to_labels) == pytest.approx(slow[1], abs=1e-12, nan_ok=True)


@settings(deadline=None, max_examples=60)
@given(image_sets(scored=False))
def test_hungarian_iou_agrees_with_trying_every_pairing(drawn):
    samples, labels, classes, ignore = drawn
    present = int((labels != 255).any(-1).any(-1).sum())
    if lcm(samples.shape[1], present) > 6:
        samples = samples[:, :2]
    found = metrics.hungarian_iou(samples, labels, classes, "ccdm", ignore)
    assert float(found) == pytest.approx(slow_hungarian(samples[0], labels[0], classes, ignore), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("absent", [1.0, 0.0, "left out"])
@pytest.mark.parametrize("dice", [False, True])
def test_pairwise_scores_agree_with_sets_of_pixels(absent, dice):
    generator = torch.Generator().manual_seed(3)
    a = torch.randint(0, 5, (2, 3, 4, 2), generator=generator)
    b = torch.randint(0, 5, (2, 4, 4, 2), generator=generator)
    a[0, 0], b[0, 0] = 0, 0
    score = metrics.pairwise_dice if dice else metrics.pairwise_iou
    found = score(a, b, [1, 3], ignore=4, absent=absent)
    assert found.shape == (2, 3, 4)
    slow = [
        [[slow_similarity(x, y, [1, 3], slow_left_out(b[i], 4), absent, dice) for y in b[i]] for x in a[i]]
        for i in range(2)
    ]
    torch.testing.assert_close(found, torch.tensor(slow, dtype=torch.float64), equal_nan=True)
    assert found.isnan().any() == (absent == "left out")


def test_all_classes_but_the_background_are_the_default():
    a, b = torch.randint(0, 4, (2, 1, 3, 8, 8), generator=torch.Generator().manual_seed(0)).unbind()
    assert torch.equal(metrics.pairwise_iou(a, b, 4), metrics.pairwise_iou(a, b, [1, 2, 3]))


# Known answers


def test_one_sample_among_two_raters_by_hand():
    samples = torch.tensor([[[[1, 1, 0, 0]]]])
    labels = torch.tensor([[[[1, 0, 0, 0]], [[0, 1, 1, 0]]]])  # IoU 1/2, 1/3; between them 0
    parts = metrics.energy_distance_parts(samples, labels)
    assert parts.d_ys.item() == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert parts.d_ss.item() == 0
    assert parts.d_yy.item() == pytest.approx(1 / 2)
    assert parts.ged.item() == pytest.approx(2 * (7 / 12) - 1 / 2)
    assert parts.diversity.isnan().all()


def test_mean_over_classes_of_three():
    sample, label = torch.tensor([[[[1, 1, 2, 0]]]]), torch.tensor([[[[1, 0, 0, 0]]]])
    assert metrics.pairwise_iou(sample, label, 3).item() == pytest.approx((1 / 2 + 0) / 2)
    assert metrics.pairwise_iou(sample, label, 4).item() == pytest.approx((1 / 2 + 0 + 1) / 3)


def test_all_empty_is_perfect():
    empty = torch.zeros(2, 4, 5, 6, dtype=torch.uint8)
    assert metrics.generalized_energy_distance(empty, empty).tolist() == [0, 0]
    assert metrics.hungarian_iou(empty, empty).tolist() == [1, 1]


def test_an_ignored_pixel_counts_nowhere():
    labels = torch.tensor([[[[1, 2, 2, 0]], [[1, 2, 2, 1]]]])
    right, wrong = torch.tensor([[[[1, 0, 0, 0]], [[1, 1, 2, 1]]]]), torch.tensor([[[[1, 1, 1, 0]], [[1, 2, 2, 1]]]])
    assert metrics.generalized_energy_distance(right, labels, 3, ignore=2).item() == 0
    assert metrics.generalized_energy_distance(wrong, labels, 3, ignore=2).item() == 0
    assert metrics.hungarian_iou(right, labels, 3, ignore=2).item() == 1
    assert metrics.generalized_energy_distance(right, labels, 3).item() > 0


def test_a_pixel_that_one_rater_ignores_is_left_out_for_all():
    labels = torch.tensor([[[[1, 2]], [[1, 1]]]])
    samples = torch.tensor([[[[1, 0]], [[1, 1]]]])
    parts = metrics.energy_distance_parts(samples, labels, 3, ignore=2)
    assert (parts.ged.item(), parts.d_yy.item(), parts.d_ss.item()) == (0, 0, 0)


@pytest.mark.parametrize("convention", ["car", "ccdm", "d-persona"])
def test_an_image_of_ignored_pixels_alone_has_no_score(convention):
    labels = torch.tensor(
        [[[[2, 2]], [[1, 2]]], [[[2, 1]], [[0, 2]]]]
    )  # the second image too: of each pixel one says so
    labels = torch.cat([labels, torch.tensor([[[[1, 0]], [[1, 1]]]])])
    samples = torch.tensor([[[0, 1]], [[1, 1]]]).expand(3, 2, 1, 2)
    scores = score_maps(samples, labels, 3, get_convention(convention), ignore=2)
    for name, values in scores.items():
        assert values.isnan().tolist() == [True, True, False], name
    flipping = metrics.generalized_energy_distance(
        samples, labels[:, :1] + labels[:, :1] // 2, 4, "ccdm", ignore=3, flips=[(1, 2, 0.5)]
    )
    assert flipping.isnan().tolist() == [True, False, False]


def test_missing_raters_leave_a_number_that_does_not_divide_the_samples():
    samples = torch.tensor([[[[1, 0, 0]], [[1, 0, 0]], [[0, 1, 0]], [[0, 0, 1]]]])
    labels = torch.stack([samples[0, 0], samples[0, 2], samples[0, 3], torch.full((1, 3), 255)])[None]
    # 12 against 12: 4 of each label; the first label meets 4 of the 6 copies, the others 3 each of their 4
    assert metrics.hungarian_iou(samples, labels).item() == pytest.approx(10 / 12)


# Laws


@settings(deadline=None)
@given(image_sets(), st.data())
def test_the_order_of_samples_and_raters_is_irrelevant(drawn, data):
    samples, labels, classes, ignore = drawn
    shuffled = (
        samples[:, data.draw(st.permutations(range(samples.shape[1])))],
        labels[:, data.draw(st.permutations(range(labels.shape[1])))],
    )
    for score in (metrics.generalized_energy_distance, metrics.hungarian_iou):
        torch.testing.assert_close(
            score(*shuffled, classes, "ccdm", ignore), score(samples, labels, classes, "ccdm", ignore)
        )


@settings(deadline=None)
@given(image_sets(missing=False), st.data())
def test_renaming_foreground_classes_is_irrelevant(drawn, data):
    samples, labels, classes, _ = drawn
    names = torch.tensor([0, *data.draw(st.permutations(range(1, classes)))])
    renamed = names[samples.long()], names[labels.long()]
    for score in (metrics.generalized_energy_distance, metrics.hungarian_iou):
        torch.testing.assert_close(score(*renamed, classes, "ccdm"), score(samples, labels, classes, "ccdm"))


@settings(deadline=None)
@given(image_sets())
def test_missing_raters_are_the_same_as_none(drawn):
    samples, labels, classes, ignore = drawn
    there = labels[:, (labels[0] != 255).any(-1).any(-1)]
    ours = metrics.energy_distance_parts(samples, labels, classes, ignore=ignore)
    torch.testing.assert_close(
        ours, metrics.energy_distance_parts(samples, there, classes, ignore=ignore), equal_nan=True
    )
    torch.testing.assert_close(
        metrics.hungarian_iou(samples, labels, classes, "ccdm", ignore),
        metrics.hungarian_iou(samples, there, classes, "ccdm", ignore),
    )


@settings(deadline=None)
@given(image_sets(missing=False))
def test_a_set_is_at_no_distance_from_itself(drawn):
    samples, _, classes, ignore = drawn
    assume(len(slow_left_out(samples[0], ignore)) < samples[0, 0].numel())
    assert metrics.generalized_energy_distance(samples, samples, classes, ignore=ignore).item() == pytest.approx(
        0, abs=1e-12
    )
    assert metrics.hungarian_iou(samples, samples, classes, ignore=ignore).item() == pytest.approx(1)


@settings(deadline=None)
@given(image_sets())
def test_bounds(drawn):
    samples, labels, classes, ignore = drawn
    parts = metrics.energy_distance_parts(samples, labels, classes, ignore=ignore)
    assert -1e-12 <= parts.ged.item() <= 2
    assert all(0 <= p.item() <= 1 for p in parts[1:4])
    matched = metrics.hungarian_iou(samples, labels, classes, "ccdm", ignore).item()
    assert 1 - parts.d_ys.item() - 1e-12 <= matched <= 1 + 1e-12  # the best pairing is no worse than pairing blindly


@settings(deadline=None)
@given(image_sets(n_min=2, r_min=2))
def test_v_is_u_plus_the_share_of_self_pairs(drawn):
    samples, labels, classes, ignore = drawn
    v, u = (
        metrics.energy_distance_parts(samples, labels, classes, ignore=ignore, statistic=statistic)
        for statistic in ("V", "U")
    )
    n, r = samples.shape[1], int((labels != 255).any(-1).any(-1).sum())
    assert v.ged.item() == pytest.approx((u.ged + u.d_ss / n + u.d_yy / r).item(), abs=1e-12)
    assert v.ged.item() == pytest.approx((u.ged + v.d_ss / (n - 1) + v.d_yy / (r - 1)).item(), abs=1e-12)


def test_images_of_a_batch_are_scored_alone():
    generator = torch.Generator().manual_seed(1)
    samples = torch.randint(0, 3, (5, 6, 9, 7), generator=generator)
    labels = torch.randint(0, 3, (5, 3, 9, 7), generator=generator)
    labels[2, 1] = 255
    for score in (metrics.generalized_energy_distance, metrics.hungarian_iou):
        alone = torch.cat([score(samples[i : i + 1], labels[i : i + 1], 3) for i in range(5)])
        assert torch.equal(score(samples, labels, 3), alone)


# Exactness


@pytest.mark.parametrize("dtype", [torch.int64, torch.int16, torch.int8, torch.bool])
def test_the_integer_type_is_irrelevant(dtype):
    samples = torch.randint(0, 2, (2, 4, 6, 6), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    labels = samples.flip(-1)[:, :2]
    expected = metrics.generalized_energy_distance(samples, labels)
    assert torch.equal(metrics.generalized_energy_distance(samples.to(dtype), labels.to(dtype)), expected)


@pytest.mark.parametrize("elements", [1, 100, 5000])
@pytest.mark.parametrize("density", [0.01, 0.6])
def test_blocks_of_pixels_change_nothing(monkeypatch, elements, density):
    generator = torch.Generator().manual_seed(0)
    samples = (torch.rand(2, 6, 31, 33, generator=generator) < density).to(torch.uint8)
    labels = (torch.rand(2, 3, 31, 33, generator=generator) < density).to(torch.uint8)
    whole = metrics.generalized_energy_distance(samples, labels), metrics.pairwise_iou(samples, labels)
    monkeypatch.setattr(distances_module, "ELEMENTS_AT_ONCE", elements)
    assert torch.equal(metrics.generalized_energy_distance(samples, labels), whole[0])
    assert torch.equal(metrics.pairwise_iou(samples, labels), whole[1])


@pytest.mark.parametrize("packed_from", [1, 1 << 40])
def test_counts_are_exact_where_products_may_be_low_precision(monkeypatch, packed_from):
    monkeypatch.setattr(distances_module, "PACKED_FROM", packed_from)
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(1, 3, 200, 200, generator=generator) < 0.7
    b = torch.rand(1, 2, 200, 200, generator=generator) < 0.7
    x, y = a.numpy()[:, :, None], b.numpy()[:, None]
    exact = torch.from_numpy((x & y).sum((-1, -2)) / (x | y).sum((-1, -2)))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(metrics.pairwise_iou(a, b), exact)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_numbers():
    generator = torch.Generator().manual_seed(0)
    samples = torch.randint(0, 3, (3, 8, 64, 64), generator=generator)
    labels = torch.randint(0, 3, (3, 4, 64, 64), generator=generator)
    for score in (metrics.generalized_energy_distance, metrics.hungarian_iou):
        on_gpu = score(samples.cuda(), labels.cuda(), 3)
        assert on_gpu.device.type == "cuda"
        torch.testing.assert_close(on_gpu.cpu(), score(samples, labels, 3))


# What cannot be scored

ONE = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
TWO = torch.zeros(1, 2, 2, 2, dtype=torch.uint8)
NOBODY = torch.full((1, 2, 2, 2), 255, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("samples", "labels", "options", "message"),
    [
        (ONE, TWO, {"statistic": "U"}, "one sample has no other"),
        (TWO, ONE, {"statistic": "U"}, "one rater alone"),
        (TWO, torch.cat([TWO[:, :1], NOBODY[:, :1]], 1), {"statistic": "U"}, "one rater alone"),
        (TWO, TWO, {"statistic": "W"}, "statistic is 'W'"),
        (TWO, NOBODY, {}, "no rater"),
        (TWO, TWO, {"convention": "cra"}, "'cra' is not known; choose one of car, car-city"),
        (TWO + 2, TWO, {}, "samples hold class 2, classes=2 takes 0 to 1"),
        (TWO, TWO + 2, {}, "labels hold class 2, classes=2 takes 0 to 1"),
        (TWO, torch.tensor([[[[255, 0], [0, 0]]]]), {}, "labels hold class 255"),
        (NOBODY, TWO, {}, "samples hold class 255"),
        (TWO.float(), TWO, {}, "samples are torch.float32"),
        (TWO.long() - 1, TWO, {}, "samples hold ids -1 to -1"),
        (TWO, TWO.numpy(), {}, "labels are ndarray"),
        (TWO[0], TWO, {}, r"samples have shape \[2, 2, 2\]"),
        (TWO[:, :0], TWO, {}, r"samples have shape \[1, 0, 2, 2\]"),
        (TWO, TWO[..., :1], {}, "must agree in b, h and w"),
        (TWO, TWO, {"classes": 1}, "classes is 1"),
        (TWO, TWO, {"classes": 2, "ignore": 1}, "leaves no class to score"),
        (TWO, TWO, {"classes": 3, "ignore": 3}, "ignore is 3"),
    ],
)
def test_what_cannot_be_scored_says_why(samples, labels, options, message):
    with pytest.raises(InputError, match=message) as error:
        metrics.generalized_energy_distance(samples, labels, **options)
    assert "\n" not in str(error.value)


def test_matching_names_the_convention_that_fits():
    samples, labels = torch.zeros(1, 6, 2, 2, dtype=torch.uint8), torch.zeros(1, 4, 2, 2, dtype=torch.uint8)
    with pytest.raises(InputError, match=r"6 samples are no multiple of 4 labels; draw 4 or 8 samples, .* 'ccdm'"):
        metrics.hungarian_iou(samples, labels)
    assert metrics.hungarian_iou(samples, labels, convention="ccdm").item() == 1


def test_a_convention_of_ones_own():
    own = metrics.Convention("second class only", "made here", counted=(2,), statistic="U")
    samples = torch.tensor([[[[1, 2]], [[1, 0]]]])
    labels = torch.tensor([[[[2, 2]], [[0, 2]]]])
    found = metrics.energy_distance_parts(samples, labels, 3, convention=own)
    assert found.d_ys.item() == pytest.approx((1 / 2 + 0 + 1 + 1) / 4)
    assert found.d_ss.item() == 1
    with pytest.raises(InputError, match="counts class 2, classes=2"):
        metrics.generalized_energy_distance(samples[..., :1], labels[..., :1] // 2, 2, convention=own)


@pytest.mark.parametrize("size", [(1, 1), (5, 13), (8, 8), (11, 17)])
def test_packed_bits_and_products_count_alike(monkeypatch, size):
    g = torch.Generator().manual_seed(size[0])
    samples = torch.randint(0, 3, (2, 5, *size), generator=g, dtype=torch.uint8)
    labels = torch.randint(0, 3, (2, 2, *size), generator=g, dtype=torch.uint8)
    by_product = [metrics.set_distances(samples, labels, 3).ss, metrics.pairwise_iou(samples, labels, 3)]
    monkeypatch.setattr(distances_module, "PACKED_FROM", 1)
    by_bits = [metrics.set_distances(samples, labels, 3).ss, metrics.pairwise_iou(samples, labels, 3)]
    assert all(torch.equal(one, other) for one, other in zip(by_product, by_bits, strict=True))
