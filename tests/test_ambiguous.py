"""The generated data: its stated distribution is the one its raters follow, and it can be read off the image."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage, stats

from stochseg.data import ambiguous
from stochseg.data.ambiguous import CUES, MODES, ambiguous_image, draw_from_modes, mode_probabilities, prepare_ambiguous
from stochseg.data.store import Store, open_store
from stochseg.errors import InputError

SIZE = 64
RATERS = 4


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    out = tmp_path_factory.mktemp("ambiguous") / "store"
    assert prepare_ambiguous(out, images=400, val=6, test=5, seed=3) == out
    return open_store(out, verify=True)


@pytest.fixture(scope="module")
def probabilities(store: Store) -> np.ndarray:
    return np.asarray(store.split("train").extras["mode_probabilities"], dtype=np.float64)


@pytest.fixture(scope="module")
def modes(store: Store) -> np.ndarray:
    return np.asarray(store.split("train").extras["modes"])


def slow_probabilities(contrast: float, halo: float, lobe: float) -> list[float]:
    """The documented rule, written out mode by mode."""
    present = 1 / (1 + np.exp(-(contrast - 0.27) / 0.10))
    a, b = (halo - 0.50) / 0.18, (lobe - 0.82) / 0.18
    weights = [1.0, 0.0, 0.0, 0.0]
    if halo > 0:
        weights[1] = np.exp(a)
    if lobe > 0:
        weights[2] = np.exp(b)
    if halo > 0 and lobe > 0:
        weights[3] = np.exp(a + b + 1)
    return [1 - present] + [present * w / sum(weights) for w in weights]


def rater_counts(store: Store, modes: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """How many raters of each image drew each mode, int [N m]; every label must be one of the possible modes."""
    labels = np.asarray(store.split("train").labels)
    same = (labels[:, :, None] == modes[:, None]).all(axis=(3, 4)) & (probabilities > 0)[:, None]
    assert (same.sum(axis=2) == 1).all()
    return same.sum(axis=1)


def test_store_has_the_splits_shapes_and_notes(store: Store) -> None:
    assert {name: len(split) for name, split in store.splits.items()} == {"train": 400, "val": 6, "test": 5}
    train = store.split("train")
    assert train.images.shape == (400, SIZE, SIZE, 1)
    assert train.labels.shape == (400, RATERS, SIZE, SIZE)
    assert train.extras["modes"].shape == (400, len(MODES), SIZE, SIZE)
    assert train.extras["mode_probabilities"].dtype == np.float32
    assert store.notes["modes"] == list(MODES)
    assert store.notes["cues"] == list(CUES)


def test_no_case_is_in_two_splits(store: Store) -> None:
    groups = [set(split.groups) for split in store.splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 411


def test_probabilities_sum_to_one(probabilities: np.ndarray) -> None:
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert (probabilities >= 0).all()


def test_possible_modes_differ_and_impossible_ones_are_empty(modes: np.ndarray, probabilities: np.ndarray) -> None:
    for maps, p in zip(modes, probabilities, strict=True):
        possible = maps[p > 0]
        assert len({m.tobytes() for m in possible}) == len(possible)
        assert not maps[p == 0].any()
        assert not maps[0].any()


def test_modes_cover_enough_of_the_image(modes: np.ndarray, probabilities: np.ndarray) -> None:
    marked = modes.mean(axis=(2, 3))[:, 1:][probabilities[:, 1:] > 0]
    assert marked.min() >= 0.15
    assert marked.max() <= 0.65


def test_images_are_truly_ambiguous(probabilities: np.ndarray) -> None:
    assert ((probabilities > 0.05).sum(axis=1) >= 4).mean() > 0.6
    assert np.median(probabilities.max(axis=1)) < 0.6
    assert 0.20 < probabilities[:, 0].mean() < 0.35


def test_rule_against_the_formula_written_out() -> None:
    cues = np.array([[0.2, 0.3, 0.6], [0.5, 0.6, 1.0], [0.27, 0.0, 0.82], [0.4, 0.5, 0.0]])
    np.testing.assert_allclose(mode_probabilities(cues), [slow_probabilities(*c) for c in cues], rtol=1e-12)
    np.testing.assert_allclose(mode_probabilities(cues[2]), [0.5, 0.25, 0, 0.25, 0], rtol=1e-12)


def test_stored_cues_give_the_stored_probabilities(store: Store, probabilities: np.ndarray) -> None:
    cues = np.asarray(store.split("train").extras["cues"], dtype=np.float64)
    np.testing.assert_allclose([slow_probabilities(*c) for c in cues], probabilities, atol=1e-5)


def test_raters_follow_the_probabilities(store: Store, modes: np.ndarray, probabilities: np.ndarray) -> None:
    counts = rater_counts(store, modes, probabilities)
    # Sum over images of multinomials, the last mode left out for it is what remains.
    p = probabilities[:, :-1]
    difference = (counts[:, :-1] - RATERS * p).sum(axis=0)
    covariance = RATERS * (np.diag(p.sum(axis=0)) - p.T @ p)
    assert stats.chi2.sf(difference @ np.linalg.solve(covariance, difference), p.shape[1]) > 1e-3

    # Within bands of equal probability too: right totals could hide raters that ignore the image.
    band = np.digitize(probabilities, [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    for b in np.unique(band[probabilities > 0]):
        here = (band == b) & (probabilities > 0)
        spread = np.sqrt((RATERS * probabilities * (1 - probabilities))[here].sum())
        assert abs((counts - RATERS * probabilities)[here].sum()) < 3.5 * spread


def surroundings(modes: np.ndarray) -> np.ndarray:
    """bool [h w]: the pixels beyond every part of the lesion, at most 8 pixels away."""
    away = ndimage.distance_transform_edt(~modes.any(axis=0))
    return (away > 2) & (away < 8)


def test_presence_can_be_read_off_the_image(store: Store, modes: np.ndarray, probabilities: np.ndarray) -> None:
    grey = np.asarray(store.split("train").images[..., 0]) / 255
    measured = [
        g[m[1] > 0].mean() - np.median(g[surroundings(m)]) if surroundings(m).any() else np.nan
        for g, m in zip(grey, modes, strict=True)
    ]
    assert stats.spearmanr(measured, 1 - probabilities[:, 0], nan_policy="omit").statistic > 0.95


@pytest.mark.parametrize(("cue", "mode"), [("halo", 2), ("lobe", 3)])
def test_extent_and_structure_can_be_read_off_the_image(
    store: Store, modes: np.ndarray, probabilities: np.ndarray, cue: str, mode: int
) -> None:
    grey = np.asarray(store.split("train").images[..., 0]) / 255
    cues = np.asarray(store.split("train").extras["cues"])[:, CUES.index(cue)]
    measured, truth = [], []
    for g, m, value in zip(grey, modes, cues, strict=True):
        part, around = ndimage.binary_erosion(m[mode] > m[1]), surroundings(m)
        if value > 0 and part.sum() > 20 and around.any():
            base = np.median(g[around])
            measured.append((np.median(g[part]) - base) / (g[m[1] > 0].mean() - base))
            truth.append(value)
    assert len(truth) > 300
    assert stats.spearmanr(measured, truth).statistic > 0.8


def test_every_outline_is_visible(store: Store, modes: np.ndarray, probabilities: np.ndarray) -> None:
    """The grey slope on an outline is well above that of noise and texture where there is none."""
    grey = np.asarray(store.split("train").images[..., 0]) / 255
    ratios = []
    for g, m, p in zip(grey, modes, probabilities, strict=True):
        slope = ndimage.gaussian_gradient_magnitude(g, 1.0)
        inside_core = ndimage.binary_erosion(m[1], iterations=3)
        for one in m[1:][p[1:] > 0]:
            outline = one.astype(bool) & ~ndimage.binary_erosion(one, border_value=1)
            ratios.append(slope[outline].mean() / np.median(slope[inside_core | surroundings(m)]))
    assert np.quantile(ratios, 0.01) > 1.5
    assert np.median(ratios) > 2.5


def test_image_is_the_same_however_many_are_made(store: Store, tmp_path: Path) -> None:
    prepare_ambiguous(tmp_path / "few", images=7, val=6, test=0, raters=2, seed=3)
    few = open_store(tmp_path / "few")
    assert sorted(few.splits) == ["train", "val"]
    for name, count in (("train", 7), ("val", 6)):
        whole, part = store.split(name), few.split(name)
        np.testing.assert_array_equal(part.images, whole.images[:count])
        np.testing.assert_array_equal(part.labels, whole.labels[:count, :2])
        for extra in ("modes", "mode_probabilities", "cues"):
            np.testing.assert_array_equal(part.extras[extra], whole.extras[extra][:count])


def test_same_seed_same_bytes_and_splits_and_seeds_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sums(folder: str, seed: int) -> dict[str, str]:
        out = prepare_ambiguous(tmp_path / folder, images=3, val=3, test=3, seed=seed)
        index = json.loads((out / "index.json").read_text())
        return {name: split["arrays"]["images"]["sha256"] for name, split in index["splits"].items()}

    first, again, other = sums("first", 1), sums("again", 1), sums("other", 2)
    assert first == again
    assert len({*first.values(), *other.values()}) == 6
    monkeypatch.setattr(ambiguous, "FEW_IMAGES", 0)
    monkeypatch.setattr(ambiguous, "cores", lambda: 2)
    assert sums("by two processes", 1) == first


@pytest.mark.parametrize("size", [32, 45, 96])
def test_other_sizes_keep_the_promises(size: int) -> None:
    for seed in range(30):
        made = ambiguous_image(np.random.default_rng(seed), size)
        assert made.image.shape == (size, size, 1)
        assert made.modes.shape == (len(MODES), size, size)
        assert made.probabilities.sum() == pytest.approx(1)
        possible = made.modes[made.probabilities > 0]
        assert len({m.tobytes() for m in possible}) == len(possible)
        assert possible[1:].mean(axis=(1, 2)).min() >= 0.15


def test_draws_have_the_stated_frequencies_and_skip_impossible_modes() -> None:
    modes = np.arange(8, dtype=np.uint8).reshape(2, 4, 1, 1) * np.ones((1, 1, 3, 2), dtype=np.uint8)
    probabilities = np.array([[0.1, 0.6, 0.3, 0.0], [0.0, 0.25, 0.0, 0.75]], dtype=np.float32)
    drawn = draw_from_modes(modes, probabilities, n=4000, seed=0)
    assert drawn.shape == (2, 4000, 3, 2)
    assert drawn.dtype == np.uint8
    assert (drawn == drawn[:, :, :1, :1]).all()
    found = np.stack([np.bincount(row, minlength=8) for row in drawn[:, :, 0, 0]]) / 4000
    np.testing.assert_allclose(found[0, :4], probabilities[0], atol=0.03)
    np.testing.assert_allclose(found[1, 4:], probabilities[1], atol=0.03)
    assert found[0, 3] == found[1, 4] == found[1, 6] == 0
    np.testing.assert_array_equal(drawn, draw_from_modes(modes, probabilities, n=4000, seed=0))
    assert (drawn != draw_from_modes(modes, probabilities, n=4000, seed=1)).any()


@pytest.mark.parametrize(
    ("flag", "value"), [("size", 31), ("images", 0), ("val", -1), ("test", -1), ("raters", 0), ("seed", -1)]
)
def test_number_out_of_range_is_named(tmp_path: Path, flag: str, value: int) -> None:
    with pytest.raises(InputError, match=rf"^--{flag} {value}: must be at least \d+$"):
        prepare_ambiguous(tmp_path / "store", **{flag: value})
    assert not list(tmp_path.iterdir())


def test_existing_target_is_kept_unless_overwritten(tmp_path: Path) -> None:
    out = prepare_ambiguous(tmp_path / "store", images=2, val=0, test=0)
    with pytest.raises(InputError, match="--overwrite"):
        prepare_ambiguous(out, images=3, val=0, test=0)
    assert len(open_store(out).split("train")) == 2
    prepare_ambiguous(out, images=3, val=0, test=0, overwrite=True)
    assert len(open_store(out).split("train")) == 3
