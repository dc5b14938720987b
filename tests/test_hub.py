"""Models on a hub: a real client and a hub on this machine that speaks its protocol."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from stochseg.config import CalibrationConfig, RefinementConfig
from stochseg.errors import InputError
from stochseg.hub import is_hub_name
from stochseg.models.car import CAR

from .hub_server import Hub

pytest.importorskip("huggingface_hub")

PUSH_AND_LOAD = """
import stochseg, sys, torch
model = stochseg.CAR.load("here")
print(model.push_to_hub("me/lesions", token="hf_secret"))
x, z = torch.load("batch")
for loaded in (stochseg.load("me/lesions"), stochseg.CAR.from_pretrained("me/lesions"), stochseg.CAR.from_pretrained("here")):
    assert type(loaded) is stochseg.CAR and loaded.temperature == model.temperature
    assert torch.equal(loaded.sample(x, z=z), model.sample(x, z=z))
assert '"me/lesions"' in stochseg.load("me/lesions").card
"""
REFUSED = """
for call in (
    lambda: stochseg.load("me/nothing"),
    lambda: stochseg.load("me/other"),
    lambda: stochseg.load("here").push_to_hub("lesions"),
    lambda: stochseg.CAR.from_pretrained("me/lesions/deep"),
):
    try:
        call()
        print("done")
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a model, `here`, and a batch."""
    model = CAR(2, 1, (32, 32), CalibrationConfig(widths=(4, 8)), RefinementConfig(widths=(4, 8)))
    g = torch.Generator().manual_seed(0)
    for p in model.networks.parameters():
        p.data += 0.3 * torch.randn(p.shape, generator=g)
    model.temperature = (1.5, 2.0)
    model.save(tmp_path / "here", 'Ours.\n\n    stochseg.load("FOLDER")\n')
    torch.save((torch.rand(2, 1, 32, 32), torch.randn(2, 3, model.latent)), tmp_path / "batch")
    return tmp_path


def run(code: str, folder: Path, hub: Hub, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"HF_ENDPOINT": hub.address, "HF_HOME": str(folder / "cache")} | environment,
        capture_output=True,
        text=True,
    )


def test_a_model_comes_back_as_it_was_sent_and_nothing_else_is_one(here: Path, hub: Hub) -> None:
    hub.files["me/other"] = {"config.json": b"{}", "model.bin": b""}
    done = run(PUSH_AND_LOAD + REFUSED, here, hub)
    assert done.returncode == 0, done.stderr
    address, *refused = done.stdout.splitlines()
    assert address.startswith(f"{hub.address}/me/lesions/commit/")
    sent = hub.files["me/lesions"]
    assert set(sent) == {"model.safetensors", "config.json", "calibration.json", "README.md"}
    assert sent["README.md"].decode() == 'Ours.\n\n    stochseg.load("me/lesions")\n'
    assert sent["model.safetensors"] == (here / "here" / "model.safetensors").read_bytes()
    assert "Bearer hf_secret" in hub.tokens
    wanted = (
        "InputError me/nothing: no such model or revision here or on the hub",
        "InputError me/other: the hub has it, but it is no stochseg model (no model.safetensors)",
        "InputError lesions: a model on the hub is named OWNER/NAME",
        "InputError me/lesions/deep: no such run",
    )
    assert len(refused) == len(wanted)
    assert all(line.startswith(message) for line, message in zip(refused, wanted)), refused


@pytest.mark.slow
def test_a_hub_that_is_away_is_said(here: Path, hub: Hub) -> None:
    done = run('import stochseg\nstochseg.load("me/lesions")', here, hub, HF_HUB_OFFLINE="1")
    assert "RunError: me/lesions: cannot be downloaded" in done.stderr.splitlines()[-1]
    assert hub.requests == []


def test_a_mistyped_run_asks_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    assert not is_hub_name(Path("runs/lidc"))
    assert is_hub_name(Path("me/lesions"))
    for other in ("lidc", "/me/lesions", "../me", "a/b/c", "me/les ions"):
        assert not is_hub_name(Path(other))
    with pytest.raises(InputError, match="no such run"):
        CAR.load("runs/lidc")
