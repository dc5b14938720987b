"""Exported graphs give what the model gives, at any batch, number of samples and size; a file is whole and right, or absent."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from stochseg.baselines.probabilistic_unet import ProbabilisticUNet
from stochseg.baselines.ssn import StochasticSegmentationNetwork
from stochseg.cli import main
from stochseg.config import BaselineConfig, CalibrationConfig, RefinementConfig
from stochseg.errors import InputError, RunError
from stochseg.export import export
from stochseg.models.car import CAR
from stochseg.models.class_maps import one_hot_maps
from stochseg.models.padding import _reflected, pad_to_multiple
from stochseg.models.segmenter import Segmenter

ROOT = Path(__file__).parents[1]
FIXED = ((1, 1, 32, 32), (3, 5, 32, 32))
SHAPES = ((1, 1, 32, 32), (2, 3, 19, 41), (3, 1, 5, 64), (1, 2, 3, 5))
UNET = CalibrationConfig(widths=(4, 8))
FILM = RefinementConfig(widths=(4, 8))


def shaken(model: Segmenter) -> Any:
    """With weights that make samples differ, and none of its zeros left."""
    g = torch.Generator().manual_seed(1)
    for name, p in model.networks.named_parameters():
        strong = name.endswith(("noise.weight", "refinement.head.weight", "combine.4.weight"))
        p.data += (1.0 if strong else 0.1) * torch.randn(p.shape, generator=g)
    return model


def with_choice() -> CAR:
    """Every part that a graph must hold: the choice of the empty map, a temperature a class, the spatial noise."""
    model: CAR = shaken(CAR(3, 1, (32, 32), UNET, RefinementConfig(widths=(4, 8), choice=True)))
    model.networks["refinement"].presence[-1].bias.data = torch.tensor([0.0, -5.0])  # the empty map now and then
    model.temperature = (0.7, 1.3, 2.0)
    return model


def inputs(model: Segmenter, shape: tuple[int, int, int, int]) -> dict[str, Tensor]:
    b, n, h, w = shape
    g = torch.Generator().manual_seed(h)
    found = {
        "images": torch.rand(b, model.channels, h, w, generator=g) * 2 - 1,
        "z": torch.randn(b, n, model.latent, generator=g),
    }
    if model.takes_blackbox:
        k = len(model.classes)
        found["blackbox"] = one_hot_maps(torch.randint(k, (b, h, w), generator=g), k)
    return found


def run_onnx(file: Path, given: dict[str, Tensor]) -> list[np.ndarray]:
    session = pytest.importorskip("onnxruntime").InferenceSession(file)
    return session.run(None, {name: t.numpy() for name, t in given.items()})


def check(model: Segmenter, run: Callable[[dict[str, Tensor]], list[Any]], shape: tuple[int, int, int, int]) -> None:
    given = inputs(model, shape)
    maps, *q = (torch.as_tensor(found) for found in run(given))
    wanted = model.sample(given["images"], z=given["z"], blackbox=given.get("blackbox"))
    assert maps.dtype == torch.int64
    assert torch.equal(maps, wanted)
    if q:
        assert torch.allclose(q[0], model.probabilities(given["images"], given.get("blackbox")), atol=1e-4)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "model"
    with_choice().save(folder)
    return folder


@pytest.fixture(scope="module")
def onnx_file(saved: Path) -> Path:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    assert main(["export", str(saved), "--format", "onnx", "--fixed-size"]) == 0  # a third of the time
    return saved / "export" / "model.onnx"


def test_onnx_is_the_model(onnx_file: Path) -> None:
    model = with_choice()
    for shape in FIXED:
        check(model, lambda given: run_onnx(onnx_file, given), shape)
    given = inputs(model, (1, 64, 32, 32))
    maps = run_onnx(onnx_file, given)[0][0]
    empty = (maps == 0).all((1, 2))
    chosen = torch.special.ndtr(given["z"][0, :, -1]).numpy()
    assert len(np.unique(maps)) > 1
    assert 0 < empty.sum() < 64  # the choice is in the graph, drawn by the last number of z
    assert chosen[empty].max() < chosen[~empty].min()
    assert len({m.tobytes() for m in maps[~empty]}) > 10


def test_onnx_says_what_it_takes(onnx_file: Path) -> None:
    session = pytest.importorskip("onnxruntime").InferenceSession(onnx_file)
    assert [(i.name, i.shape) for i in session.get_inputs()] == [
        ("images", ["b", 1, 32, 32]),
        ("z", ["b", "n", with_choice().latent]),
    ]
    assert [(o.name, o.shape, o.type) for o in session.get_outputs()] == [
        ("maps", ["b", "n", 32, 32], "tensor(int64)"),
        ("q", ["b", 3, 32, 32], "tensor(float)"),
    ]
    facts = json.loads(session.get_modelmeta().custom_metadata_map["stochseg"])
    assert [c["name"] for c in facts["classes"]] == [c.name for c in with_choice().classes]
    assert facts["temperature"] == [0.7, 1.3, 2.0]
    assert b"site-packages" not in onnx_file.read_bytes()  # where it was made is nobody's business


def test_the_example_needs_no_torch(onnx_file: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scan.png")
    code = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); "
    code += "assert not {'torch', 'stochseg'} & set(sys.modules)"
    command = [ROOT / "examples/onnx_samples.py", onnx_file, tmp_path / "scan.png", "--samples", "3", "--seed", "5"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, command), "--out", str(tmp_path / "samples.png")],
        check=True,
        capture_output=True,
        text=True,
    )
    model = with_choice()
    z = torch.from_numpy(np.random.default_rng(5).standard_normal((1, 3, model.latent), np.float32))
    maps = model.sample(torch.from_numpy(pixels)[None, None].float() / 127.5 - 1, z=z)[0]
    for number, line in enumerate(done.stdout.splitlines()):
        assert str((maps == number).sum((1, 2)).tolist()) in line
    assert Image.open(tmp_path / "samples.png").size == (3 * 32, 32)


def test_nothing_is_overwritten_in_silence(onnx_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = onnx_file.read_bytes()
    assert main(["export", str(onnx_file.parents[1]), "--format", "onnx"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert onnx_file.read_bytes() == before
    assert [f.name for f in onnx_file.parent.iterdir()] == ["model.onnx"]


@pytest.mark.slow
def test_torch_export_at_one_size(tmp_path: Path) -> None:
    model = with_choice()
    done = export(model, "torch", tmp_path / "graph.pt2", fixed_size=True)
    assert done.file == tmp_path / "graph.pt2"
    module = torch.export.load(done.file).module(check_guards=False)
    for shape in FIXED:
        check(model, lambda given: list(module(**given)), shape)


@pytest.mark.slow
def test_torch_export_runs_without_stochseg(saved: Path, tmp_path: Path) -> None:
    file = export(saved, "torch", tmp_path, "probabilities").file
    code = (
        "import sys, torch; sys.modules['stochseg'] = None; "
        "module = torch.export.load(sys.argv[1]).module(check_guards=False); given = torch.load(sys.argv[2]); "
        "torch.save([module(**g) for g in given], sys.argv[3])"
    )
    model = with_choice()
    given = [inputs(model, shape) for shape in SHAPES]
    torch.save(given, tmp_path / "given")
    subprocess.run([sys.executable, "-c", code, file, tmp_path / "given", tmp_path / "found"], check=True)
    for one, (soft, q) in zip(given, torch.load(tmp_path / "found")):
        assert torch.allclose(soft, model.refine(one["images"], q, one["z"]), atol=1e-5)
        assert torch.allclose(q, model.probabilities(one["images"]), atol=1e-6)


def corrected() -> CAR:
    model = CAR(
        3,
        1,
        (32, 32),
        CalibrationConfig(widths=(4, 8), residual=True),
        RefinementConfig(widths=(4, 8), class_noise=True, bound=0.5),
        blackbox="saved",
    )
    model.soft_blackbox = True
    return model


KINDS: dict[str, Callable[[], Segmenter]] = {
    "choice and temperature": with_choice,
    "paper": lambda: CAR(
        2, 1, (32, 32), CalibrationConfig(net="segnet", width=4), RefinementConfig(net="paper", width=4)
    ),
    "over a black box": lambda: CAR(
        3,
        3,
        (32, 32),
        CalibrationConfig(net="convnet", width=4),
        RefinementConfig(net="paper", width=4),
        blackbox="saved",
    ),
    "corrections of a black box": corrected,
    "patches": lambda: CAR(
        2, 1, (32, 32), CalibrationConfig(widths=(4, 8), patch=2), RefinementConfig(widths=(4, 8), patch=2, fine=False)
    ),
    "class noise alone": lambda: CAR(
        3, 1, (32, 32), CalibrationConfig(net="none"), RefinementConfig(widths=(4, 8), class_noise=True)
    ),
    "hypotheses": lambda: CAR(
        3, 1, (32, 32), UNET, RefinementConfig(net="hypotheses", hypotheses=3, widths=(4, 8), patch=2)
    ),
    "probabilistic-unet": lambda: ProbabilisticUNet(2, 1, (32, 32), BaselineConfig(widths=(4, 8))),
}


@pytest.mark.parametrize("format", ["onnx", "torch"])
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "hypotheses" else pytest.mark.slow) for kind in KINDS]
)
def test_every_network(kind: str, format: Any, tmp_path: Path) -> None:
    model = KINDS[kind]() if kind == "choice and temperature" else shaken(KINDS[kind]())
    file = export(model, format, tmp_path).file
    if format == "onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(file)
        free = [[axis for axis in i.shape if isinstance(axis, str)] for i in session.get_inputs()]
        assert free[:2] == [["b", "h", "w"], ["b", "n"]]
    module = None if format == "onnx" else torch.export.load(file).module(check_guards=False)
    for shape in SHAPES:
        check(model, lambda given: run_onnx(file, given) if module is None else list(module(**given)), shape)


class Sly(nn.Module):
    """A network that is another one when it is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * (1.1 if torch.compiler.is_compiling() else 1.0)


class Moody(Sly):
    """A network whose layers depend on the numbers in the image."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.mean() > 0 else self.conv(-x)


@pytest.mark.parametrize(("net", "message"), [(Sly, "differs from the model"), (Moody, "cannot be made one graph")])
def test_a_graph_that_is_not_the_model_is_never_left(net: type[nn.Module], message: str, tmp_path: Path) -> None:
    model = CAR(2, 1, (16, 16), net(), FILM)
    with pytest.raises(RunError, match=message) as caught:
        export(model, "torch", tmp_path / "out" / "graph.pt2", fixed_size=True)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_bad_requests(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*flags: object) -> str:
        assert main(["export", *map(str, flags)]) == 2
        return capsys.readouterr().err

    assert "no such run" in refused(tmp_path / "nowhere")
    assert "--format onnx writes .onnx" in refused(saved, "--out", tmp_path / "x.pt2")
    assert "--format" in refused(saved, "--format", "tflite")
    shaken(StochasticSegmentationNetwork(2, 1, (32, 32), BaselineConfig(widths=(4, 8)))).save(tmp_path / "ssn")
    assert "the method ssn draws noise beyond z" in refused(tmp_path / "ssn", "--format", "torch")
    assert not (tmp_path / "ssn" / "export").exists()
    with pytest.raises(InputError, match="say where"):
        export(with_choice(), "torch")


@pytest.mark.parametrize("stride", [2, 8, 32])
def test_padding_in_a_graph_is_the_padding_outside(stride: int) -> None:
    for size in (1, 2, 3, 7, 8, 9, 31, 33, 64):
        x = torch.arange(size * 5).reshape(1, 1, size, 5).float()
        rows = _reflected(size, stride, x.device)
        wanted, _ = pad_to_multiple(x.expand(1, 1, size, 5), stride)
        columns = _reflected(5, stride, x.device)
        assert torch.equal(x[..., rows, :][..., columns], wanted)
