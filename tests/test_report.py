"""The report: a page that needs nothing else, holds the numbers of the evaluation, and says what they mean."""

import base64
import dataclasses
import io
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

import stochseg
from stochseg.config import CalibrationConfig, RefinementConfig
from stochseg.data.store import LESION_CLASSES, MISSING_RATER, ClassInfo, open_store
from stochseg.data.store_writer import StoreWriter
from stochseg.errors import InputError
from stochseg.evaluation import evaluate
from stochseg.metrics.conventions import CONVENTIONS
from stochseg.models.calibrated import Calibrated, Coverage
from stochseg.report.figures import DARK, LIGHT, Plot, histogram
from stochseg.report.page import write_report
from stochseg.report.panels import TILE, example_tiles, normalised_entropy, overlay, png_bytes, save_panel
from stochseg.report.plots import minutes_at, read_evaluations, training_plots
from stochseg.report.reading import reading_of
from stochseg.report.table import best_trivial, findings, scores_rows, verdict

NAME = '<b>lesion</b> & "core"'
CLASSES = [ClassInfo("background", (0, 0, 0)), ClassInfo(NAME, (230, 85, 50))]
METRICS = (
    {"step": 10, "epoch": 0, "minutes": 0.5, "images_per_second": 40.0, "cross_entropy": 0.7, "energy": 1.5},
    {"step": 10, "lr_calibration": 0.001},
    {"step": 20, "epoch": 1, "minutes": 1.0, "images_per_second": 44.0, "cross_entropy": 0.2, "energy": 0.9},
    {"step": 20, "val_ged": 0.5, "val_diversity": 0.3, "val_raters_diversity": 0.4, "val_selection": 0.45},
    {"step": 30, "val_ged": 0.6, "val_diversity": 0.2, "val_raters_diversity": 0.4, "val_selection": 0.55},
)


class Page(HTMLParser):
    """What a browser would find: text, images, table rows, headings, and every tag with its attributes."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.html = file.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.headings: list[str] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("h1", "h2"):
            self.headings.append("")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in ("img", "meta", "source"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"{tag} closes something else"

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open and self._open[-1] in ("h1", "h2"):
            self.headings[-1] += data
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def run(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model, evaluated by the real code on two splits; no trace of a training."""
    folder = tmp_path_factory.mktemp("report") / "run"
    small = (CalibrationConfig(widths=(8, 16)), RefinementConfig(widths=(8, 16)))
    stochseg.CAR(CLASSES, 1, (32, 32), *small).save(folder / "model")
    evaluate(folder, tiny_store, "train", samples=4, limit=4)
    evaluate(folder, tiny_store, "val", samples=4)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    assert write_report(run) == run / "report.html"
    return Page(run / "report.html")


def result_of(run: Path, split: str) -> dict[str, Any]:
    return dict(json.loads((run / "evaluation" / f"{split}.json").read_text()))


def test_page_holds_the_numbers_of_the_evaluation(run: Path, page: Page) -> None:
    tables = np.array_split(np.array(page.rows, dtype=object), 2)
    for split, rows in zip(("val", "train"), tables):
        result = result_of(run, split)
        assert [cell.split()[0] for cell in rows[1][1:3]] == [f"{result[key]:.3f}" for key in ("ged", "hm_iou")]
        assert "[{:.3f}, {:.3f}]".format(*result["ged_interval"]) in rows[1][1]
        shown = {row[0]: row[1] for row in rows[2:]}
        for name, text in (("always empty", "all_empty"), ("independent pixels drawn from q", "independent_pixels")):
            assert shown[name] == f"{result['baselines'][text]['ged']:.3f}"
        assert f"with 4 samples on {result['images']} images of {result['groups']} groups" in page.text
        assert f"{result['ece_q']:.4f}" in page.text
    assert page.headings.index("Scores") < page.headings.index("Scores, split train")


def test_page_needs_no_network_and_no_other_file(page: Page) -> None:
    assert "http://" not in page.html
    assert "https://" not in page.html
    assert not page.all("script")
    assert not page.all("link")
    assert "url(" not in page.html
    assert "@import" not in page.html
    policy = next(tag for tag in page.all("meta") if tag.get("http-equiv") == "Content-Security-Policy")
    assert str(policy["content"]).startswith("default-src 'none'")
    addresses = [tag["src"] for tag in page.all("img")] + [tag["srcset"] for tag in page.all("source")]
    assert len(addresses) > 40
    for address in addresses:
        head, _, data = str(address).partition(",")
        assert head == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
            assert image.format == "PNG"
            image.load()


def test_every_image_has_words_and_its_true_size(page: Page) -> None:
    for tag in page.all("img"):
        assert str(tag["alt"]).strip()
        with Image.open(io.BytesIO(base64.b64decode(str(tag["src"]).partition(",")[2]))) as image:
            assert image.size == (int(str(tag["width"])), int(str(tag["height"])))
    alts = [str(tag["alt"]) for tag in page.all("img")]
    assert len(set(alts)) > 30
    assert any(alt.startswith("example 1, rater 2") for alt in alts)


def test_class_names_are_escaped(page: Page) -> None:
    assert NAME in page.text
    assert "<b>" not in page.html


def test_figures_lie_beside_the_page(run: Path, page: Page) -> None:
    names = {
        f"{name}_{split}"
        for name in ("ged", "hm_iou", "ranking", "reliability", "examples")
        for split in ("val", "train")
    }
    assert {file.stem for file in (run / "figures").iterdir()} == names
    for name in names:
        assert (run / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        with Image.open(run / "figures" / f"{name}.png") as image:
            assert min(image.size) > 300


def test_without_a_training_the_page_leaves_it_out(page: Page) -> None:
    assert not {"Training", "Progress", "Configuration"} & set(page.headings)
    assert page.headings[-1] == "Facts"
    assert "stochseg train" not in page.text


def test_training_progress_and_config_are_shown(run: Path, tiny_store: Path, tmp_path: Path) -> None:
    other = tmp_path / "my run"
    shutil.copytree(run, other)
    for name in ("train.json", "train.npz", "train_examples.npz"):
        (other / "evaluation" / name).unlink()
    (other / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in METRICS))
    (other / "config.yaml").write_text("seed: 7 # <not a tag>\nvalidation: {select: ged}\n")
    model, split = stochseg.CAR.load(run), open_store(tiny_store).split("val")
    for step in (10, 20, 30, 40):
        save_panel(other / "progress" / f"step_{step:07d}.png", model, split, [0, 1], None, 0, samples=2)
    page = Page(write_report(other))
    assert [h for h in page.headings if h in ("Training", "Progress", "Configuration", "Facts")] == [
        "Training",
        "Progress",
        "Configuration",
        "Facts",
    ]
    assert "seed: 7 # <not a tag>" in page.text
    assert "30 steps in 1.5 minutes, 42 images a second" in page.text
    assert f"stochseg evaluate '{other}' --data tiny --split val --samples 4 --convention car --seed 0" in page.text
    assert [step for step in (10, 20, 30, 40) if f"Step {step}" in page.text] == [10, 30, 40]
    assert any("the model kept had GED 0.500" in str(tag["alt"]) for tag in page.all("img"))
    assert {"validation.pdf", "losses.png"} <= {file.name for file in (other / "figures").iterdir()}


def test_splits_come_test_first_then_val(run: Path, tmp_path: Path) -> None:
    (tmp_path / "evaluation").mkdir()
    for name in ("b", "val", "test", "a"):
        for end in (".npz", "_examples.npz"):
            shutil.copy(run / "evaluation" / f"val{end}", tmp_path / "evaluation" / f"{name}{end}")
        (tmp_path / "evaluation" / f"{name}.json").write_text(json.dumps(result_of(run, "val") | {"split": name}))
    assert [one.result["split"] for one in read_evaluations(tmp_path)] == ["test", "val", "a", "b"]


def test_last_model_is_the_one_kept_where_the_config_says_so() -> None:
    assert "the model kept had GED 0.600" in training_plots([dict(line) for line in METRICS], "last")["validation"].alt
    assert training_plots([]) == {}


def test_steps_between_logged_lines_get_their_minutes() -> None:
    timed = [{"step": 10.0, "minutes": 2.0}, {"step": 20.0, "minutes": 3.0}]
    assert minutes_at([0, 5, 15, 40], timed).tolist() == [0.0, 1.0, 2.5, 6.0]


def test_errors_name_the_cure(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run"):
        write_report(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no model yet"):
        write_report(tmp_path / "empty")
    shutil.copytree(run / "model", tmp_path / "new" / "model")
    with pytest.raises(
        InputError, match=r"was not evaluated yet; run `stochseg evaluate .*new --data STORE --split val`"
    ):
        write_report(tmp_path / "new")
    shutil.copytree(run / "evaluation", tmp_path / "new" / "evaluation")
    (tmp_path / "new" / "metrics.jsonl").write_text('{"step": 1}\n{"st')  # as a kill leaves it
    write_report(tmp_path / "new").unlink()
    shutil.rmtree(tmp_path / "new" / "figures")
    scores = tmp_path / "new" / "evaluation" / "val.npz"
    scores.write_bytes(scores.read_bytes()[:100])
    with pytest.raises(InputError, match=r"val\.json: an evaluation that is damaged or not whole"):
        write_report(tmp_path / "new")
    scores.unlink()
    with pytest.raises(InputError, match="evaluate the split again"):
        write_report(tmp_path / "new")
    shutil.copytree(run / "evaluation", tmp_path / "new" / "evaluation", dirs_exist_ok=True)
    (tmp_path / "new" / "metrics.jsonl").unlink()
    (tmp_path / "new" / "progress").mkdir()
    (tmp_path / "new" / "progress" / "step_1.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"step_1\.png: not readable as a picture"):
        write_report(tmp_path / "new")
    (tmp_path / "new" / "model" / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: not readable as JSON"):
        write_report(tmp_path / "new")
    assert not (tmp_path / "new" / "report.html").exists()


def made_result(model: float, raters: float = 0.1, **others: float) -> dict[str, Any]:
    trivial = {"all_empty": 0.8, "argmax": 0.6, "independent_pixels": 0.5} | others
    baselines = {name: {"ged": ged, "hm_iou": 1 - ged} for name, ged in trivial.items()} | {"raters": {"ged": raters}}
    return {
        "ged": model,
        "ged_interval": [model - 0.1, model + 0.1],
        "hm_iou": 0.5,
        "diversity": 0.3,
        "raters_diversity": 0.4,
        "distance_to_labels": 0.5,
        "images": 1200,
        "groups": 100,
        "group_name": "city",
        "samples": 16,
        "raters_per_image": 4,
        "convention": "car",
        "baselines": baselines,
    }


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (-0.2, "than any trivial answer"),
        (0.2, "A trivial answer comes closer"),
        (0.0, "These 100 cities do not tell the model from a trivial answer"),
    ],
)
def test_verdict_goes_by_differences_image_by_image(gain: float, words: str) -> None:
    """A gain of 0.2 is told from noise of 1 that model and trivial answer share, which separate intervals would hide."""
    rng = np.random.default_rng(0)
    shared, own = rng.normal(0, 1, 100), rng.normal(0, 0.1, 100)
    values = {"ged": shared + own + gain, "independent_pixels_ged": shared, "groups": np.arange(100) // 2}
    assert words in verdict(made_result(0.5 + gain), values)


def test_verdict_of_one_group_claims_nothing() -> None:
    values = {"ged": np.zeros(5), "independent_pixels_ged": np.ones(5), "groups": np.array(["a"] * 5)}
    assert "Too few groups" in verdict(made_result(0.0), values)


def test_findings_in_plain_numbers() -> None:
    said = " ".join(findings(made_result(0.2)))
    assert "GED 0.200 [0.100, 0.300] with 16 samples on 1,200 images of 100 cities" in said
    assert "0.500 at best (independent pixels drawn from q)" in said
    assert "75\u00a0% of the way" in said  # (0.5 - 0.2) / (0.5 - 0.1)
    assert "vary less than its raters do: diversity 0.300 against 0.400" in said
    assert "of the way" not in " ".join(findings(made_result(0.7)))
    assert "true distribution, known for generated images, reach 0.090" in " ".join(
        findings(made_result(0.2, truth=0.09))
    )


def test_best_trivial_answer_is_low_in_ged_and_high_in_iou() -> None:
    result = made_result(0.2)
    result["baselines"]["all_empty"]["hm_iou"] = 0.9
    assert best_trivial(result) == "independent_pixels"
    assert best_trivial(result, "hm_iou") == "all_empty"


def test_table_gives_the_raters_own_diversity() -> None:
    rows = {row[0]: row[1:] for row in scores_rows(made_result(0.2))}
    assert rows["the raters' own population"] == ["0.100", "-", "0.400", "0.400"]
    assert rows["this model"][0] == "0.200 [0.100, 0.300]"


@pytest.mark.parametrize(
    ("convention", "distance", "matched"),
    [
        (
            "car",
            "1 − IoU, from 0 (equal) to 1 (nothing in common); two maps that mark nothing count as equal",
            "each rater 4 times",
        ),
        (
            "car-cityscapes",
            "as a mean over the classes that flip; a class that neither map holds is left out; the raters are all",
            None,
        ),
        ("ssn", "the first 12 samples", None),
        ("ccdm", "This is convention ccdm", "each repeated until there are as many of both"),
        ("mose-cityscapes", "over the classes that flip", "shared among the maps that flips can make"),
        ("flow-ssn", "1 − IoU", "The best 4 pairs"),
        (
            "d-persona",
            "two maps that mark nothing count as different, even between a map and itself",
            "have a Dice of 1 here",
        ),
        ("values", "one Dice is made of the sums over all pairs", None),
    ],
)
def test_reading_follows_the_convention(
    convention: str, distance: str, matched: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = CONVENTIONS[convention]
    if rule.most_samples is not None:
        monkeypatch.setitem(CONVENTIONS, convention, dataclasses.replace(rule, most_samples=12))
    flips = [[1, 0, 0.5]] if rule.counted == "flips" else None
    result = made_result(0.2) | {"convention": convention, "flips": flips}
    reading = reading_of(result if rule.matching != "none" else result | {"hm_iou": None}, 2)
    assert distance in reading.distance
    if matched is None:
        assert reading.matched is None
        return
    assert reading.matched is not None
    title, text = reading.matched
    assert matched in text
    assert title.startswith("Matched Dice" if convention == "d-persona" else "Matched IoU")
    assert "at least that" not in text  # this result holds no value of the raters
    result["baselines"]["raters"]["hm_iou"] = 0.5
    assert ("at least that" in reading_of(result, 2).matched[1]) == (rule.matching != "rectangular")  # type: ignore[index]


def test_reading_of_several_classes_tells_of_their_mean() -> None:
    said = reading_of(made_result(0.2), 5).distance
    assert "as a mean over the 4 classes but the background; a class that neither map holds counts as equal" in said


def test_page_of_another_convention_holds_no_trace_of_the_one_before(
    run: Path, page: Page, tiny_store: Path, tmp_path: Path
) -> None:
    assert "Matched IoU: higher is better" in page.text
    assert "at least" in page.text
    other = Path(shutil.copytree(run, tmp_path / "run"))
    assert (other / "figures" / "hm_iou_val.pdf").is_file()
    (other / "figures" / "my_own.png").write_bytes(b"mine")
    evaluate(other, tiny_store, "val", samples=4, limit=6, convention="phiseg")
    new = Page(write_report(other))
    assert "Matched IoU: higher is better" not in new.text
    assert "6 of 9 images of 3 groups" in new.text
    names = {file.name for file in (other / "figures").iterdir()}
    assert not {"hm_iou_val.png", "hm_iou_val.pdf"} & names
    assert {"hm_iou_train.png", "ged_val.pdf", "my_own.png"} <= names


def test_page_tells_of_the_calibration(run: Path, page: Page, tmp_path: Path) -> None:
    assert "Temperatures and coverage" not in page.headings
    other = Path(shutil.copytree(run, tmp_path / "run"))
    facts = {"coverage": 0.931, "coverage_interval": [0.89, 0.96], "area": 318.2, "area_share": 0.08}
    record = {
        **{"fit": {"images": 45, "groups": 15}, "held_out": {"images": 1, "groups": 1}, "split": "val"},
        **{"group_name": "patient", "probability": 0.9, "share": 1.0, "samples": 16},
        "temperature": {"kept": True, "nll": [0.5, 0.25], "nll_change": -0.25, "nll_change_interval": None}
        | {"ged": [0.3, 0.2], "ged_change": -0.1, "ged_change_interval": [-0.2, 0.1]},
        "coverage": {NAME: facts | {"union_coverage": None, "union_area": 172.0}},
    }
    Calibrated((0.9, 1.25), Coverage((None, 0.1), 16, 0.9, 1.0, (32, 40)), record).write(other / "model")
    new = Page(write_report(other))
    assert "Temperatures and coverage" in new.headings
    for words in (
        "fitted on 45 images of 15 patients of split val, measured on 1 image of 1 patient held out",
        f"Temperatures of q: background 0.900, {NAME} 1.250",
        "likelihood of q from 0.5000 to 0.2500 (-0.25000) and the GED of 16 samples from 0.3000 to 0.2000",
        "on images of 40x32 pixels, that are to hold the whole of a new rater's outline with probability 0.9",
        f"{NAME}: they cover 0.931 [0.890, 0.960] of the outlines with 318 pixels (8.0 % of the image)",
        "The scores of val, train above are without these temperatures: evaluate again.",
    ):
        assert words in new.text
    assert "trained on that split" not in new.text
    Calibrated(None, None, record | {"split": "train"}).write(other / "model")
    text = Page(write_report(other)).text
    assert "trained on that split" in text
    assert "evaluate again" not in text


def test_entropy_is_a_share_of_its_maximum() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet((0.5, 1, 2), (4, 5)).transpose(2, 0, 1)
    p[:, 0, 0], p[:, 0, 1] = (0, 1, 0), 1 / 3
    found = normalised_entropy(p)
    assert found == pytest.approx(stats.entropy(p, base=3, axis=0), abs=1e-12)
    assert (found[0, 0], found[0, 1]) == (0, pytest.approx(1))


def test_overlay_paints_classes_and_leaves_the_background() -> None:
    image, labels = np.full((7, 7, 1), 100, np.uint8), np.zeros((7, 7), np.uint8)
    labels[1:6, 1:6] = 1
    painted = overlay(image, labels, LESION_CLASSES, opacity=0.5, line=1)
    assert (painted[labels == 0] == 100).all()
    assert painted[1, 1].tolist() == list(LESION_CLASSES[1].color)
    assert painted[3, 3].tolist() == [165, 92, 75]  # half of (100, 100, 100) and (230, 85, 50), halves to even
    assert painted[2, 2].tolist() == [165, 92, 75]
    thick = overlay(image, labels, LESION_CLASSES, opacity=0.5, line=2)
    assert thick[2, 2].tolist() == list(LESION_CLASSES[1].color)
    assert thick[3, 3].tolist() == [165, 92, 75]
    assert (overlay(image, np.full((7, 7), MISSING_RATER, np.uint8), LESION_CLASSES) == 128).all()


@pytest.mark.parametrize(("size", "shown"), [((32, 24), (192, 144)), ((100, 50), (100, 50)), ((400, 200), (192, 96))])
def test_tiles_of_an_example(size: tuple[int, int], shown: tuple[int, int]) -> None:
    labels = np.stack([np.zeros(size, np.uint8), np.full(size, MISSING_RATER, np.uint8)])
    samples = np.zeros((4, *size), np.uint8)
    samples[:3, : size[0] // 2] = 1
    q = np.stack([np.full(size, 0.25), np.full(size, 0.75)]).astype(np.float16)
    tiles = example_tiles(np.zeros((1, *size), np.uint8), labels, samples, q, LESION_CLASSES, shown=2)
    assert [(tile.name, tile.note) for tile in tiles] == [
        ("image", ""),
        ("rater 1", "nothing"),
        ("rater 2", "missing"),
        ("mean of samples", ""),
        ("q", ""),
        ("entropy of mean", ""),
        ("entropy of q", ""),
        ("sample 1", ""),
        ("sample 2", ""),
    ]
    assert {tile.pixels.shape for tile in tiles} == {(*shown, 3)}
    assert max(shown) <= TILE
    by_name = {tile.name: tile.pixels for tile in tiles}
    # three of four samples mark the upper half, and q says 0.75 everywhere: equal above, different below
    assert (by_name["mean of samples"][0] == by_name["q"][0]).all()
    assert (by_name["mean of samples"][-1] != by_name["q"][-1]).any()
    assert (by_name["entropy of mean"][-1] <= 5).all()


def test_png_keeps_up_to_256_colours_exactly() -> None:
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (256, 3)).astype(np.uint8)
    picture = colors[rng.integers(0, 256, (40, 30))]
    with Image.open(io.BytesIO(png_bytes(picture))) as image:
        assert (np.asarray(image.convert("RGB")) == picture).all()
    noise = rng.integers(0, 256, (40, 30, 3)).astype(np.uint8)
    with Image.open(io.BytesIO(png_bytes(noise))) as image:
        assert image.size == (30, 40)
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - noise).mean() < 40


def test_plots_are_the_same_bytes_each_time_and_differ_between_themes() -> None:
    series = {"this model": np.array([0.1, 0.2, np.nan, 0.3]), "always empty": np.array([0.5, 0.9, 0.7, 0.1])}
    plot = Plot("ged", "words", lambda theme: histogram("GED", series, ("raters", 0.1), theme))
    assert plot.png(LIGHT) == plot.png(LIGHT)
    assert plot.png(LIGHT) != plot.png(DARK)


def test_one_rater_and_more_classes(tmp_path: Path) -> None:
    """What needs two raters is unknown, and left out; three classes are painted and mixed in their colours."""
    classes = [*LESION_CLASSES, ClassInfo("edge", (0, 90, 200))]
    with StoreWriter(tmp_path / "store", classes=classes, raters=1) as writer:
        split = writer.add_split("val", ["a", "b"], ["p", "q"], (32, 64, 3), "made")
        split.images[:, 8:20, 10:30], split.labels[:, 0, 8:20, 10:30], split.labels[:, 0, 8, 10:30] = 200, 1, 2
    small = (CalibrationConfig(widths=(8, 16)), RefinementConfig(widths=(8, 16)))
    stochseg.CAR(classes, 3, (32, 64), *small).save(tmp_path / "run" / "model")
    evaluate(tmp_path / "run", tmp_path / "store", "val", samples=2)
    lines = [{"step": 5, "val_ged": 0.5, "val_diversity": 0.3, "val_selection": 0.4}]
    (tmp_path / "run" / "metrics.jsonl").write_text(json.dumps(lines[0]) + "\n")
    page = Page(write_report(tmp_path / "run"))
    assert "unknown, as no image has two" in page.text
    assert "its raters do" not in page.text
    assert {"lesion", "edge"} <= set(page.text.split())
    assert "class colours, mixed by probability" in page.text
    assert (tmp_path / "run" / "figures" / "validation.png").is_file()
