"""Classes that flip, from pixels to the page: scores against slow loops, and what models of known behaviour must get."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stochseg import metrics
from stochseg.data.class_flips import draw_flips, flip_classes
from stochseg.data.store import ClassInfo, open_store
from stochseg.data.store_writer import StoreWriter
from stochseg.errors import InputError
from stochseg.evaluation import evaluate
from stochseg.metrics.conventions import get_convention
from stochseg.models.car import CAR
from stochseg.models.class_maps import one_hot_maps
from stochseg.models.segmenter import Segmenter
from stochseg.report.page import write_report
from stochseg.report.table import scores_table
from stochseg.sampling.tiling import Tile
from stochseg.scoring.split_scores import score_split
from stochseg.scoring.streets import flip_summary, iou_summary, likeliest_label

FLIPS = [(0, 3, 8 / 17), (2, 4, 5 / 17)]
IGNORE = 5
CLASSES = [
    ClassInfo(name, (40 * i, 255 - 40 * i, 90)) for i, name in enumerate(("road", "sky", "car", "road 2", "car 2"))
]
CLASSES.append(ClassInfo("unlabelled", (0, 0, 0)))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Streets of 24x32: sky above, road below, a car at a random place in most; the image shows the label. 3 cities."""
    path = tmp_path_factory.mktemp("store") / "streets"
    rng = np.random.default_rng(0)
    with StoreWriter(
        path, classes=CLASSES, raters=1, ignore=IGNORE, flips=FLIPS, convention="car-cityscapes", group_name="city"
    ) as writer:
        for name, count in (("train", 8), ("val", 24)):
            ids = [f"{name}{i}" for i in range(count)]
            split = writer.add_split(name, ids, [f"{name}{i % 3}" for i in range(count)], (24, 32, 3), "made")
            for i in range(count):
                label = np.repeat([1, 0], [10, 14])[:, None].repeat(32, 1)
                if i % 4:
                    top, left = rng.integers(8, 16), rng.integers(4, 20)
                    label[top : top + 6, left : left + 8] = 2
                label[:, 30:] = IGNORE
                split.labels[i, 0] = label
                split.images[i] = (label * 40)[..., None] + rng.integers(0, 5, (24, 32, 3))
    return path


class Oracle(Segmenter):
    """Reads the label off the image; draws flips with the chances it is given, whole images at once or pixel by pixel."""

    method = "oracle"
    latent = 4

    def __init__(self, chances: tuple[float, float], coherent: bool) -> None:
        super().__init__(CLASSES, 3, (24, 32))
        self.flips = [(a, b, p) for (a, b, _), p in zip(FLIPS, chances)]
        self.coherent = coherent
        self.networks = torch.nn.ModuleDict({"none": torch.nn.Linear(1, 1)})

    def _label(self, images: Tensor) -> Tensor:
        return ((images[:, 0] + 1) * 127.5 / 40 + 0.01).floor().to(torch.uint8)

    def marginals(self, images: Tensor, blackbox: Tensor | None = None, tile: Tile = None) -> Tensor:
        q = one_hot_maps(self._label(images), len(CLASSES))
        for a, b, p in self.flips:
            q[:, b], q[:, a] = q[:, a] * p, q[:, a] * (1 - p)
        return q

    def draw(self, x: Tensor, z: Tensor, seen: Tensor | None = None) -> Tensor:
        label = self._label(x)[:, None]
        g = torch.Generator().manual_seed(int(z.double().abs().sum() * 1e6))
        if self.coherent:
            return flip_classes(label, self.flips, draw_flips(self.flips, len(x), z.shape[1], g))
        maps = label.expand(-1, z.shape[1], -1, -1).clone()
        for a, b, p in self.flips:
            maps[(maps == a) & (torch.rand(maps.shape, generator=g) < p)] = b
        return maps

    def configs(self) -> dict[str, Any]:
        return {}

    def facts(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_facts(cls, *_: Any) -> Any:
        raise NotImplementedError


def judged(store: Path, model: Segmenter) -> dict[str, Any]:
    split = open_store(store).split("val")
    scores = score_split(
        model, split, 16, get_convention("car-cityscapes"), crop=None, ignore=IGNORE, flips=FLIPS, seed=0
    )
    groups = np.array(split.groups)
    counts = scores.counts
    result = flip_summary(counts, FLIPS, CLASSES, groups, 16, "q") | iou_summary(counts, CLASSES, groups)
    result["ged"] = float(np.nanmean(scores.values["ged"]))
    result["independent"] = float(np.nanmean(scores.baselines["independent_pixels"]["ged"]))
    result["ece"] = float(scores.reliability["q", "top"].error())
    return result


def test_the_truth_is_right_in_every_score(store: Path) -> None:
    result = judged(store, Oracle((8 / 17, 5 / 17), coherent=True))
    for row, (source, target, p), images in zip(result["class_flips"], FLIPS, (24, 18)):
        assert (row["from"], row["to"]) == (CLASSES[source].name, CLASSES[target].name)
        assert row["images"] == images
        for key in ("q", "q_mass", "q_right", "q_mass_right"):
            assert row[key] == pytest.approx(p, abs=1e-6)
        tolerance = 4 * (p * (1 - p) / (16 * images)) ** 0.5
        assert row["samples"] == pytest.approx(p, abs=tolerance)
        assert row["samples_by_image"] == pytest.approx(p, abs=tolerance)
        low, high = row["samples_interval"]
        assert low < row["samples"] < high
        assert (row["coherence"], row["neither"]) == (1, 0)
    assert result["coherence"] == 1
    assert result["joint_total_variation"] < 2 * result["joint_total_variation_of_draws"]
    assert result["joint_none"] == 0
    assert result["miou"] == result["miou_either_side"] == 1
    assert set(result["iou"]) == {"road", "sky", "car"}
    assert result["ece"] < 1e-6
    assert result["ged"] < 0.25 * result["independent"]


def test_pixels_drawn_alone_are_calibrated_and_not_coherent(store: Path) -> None:
    result = judged(store, Oracle((8 / 17, 5 / 17), coherent=False))
    for row, (_, _, p) in zip(result["class_flips"], FLIPS):
        assert row["samples"] == pytest.approx(p, abs=0.02)
        assert row["coherence"] < 0.75
    assert result["ged"] == pytest.approx(result["independent"], abs=0.03)


def test_a_wrong_probability_shows_in_all_that_depends_on_it(store: Path) -> None:
    result = judged(store, Oracle((0.8, 5 / 17), coherent=True))
    wrong, right = result["class_flips"]
    assert wrong["q"] == pytest.approx(0.8, abs=1e-6)
    assert wrong["samples"] > 0.7
    assert right["q"] == pytest.approx(5 / 17, abs=1e-6)
    assert result["iou"]["road"] == 0  # "road 2" is what it takes for likeliest
    assert result["miou_either_side"] == 1
    roads = 24 * 14 * 30 - 18 * 6 * 8  # at most; the error of a road pixel is |.8 - 8/17|
    assert 0.7 * roads / (24 * 24 * 30) * (0.8 - 8 / 17) < result["ece"] < 0.6 * (0.8 - 8 / 17)
    assert result["joint_total_variation"] > 0.2


def test_flips_that_go_together_show_in_joint_outcomes_alone(store: Path) -> None:
    """Each flip as often as is right, but always both or none: the GED hardly sees it."""

    class Together(Oracle):
        def draw(self, x: Tensor, z: Tensor, seen: Tensor | None = None) -> Tensor:
            both = torch.rand(len(x), z.shape[1], 1, generator=torch.Generator().manual_seed(int(z.sum() * 1e3)))
            return flip_classes(self._label(x)[:, None], self.flips, both < torch.tensor([p for _, _, p in self.flips]))

    alone, together = (judged(store, kind((8 / 17, 5 / 17), True)) for kind in (Oracle, Together))
    assert together["joint_total_variation"] > 0.15
    assert abs(together["ged"] - alone["ged"]) < 0.05
    for row, (_, _, p) in zip(together["class_flips"], FLIPS):
        assert row["samples"] == pytest.approx(p, abs=0.1)


def test_sums_of_pixels_against_loops() -> None:
    g = torch.Generator().manual_seed(0)
    q = torch.randn(3, 6, 5, 7, generator=g).softmax(1)
    labels = torch.randint(0, 6, (3, 1, 5, 7), generator=g)
    labels[2][labels[2] == 2] = 1
    region = torch.rand(3, 5, 7, generator=g) < 0.6
    maps = torch.randint(0, 6, (3, 4, 5, 7), generator=g)
    found = metrics.flip_pixels(q, labels, FLIPS, IGNORE, region)
    coherence = metrics.flip_coherence(maps, labels, FLIPS, 6, IGNORE)
    for i in range(3):
        for j, (source, target, _) in enumerate(FLIPS):
            places = [(y, x) for y in range(5) for x in range(7) if labels[i, 0, y, x] == source]
            counted = [(y, x) for y, x in places if region[i, y, x]]
            assert found.pixels[i, j] == len(counted)
            assert float(found.kept[i, j]) == pytest.approx(sum(float(q[i, source, y, x]) for y, x in counted))
            assert float(found.flipped[i, j]) == pytest.approx(sum(float(q[i, target, y, x]) for y, x in counted))
            shares = []
            for m in maps[i]:
                sides = [sum(int(m[y, x] == c) for y, x in places) for c in (source, target)]
                shares += [max(sides) / sum(sides)] if sum(sides) else []
            assert float(coherence[i, j]) == pytest.approx(np.mean(shares) if shares else np.nan, nan_ok=True)


def test_expected_reliability_is_that_of_many_drawn_labels() -> None:
    g = torch.Generator().manual_seed(0)
    q = torch.randn(2, 6, 8, 8, generator=g).mul(2).softmax(1)
    labels = torch.randint(0, 6, (2, 1, 8, 8), generator=g)
    drawn = flip_classes(labels, FLIPS, draw_flips(FLIPS, 2, 4000, g))
    for target in ("top", "class"):
        exact = metrics.reliability_counts(q, labels, target=target, ignore=IGNORE, flips=FLIPS)
        many = metrics.reliability_counts(q, drawn, target=target, ignore=IGNORE)
        assert torch.equal(exact.counts * 4000, many.counts)
        assert torch.allclose(exact.accuracy, many.accuracy / 4000, atol=0.02 * float(exact.counts.max()))
    for score in (metrics.brier_score, metrics.negative_log_likelihood):
        assert torch.allclose(score(q, labels, IGNORE, flips=FLIPS), score(q, drawn, IGNORE), rtol=0.02)
        assert not torch.allclose(score(q, labels, IGNORE, flips=FLIPS), score(q, labels, IGNORE), rtol=0.02)


def test_overlaps_against_loops() -> None:
    g = torch.Generator().manual_seed(0)
    maps, labels = torch.randint(0, 5, (2, 3, 9, 9), generator=g)
    found = metrics.class_overlaps(maps, labels, 5, ignore=4)
    for i in range(3):
        for c in range(5):
            a, b = (maps[i] == c) & (labels[i] != 4), labels[i] == c
            b &= labels[i] != 4
            assert found[i, c].tolist() == [int((a & b).sum()), int((a | b).sum())]
    assert metrics.class_iou(torch.tensor([[1.0, 4.0], [0.0, 0.0]])).tolist()[0] == 0.25


def test_the_likeliest_label_is_flipped_where_that_is_likelier() -> None:
    label = torch.tensor([[[0, 1, 2]]])
    assert likeliest_label(label, [(0, 3, 0.6), (2, 4, 0.4)]).tolist() == [[[3, 1, 2]]]


def test_what_does_not_fit_is_refused() -> None:
    q, labels = torch.full((1, 6, 2, 2), 1 / 6), torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(InputError, match="a class flips once"):
        metrics.flip_pixels(q, labels, [(0, 3, 0.5), (1, 3, 0.5)])
    with pytest.raises(InputError, match="it lies in 0 to 1"):
        metrics.flip_coherence(labels, labels, [(0, 3, 1.5)], 6)
    with pytest.raises(InputError, match="labels hold 2 maps"):
        metrics.flip_pixels(q, labels.expand(-1, 2, -1, -1), FLIPS)
    with pytest.raises(InputError, match=r"region is \[1, 3, 3\]"):
        metrics.flip_pixels(q, labels, FLIPS, region=torch.ones(1, 3, 3, dtype=torch.bool))
    with pytest.raises(InputError, match="give both as"):
        metrics.class_overlaps(labels[:, 0], labels, 6)


@pytest.fixture(scope="module")
def run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model that was evaluated: what it scores does not matter, only that all of it is reported."""
    folder = tmp_path_factory.mktemp("run")
    CAR(CLASSES, 3, (24, 32)).save(folder / "model")
    evaluate(folder, store, "val", samples=4, precision="float32")
    return folder


def test_an_evaluation_reports_flips_and_leaves_out_what_needs_a_background(run: Path, store: Path) -> None:
    result = json.loads((run / "evaluation/val.json").read_text())
    rows = result["class_flips"]
    assert [(row["from"], row["probability"]) for row in rows] == [("road", 8 / 17), ("car", 5 / 17)]
    assert all(
        row[f"{key}_interval"] is None or len(row[f"{key}_interval"]) == 2 for row in rows for key in ("q", "samples")
    )
    assert result["right_means"] == "q"
    assert 0 <= result["miou"] <= result["miou_either_side"]
    assert not {"dice", "empty", "ece_empty", "area_crps"} & result.keys()
    assert {"brier", "nll", "ece_q", "ece_mean"} <= result.keys()
    with np.load(run / "evaluation/val.npz") as arrays:
        flipped, kept = (arrays[f"flip_q_{side}"][:, 0].sum() for side in ("flipped", "kept"))
        assert rows[0]["q"] == pytest.approx(flipped / (kept + flipped))
    table = scores_table(result)
    assert "road, road 2" in table
    assert "always empty" not in table
    assert "P(empty)" not in table
    assert "independent pixels" in table


def test_the_report_shows_flips_in_words_and_bars(run: Path) -> None:
    page = write_report(run).read_text()
    assert "Classes that flip" in page
    assert "Frequency of every flip in q and in the samples beside its probability: road 0.471" in page
    assert (run / "figures/flips_val.png").stat().st_size > 5000
    assert "three raters in ten" not in page
    assert ">label<" in page
    assert "unlabelled" not in page.split('<ul class="legend">')[1].split("</ul>")[0]


def test_one_city_gives_intervals_over_images(tmp_path: Path, run: Path) -> None:
    path = tmp_path / "one"
    with StoreWriter(path, classes=CLASSES, raters=1, ignore=IGNORE, flips=FLIPS, group_name="city") as writer:
        split = writer.add_split("val", list("abcd"), ["only"] * 4, (24, 32, 3), "made")
        split.images[:] = np.arange(4)[:, None, None, None] * 60
        split.labels[:, 0, :12] = 1
    result = evaluate(run, path, "val", samples=4)
    assert result["flips_intervals_over"] == "images"
    assert result["ged_interval"] is None
    assert result["class_flips"][0]["q_interval"] is not None
    assert result["class_flips"][1]["images"] == 0  # no car anywhere
    assert result["class_flips"][1]["q"] is None
    assert "car, car 2" in scores_table(result)
