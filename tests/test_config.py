"""Config: presets load, mistakes are named."""

from pathlib import Path

import pytest
import yaml

from stochseg.cli import main
from stochseg.config import to_plain
from stochseg.errors import InputError
from stochseg.presets import load_config, preset_names, study_of


@pytest.mark.parametrize("name", [name for name in preset_names() if study_of(name) is None])
def test_every_preset_loads_and_survives_a_round_trip(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(to_plain(config)))
    assert load_config(str(file)) == config


def test_the_official_numbers() -> None:
    """reference/CAR.md, section 'Training'."""
    c = load_config("lidc-paper")
    assert (c.objective.adversarial, c.objective.calibration, c.objective.r1, c.objective.samples) == (10, 5, 10, 5)
    assert (c.objective.energy, c.objective.marginal, c.training.ema, c.training.clip) == (0, 0, None, None)
    assert (c.objective.raters, c.objective.r1_on, c.input.crop, c.training.batch) == ("one", "probability", 128, 32)
    d = c.phases.discriminator
    assert (d.active, d.period, d.accuracy_cap, d.lr, d.halve_at) == (50, 250, 0.85, 1e-5, (30, 300, 500))
    assert (c.phases.calibration.lr, c.phases.calibration.halve_at) == (2e-4, (250, 500))
    assert (c.phases.refinement.lr, c.phases.refinement.halve_at) == (2e-4, (100, 300, 500))
    for phase in (c.phases.calibration, c.phases.refinement, d):
        assert (phase.optimizer, phase.betas, phase.weight_decay) == ("adam", (0.5, 0.99), 5e-4)
    assert (c.calibration.net, c.refinement.net, c.discriminator.net, c.refinement.latent) == (
        "segnet",
        "paper",
        "pixel",
        8,
    )


def test_overrides_win_and_a_budget_replaces_the_presets() -> None:
    config = load_config("lidc", {"training.batch": 8, "calibration.widths": [8, 16], "steps": 5})
    assert (config.training.batch, config.calibration.widths) == (8, (8, 16))
    assert (config.steps, config.minutes) == (5, None)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"training.batc": 8}, r"'training.batc' does not exist; did you mean 'training.batch'"),
        ({"training.batch": 0}, r"--training.batch 0: must be at least 1"),
        ({"training.batch": "many"}, r"training.batch.*many"),
        ({"training.batch": 32, "training.accumulate": 5}, r"--training.accumulate 5: must be a divisor"),
        ({"objective.kernel": "cosine"}, r"objective.kernel.*cosine"),
        ({"objective.samples": 1}, r"--objective.samples 1: must be at least 2 for the energy loss"),
        ({"minutes": -1.0}, r"--minutes -1.0: must be above 0"),
        ({"minutes": None}, r"--minutes None: must be a budget"),
        ({"seed": -1}, r"--seed -1: must be at least 0"),
        ({"input.warped": 0.0}, r"--input.warped 0.0: must be above 0, up to 1"),
        ({"training.warmup": -5}, r"--training.warmup -5"),
        ({"training.clip": 0.0}, r"--training.clip 0.0: must be above 0"),
        ({"training.log_every": 0}, r"--training.log_every 0"),
        ({"phases.refinement.betas": [2.0, 0.9]}, r"betas \(2.0, 0.9\)"),
        ({"phases.refinement.weight_decay": -1.0}, r"weight_decay -1.0"),
        ({"refinement.dropout": 1.5}, r"--refinement.dropout 1.5"),
        ({"refinement.hypotheses": 1}, r"--refinement.hypotheses 1: must be at least 2"),
        (
            {"refinement.net": "paper", "refinement.choice": True},
            r"--refinement.choice True: must be false unless net is film",
        ),
        ({"discriminator.width": 0}, r"--discriminator.width 0"),
        ({"precision": "float16"}, r"precision.*float16"),
    ],
)
def test_mistakes_are_named(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_config("lidc", overrides)
    assert "\n" not in str(caught.value)


def test_unknown_preset_and_bad_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--config nothing: no such preset or file; presets: .*lidc"):
        load_config("nothing")
    (tmp_path / "a.yaml").write_text("a: [1")
    with pytest.raises(InputError, match="not valid YAML"):
        load_config(str(tmp_path / "a.yaml"))
    (tmp_path / "b.yaml").write_text("minutes: 1\ntraining: {rounds: 3}")
    with pytest.raises(InputError, match=r"'training.rounds' does not exist"):
        load_config(str(tmp_path / "b.yaml"))
    (tmp_path / "c.yaml").write_text("minutes: 1\nseed: !!python/object/apply:os.system ['true']")
    with pytest.raises(InputError, match="not valid YAML"):
        load_config(str(tmp_path / "c.yaml"))


@pytest.mark.parametrize(
    "text",
    [
        "minutes: 1\nseed: !!python/object/apply:os.system ['touch mark']\n",
        "minutes: 1\nseed: !!python/object/new:evil.Thing []\n",
        "minutes: 1\ninput: {class_path: evil.Thing, init_args: {command: touch mark}}\n",
        "minutes: 1\nphases: {calibration: {class_path: subprocess.Popen, init_args: {args: [touch, mark]}}}\n",
        "minutes: 1\ncalibration: {pretrained: {class_path: evil.Thing}}\n",
        "minutes: 1\ncalibration: {class_path: evil.Thing}\n",
        "minutes: 1\nclass_path: evil.Thing\n",
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",  # references make a small file a huge one
        "a: &a {b: *a}\n",
        "[" * 1500,
        "x: 1\n" * 300_000,
    ],
)
def test_a_config_imports_and_runs_nothing(text: str, evil: Path) -> None:
    (evil / "config.yaml").write_text(text)
    with pytest.raises(InputError):
        load_config("config.yaml")
    assert not (evil / "mark").exists()


def test_a_flag_imports_and_runs_nothing(evil: Path) -> None:
    (evil / "config.yaml").write_text("class_path: evil.Thing\n")
    named = '{"class_path": "evil.Thing"}'
    for flags in (["--input", named], ["--phases.calibration", named], ["--input=config.yaml"], ["--config", named]):
        assert main(["train", "--data", "store", "--minutes", "1", *flags]) == 2
    assert main(["train", "--data", "store", "--minutes", "1", "--calibration.pretrained", named]) == 2
    assert not (evil / "mark").exists()


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder holds a module that leaves a mark when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text("open('mark', 'w')\n\nclass Thing: pass\n")
    return tmp_path
