"""training.compile: the same losses, and a way back where a network cannot be compiled."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stochseg.training.compiled import or_plain
from stochseg.training.log import read_metrics
from stochseg.training.run import train

from .test_training import SMALL, flags, same, step_lines, weights


def test_a_network_that_cannot_be_compiled_runs_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    tried = []

    def no_compiler(*_: Any) -> Any:
        tried.append(1)
        raise OSError("no compiler here\nand more")

    net = nn.Linear(3, 2)
    run = or_plain("calibration", net, torch.compile(net, backend=no_compiler))
    x = torch.randn(4, 3)
    assert torch.equal(run(x), net(x))
    assert torch.equal(run(x), net(x))
    assert len(tried) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "the calibration network cannot be compiled" in said[0]
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run(torch.randn(4, 5))


def test_what_compiles_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    net = nn.Linear(3, 2)
    run = or_plain("calibration", net, torch.compile(net, backend=backend))
    x = torch.randn(4, 3)
    assert torch.allclose(run(x), net(x))
    assert len(graphs) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_run_has_the_losses_of_a_plain_one(tiny_store: Path, tmp_path: Path, mode: str) -> None:
    """On a machine with a GPU that is where it runs, with CUDA graphs in the second mode."""
    pytest.importorskip("torch._inductor", reason="this torch has no compiler")
    settings = SMALL | {"steps": 4, "training.ema": None}
    plain = train(data=tiny_store, out=tmp_path / "plain", config="lidc", **settings)
    settings |= {"training.compile": True, "training.compile_mode": mode}
    quick = train(data=tiny_store, out=tmp_path / "quick", config="lidc", **settings)
    for a, b in zip(step_lines(plain), step_lines(quick), strict=True):
        assert a["energy"] == pytest.approx(b["energy"], rel=1e-3)
        assert a["cross_entropy"] == pytest.approx(b["cross_entropy"], rel=1e-3)
    assert read_metrics(quick)[-1]["val_ged"] == pytest.approx(read_metrics(plain)[-1]["val_ged"], abs=0.05)


@pytest.mark.slow
def test_without_a_compiler_training_goes_on_and_says_so(tiny_store: Path, tmp_path: Path) -> None:
    settings = SMALL | {"steps": 2, "training.compile": True}
    command = [sys.executable, "-m", "stochseg", "train", "--data", str(tiny_store), "--out", str(tmp_path / "run")]
    variables = os.environ | {"CXX": "/nowhere/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    variables["OMP_NUM_THREADS"] = "1"  # as here: sums of other numbers of threads round otherwise
    ended = subprocess.run([*command, *flags(settings)], env=variables, capture_output=True, text=True, check=True)
    assert "training.compile: the calibration network cannot be compiled" in ended.stderr
    assert "training.compile: the refinement network cannot be compiled" in ended.stderr
    plain = train(data=tiny_store, out=tmp_path / "plain", config="lidc", **SMALL, steps=2)
    assert same(weights(plain), weights(tmp_path / "run"))
