"""The regression study: its exact distribution, all runs at once against each alone, scores that collapse cannot win."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor, nn

from stochseg.cli import main
from stochseg.config import to_plain
from stochseg.data.regression import FORKED, Bimodal, upper_branch
from stochseg.errors import InputError, Stopped
from stochseg.objectives.calibration import gaussian_kl
from stochseg.objectives.cross_entropy import gaussian_cross_entropy
from stochseg.presets import load_config
from stochseg.regression.config import StudyConfig
from stochseg.regression.judging import collapsed_samples, draw_truth
from stochseg.regression.networks import ManyMLPs
from stochseg.regression.runs import Grid, Runs, build_networks
from stochseg.regression.scores import grid_of_x, score_samples
from stochseg.regression.study import load_study, run_study
from stochseg.regression.training import accumulate_gradients, draw_batch, train_calibration, train_runs
from stochseg.training.run_config import begun

SETTINGS = [(0.5, 0.01), (0.6, 0.02), (0.9, 0.03)]
SMALL: dict[str, Any] = {
    "pi": [0.5, 0.9],
    "sigma": [0.02],
    "repetitions": 2,
    "steps": 6,
    "calibration_steps": 3,
    "score_every": 3,
    "width": 8,
    "depth": 2,
    "methods": ["adversarial", "calibrated", "energy"],
}

QUICK: dict[str, Any] = {
    "pi": [0.5, 0.9],
    "sigma": [0.02],
    "repetitions": 1,
    "methods": ["calibrated"],
    "calibration": 10,
    "lr": 3e-4,
    "betas": [0.5, 0.999],
    "calibration_steps": 500,
    "steps": 700,
}


@pytest.fixture
def data() -> Bimodal:
    pairs = torch.tensor(SETTINGS, dtype=torch.float64)
    return Bimodal(pairs[:, :1], pairs[:, 1:])


# --- the data ---


def mixture(x: float, pi: float, sigma: float) -> tuple[Any, Any]:
    """Density and distribution function of y at x, by scipy."""
    s = 0.5 if x < 0.4 else 1 - 1.25 * x if x < 0.8 else 0.0
    above, below = stats.norm(s, sigma), stats.norm(-s, sigma)
    return (
        lambda y: pi * above.pdf(y) + (1 - pi) * below.pdf(y),
        lambda y: pi * above.cdf(y) + (1 - pi) * below.cdf(y),
    )


@pytest.mark.parametrize("at", range(3))
def test_density_and_distances_are_those_of_the_mixture(data: Bimodal, at: int) -> None:
    y = np.linspace(-1, 1, 20001)
    xs, points = [0.1, 0.5, 0.79, 0.9], [-0.6, 0.02, 0.31]
    x = torch.tensor(xs, dtype=torch.float64).expand(3, -1)
    given = torch.tensor(points, dtype=torch.float64).expand(3, len(xs), -1)
    density = data.log_density(x, torch.from_numpy(y).expand(3, len(xs), -1))[at].exp()
    distance, difference = data.mean_distance(x, given)[at], data.mean_difference(x)[at]
    for i, one in enumerate(xs):
        pdf, cdf = mixture(one, *SETTINGS[at])
        np.testing.assert_allclose(density[i], pdf(y) + 1e-11, rtol=1e-9)
        for j, point in enumerate(points):
            assert float(distance[i, j]) == pytest.approx(integrate.simpson(np.abs(point - y) * pdf(y), x=y), rel=1e-6)
        # E|Y - Y'| = 2 int F (1 - F)
        assert float(difference[i]) == pytest.approx(2 * integrate.simpson(cdf(y) * (1 - cdf(y)), x=y), rel=1e-6)
        assert float(data.mean(x)[at, i]) == pytest.approx(integrate.simpson(y * pdf(y), x=y), abs=1e-9)


def test_draws_follow_the_distribution(data: Bimodal) -> None:
    generator = torch.Generator().manual_seed(0)
    for value in (0.2, 0.6, 0.9):
        y = data.draw(torch.full((3, 4000), value, dtype=torch.float64), generator)
        for at, setting in enumerate(SETTINGS):
            assert stats.kstest(y[at].numpy(), mixture(value, *setting)[1]).pvalue > 1e-3


def test_below_the_fork_the_sign_tells_the_branch() -> None:
    assert float(upper_branch(torch.tensor(FORKED - 1e-6))) > 4 * 0.03


# --- the two likelihoods ---


def test_the_gaussian_losses_are_those_of_unit_gaussians() -> None:
    torch.manual_seed(0)
    mean, reference, y = torch.randn(3, 7, 1, dtype=torch.float64).unbind(0)
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(normal(mean, 1.0), normal(reference, 1.0)).mean()
    assert gaussian_kl(mean, reference).item() == pytest.approx(kl.item())
    nll = -normal(reference, 1.0).log_prob(y).mean() - 0.5 * np.log(2 * np.pi)
    assert gaussian_cross_entropy(reference, y).item() == pytest.approx(nll.item())
    fixed = reference.requires_grad_()
    gaussian_kl(mean.requires_grad_(), fixed).backward()
    assert fixed.grad is None
    assert torch.allclose(mean.grad, (mean - reference).detach() / 7)  # type: ignore[arg-type]


# --- all runs at once ---


def alone(many: ManyMLPs, run: int) -> nn.Sequential:
    """The network of one run in torch's own layers."""
    layers: list[nn.Module] = []
    for weight, bias in zip(many.weights, many.biases):
        linear = nn.Linear(weight.shape[1], weight.shape[2])
        linear.weight.data, linear.bias.data = weight.data[run].T.clone(), bias.data[run, 0].clone()
        layers += [linear, nn.LeakyReLU(many.slope)]
    return nn.Sequential(*layers[:-1])


def one_runs_losses(method: str, g: nn.Module, d: nn.Module, x: Tensor, y: Tensor, f: Tensor, z: Tensor) -> None:
    """The paper's losses of one run written out, with torch's own functions; leaves gradients. z: [b n 1]."""
    n = z.shape[1]
    samples = torch.stack([g(torch.cat([x, f, z[:, i]], 1)) for i in range(n)], 1)  # [b n 1]
    bce = nn.functional.binary_cross_entropy_with_logits
    if method == "energy":
        s, total = samples[..., 0], torch.zeros(())
        near = (s - y).abs().mean()
        pairs = [(s[:, i] - s[:, j]).abs() for i in range(n) for j in range(n) if i != j]
        total = 2 * near - torch.stack(pairs).mean()
    else:
        fake = torch.stack([d(torch.cat([x, samples[:, i]], 1)) for i in range(n)], 1)
        total = bce(fake, torch.ones_like(fake))
    if method == "calibrated":
        total = total + 0.5 * ((samples.mean(1) - f) ** 2).mean()
    total.backward()
    if method == "energy":
        return
    d.zero_grad()
    real, fake = d(torch.cat([x, y], 1)), d(torch.cat([x, samples[:, 0].detach()], 1))
    (bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))).backward()


@pytest.mark.parametrize("method", ["adversarial", "calibrated", "energy"])
def test_the_gradients_of_all_runs_are_those_of_each_alone(method: Any) -> None:
    config = StudyConfig(pi=(0.5, 0.9), sigma=(0.02, 0.03), repetitions=2, width=8, depth=3, samples=4)
    grid = Grid.of(config, torch.device("cpu"))
    runs = Runs(method, grid, build_networks(config, grid))
    r, b, n = 8, 5, config.objective(method).samples
    generator = torch.Generator().manual_seed(1)
    x, y = draw_batch(grid.runs, b, generator)
    z = torch.randn(r * b, n, 1, generator=generator)
    f = runs.calibration(x.view(r, b)).view(-1, 1)
    names = ["refinement"] if method == "energy" else ["refinement", "discriminator"]
    networks = nn.ModuleDict({name: runs.networks[name] for name in names})
    accumulate_gradients(networks, x, y, f, z, config.objective(method), r)
    for run in range(r):
        rows = slice(run * b, (run + 1) * b)
        setting = run // 2
        f_alone = alone(runs.networks["calibration"], setting)(x[rows]).detach()  # type: ignore[arg-type]
        assert torch.allclose(f_alone, f[rows], atol=1e-6)
        g, d = (alone(runs.networks[name], run) for name in ("refinement", "discriminator"))  # type: ignore[arg-type]
        one_runs_losses(method, g, d, x[rows], y[rows], f_alone, z[rows])
        for name, net in zip(names, (g, d)):
            linears = [layer for layer in net if isinstance(layer, nn.Linear)]  # type: ignore[attr-defined]
            for layer, weight, bias in zip(linears, networks[name].weights, networks[name].biases):  # type: ignore[arg-type]
                assert torch.allclose(weight.grad[run].T, layer.weight.grad, rtol=1e-4, atol=1e-6)
                assert torch.allclose(bias.grad[run, 0], layer.bias.grad, rtol=1e-4, atol=1e-6)


def test_methods_start_from_the_same_weights_and_runs_from_different_ones() -> None:
    config = StudyConfig(width=8, depth=2)
    grid = Grid.of(config, torch.device("cpu"))
    first, second = (build_networks(config, grid)["refinement"].weights[0] for _ in range(2))  # type: ignore[union-attr]
    assert torch.equal(first, second)
    assert len(first.flatten(1).unique(dim=0)) == 45


# --- scores ---


def test_the_log_likelihood_rewards_collapse_and_the_two_sided_scores_do_not(data: Bimodal) -> None:
    x = grid_of_x(data, 50).double()
    truth = score_samples(data, x, draw_truth(data, x, 2000, seed=0))
    collapsed = score_samples(data, x, collapsed_samples(data, x, 2000))
    assert (collapsed["log_likelihood"] > truth["log_likelihood"] + 0.4).all()
    for name in ("crps", "energy_distance", "frequency_error", "frequency_error_per_x"):
        assert (collapsed[name] > truth[name] + 0.01).all(), name
    assert truth["energy_distance"].abs().max() < 2e-3
    assert (collapsed["frequency_error"] == 1 - data.pi[:, 0]).all()
    assert truth["frequency_error"].max() < 0.01


def test_a_mean_answer_and_the_wrong_branch_by_turns_lose_too(data: Bimodal) -> None:
    """F(x) alone is unbiased, and branches that alternate over x have the right frequency on the whole."""
    x = grid_of_x(data, 50).double()
    truth = score_samples(data, x, draw_truth(data, x, 500, seed=0))
    mean = score_samples(data, x, data.mean(x)[..., None].expand(-1, -1, 500))
    turns = torch.where(torch.arange(50) % 2 == 0, upper_branch(x), -upper_branch(x))[..., None].expand(-1, -1, 500)
    by_turns = score_samples(data, x, turns)
    assert float(by_turns["frequency_error"][0]) < 0.05
    assert float(by_turns["frequency_error_per_x"][0]) == pytest.approx(0.5)
    for wrong in (mean, by_turns):
        assert (wrong["energy_distance"] > truth["energy_distance"] + 0.05).all()


def test_scores_are_those_of_integrals_and_pairs(data: Bimodal) -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 0.4, (3, 2, 5))
    x = torch.tensor([0.3, 0.75], dtype=torch.float64).expand(3, -1)
    found = score_samples(data, x, torch.from_numpy(samples))
    y = np.linspace(-3, 3, 60001)
    for at, setting in enumerate(SETTINGS):
        distances, scores = [], []
        for i, one in enumerate((0.3, 0.75)):
            s, cdf = samples[at, i], mixture(one, *setting)[1](y)
            steps = (s[:, None] <= y).mean(0)
            biased = 2 * integrate.trapezoid((steps - cdf) ** 2, y)  # the energy distance of the samples as they are
            pairs = np.abs(s[:, None] - s).sum()
            own = 2 * integrate.trapezoid(cdf * (1 - cdf), y)
            distances.append(biased + pairs / 25 - pairs / 20)
            scores.append((distances[-1] + own) / 2)
        assert float(found["energy_distance"][at]) == pytest.approx(np.mean(distances), abs=1e-4)
        assert float(found["crps"][at]) == pytest.approx(np.mean(scores), abs=1e-4)
        assert float(found["frequency"][at]) == pytest.approx((samples[at, 0] > 0).mean())


# --- the command ---


def flags(settings: dict[str, Any]) -> list[str]:
    return [word for key, value in settings.items() for word in (f"--{key}", json.dumps(value))]


def test_with_the_calibration_loss_the_frequencies_are_learned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command, at three times the paper's learning rate and ten times its weight of the loss: far fewer steps do."""
    run = tmp_path / "run"
    arguments = ["train", "--config", "regression", "--out", str(run), *flags(QUICK)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "the true distribution" in out
    assert "with L_cal" in out
    results = json.loads((run / "results.json").read_text())
    learned = [row for row in results["runs"] if row["method"] == "calibrated"]
    assert [(row["pi"], row["sigma"]) for row in learned] == [(0.5, 0.02), (0.9, 0.02)]
    for row in learned:
        assert abs(row["frequency"] - row["pi"]) < 0.05
    collapsed = results["summary"]["collapsed"]["energy_distance"]["median"]
    assert results["summary"]["calibrated"]["energy_distance"]["median"] < 0.2 * collapsed


def test_a_stopped_study_goes_on_to_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    config = load_study("regression", SMALL)
    grid = Grid.of(config, torch.device("cpu"))
    stopped = threading.Event()
    stopped.set()
    with begun(run, {"study": "regression"} | to_plain(config), resume=False), pytest.raises(Stopped):
        train_calibration(
            build_networks(config, grid)["calibration"],
            grid.settings,
            config,
            run / "checkpoint" / "calibration",
            stopped,
        )
    assert main(["train", "--resume", "--out", str(run)]) == 0
    assert "energy loss" in capsys.readouterr().out
    results = json.loads((run / "results.json").read_text())
    assert results["summary"]["calibrated"]["runs"] == 4
    rows = [
        (row["method"], row["pi"], row["repetition"]) for row in results["runs"] if row["method"] in SMALL["methods"]
    ]
    assert sorted(rows) == sorted((m, p, r) for m in SMALL["methods"] for p in (0.5, 0.9) for r in (0, 1))
    curves = json.loads((run / "curves.json").read_text())
    assert [point["step"] for point in curves["calibrated"]] == [3, 6]
    page = (run / "report.html").read_text()
    assert page.count("<picture>") == 4
    assert 'src="http' not in page
    assert {f.name for f in (run / "figures").iterdir()} == {
        f"{name}.{kind}" for name in ("samples", "discriminator", "curves", "frequencies") for kind in ("png", "pdf")
    }


def test_a_run_stopped_at_every_step_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    config = load_study("regression", SMALL)
    grid = Grid.of(config, torch.device("cpu"))
    runs = [Runs("calibrated", grid, build_networks(config, grid)) for _ in range(2)]
    unbroken = train_runs(runs[0], config, tmp_path / "unbroken", threading.Event())
    stopped = threading.Event()
    stopped.set()
    for _ in range(config.steps - 1):
        broken = Runs("calibrated", grid, build_networks(config, grid))
        with pytest.raises(Stopped, match="--resume"):
            train_runs(broken, config, tmp_path / "broken", stopped)
    curves = train_runs(runs[1], config, tmp_path / "broken", threading.Event())
    assert curves["curves"] == unbroken["curves"]
    weights = [dict(one.networks.state_dict()) for one in runs]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["train", *arguments]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_help_is_that_of_the_study(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, wanted in (
        (["--config", "regression"], "--repetitions"),
        (["--config=regression"], "Runs of each setting"),
        ([], "`stochseg train --config regression --help`"),
    ):
        with pytest.raises(SystemExit):
            main(["train", *arguments, "--help"])
        assert wanted in " ".join(capsys.readouterr().out.split())


def test_bad_input_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = ("--config", "regression", "--out", str(tmp_path / "run"))
    assert "--pi [0.5, 1.5]: must be above 0 and below 1" in refused(capsys, *study, "--pi", "[0.5, 1.5]")
    assert "--pi [0.5, 0.5]: must be one or more, all different" in refused(capsys, *study, "--pi", "[0.5, 0.5]")
    assert "--sigma [0.2]: must be above 0 and at most 0.03" in refused(capsys, *study, "--sigma", "[0.2]")
    assert "--samples 1: must be at least 2" in refused(capsys, *study, "--samples", "1")
    assert "did you mean --repetitions?" in refused(capsys, *study, "--repetition", "1")
    assert "--methods" in refused(capsys, *study, "--methods", '["magic"]')
    assert "unrecognized arguments: --data" in refused(capsys, *study, "--data", "stores/lidc")
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("keep me")
    assert "is not empty" in refused(capsys, *study)
    assert "holds no run to go on with" in refused(capsys, *study[2:], "--resume", "--config", "regression")


def test_a_resumed_study_stays_what_it_is(tmp_path: Path) -> None:
    with begun(tmp_path, {"study": "regression", "steps": 5}, resume=False):
        pass
    with pytest.raises(InputError, match="steps was 5 in"):
        run_study(tmp_path, resume=True, steps=7)
    with pytest.raises(InputError, match="leave --config out"):
        run_study(tmp_path, config="regression", resume=True)


def test_the_preset_is_the_papers_grid_and_survives_a_round_trip(tmp_path: Path) -> None:
    config = load_study("regression", {})
    assert config == StudyConfig()
    assert len(config.pi) * len(config.sigma) * len(config.methods) * config.repetitions == 90
    with begun(tmp_path, {"study": "regression"} | to_plain(config), resume=False):
        pass
    assert load_study(str(tmp_path / "config.yaml"), {}) == config


def test_a_study_is_no_training_on_a_store() -> None:
    with pytest.raises(InputError, match="makes its own data"):
        load_config("regression")
    with pytest.raises(InputError, match="is not this study"):
        load_study("lidc", {})
