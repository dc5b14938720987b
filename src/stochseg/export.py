"""The command `export`: a model as one graph for other software, compared with the model before the file is there."""

import copy
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stochseg.errors import InputError, RunError
from stochseg.graph import Graph, Inputs, Output, read_onnx, read_torch, traced, write_onnx, write_torch
from stochseg.models.class_maps import class_maps, one_hot_maps
from stochseg.models.segmenter import Segmenter, load
from stochseg.writable import check_writable

Format = Literal["onnx", "torch"]
SUFFIX: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}
DIFFERING = 1e-4
"""The share of pixels that may fall to another class: where two are equally likely, rounding decides."""
LARGEST = 1e-3
"""How far a probability may be off."""
SEED = 0


@dataclass(frozen=True)
class Checked:
    """The graph beside the model on one batch.

    shape: (b, n, h, w). differing: share of pixels of another class than `sample` gives. largest: difference of a
    probability, of q and of soft samples, whichever the graph gives; None where it gives neither.
    """

    shape: tuple[int, int, int, int]
    differing: float
    largest: float | None

    @property
    def fits(self) -> bool:
        return self.differing <= DIFFERING and (self.largest is None or self.largest <= LARGEST)


@dataclass(frozen=True)
class Exported:
    """file: what was written; checked: what it was compared on before."""

    file: Path
    checked: list[Checked]


def export(
    run: str | Path | Segmenter,
    format: Format = "onnx",
    out: str | Path | None = None,
    output: Output = "maps",
    fixed_size: bool = False,
    overwrite: bool = False,
    calibration: nn.Module | None = None,
) -> Exported:
    """Write a model as one graph, after comparing it with the model on batches of several shapes.

    The file appears when it is whole and agrees: at most one pixel in 10,000 of another class, probabilities within
    0.001; RunError otherwise. InputError where the method cannot be exported, or a library is missing.

    Args:
        run: run directory or exported model.
        format: onnx, a file for onnxruntime and others; torch, a .pt2 file for torch.export.load, without stochseg.
        out: file or folder; default: RUN/export.
        output: maps, class ids int64 [b n h w]; or probabilities, float32 [b n k h w], whose argmax they are.
        fixed_size: only for images of the training size, where a network of your own cannot be traced for all sizes.
        overwrite: replace the file where it is there already.
        calibration: the calibration module, where the model was built with one of its own.
    """
    for name, value, known in (("format", format, get_args(Format)), ("output", output, get_args(Output))):
        if value not in known:
            raise InputError(f"--{name} {value}: must be {' or '.join(known)}")
    _check_libraries(format)
    if isinstance(run, Segmenter):
        if out is None:
            raise InputError("out: say where the graph of a model in memory is to go")
        model = run
    else:
        model = load(run, calibration=calibration)
        if out is None and not Path(run).exists():
            raise InputError(f"--out: say where the graph is to go; {run} is no folder here")
    file = _file(Path(out) if out is not None else Path(str(run)) / "export", format)
    if file.exists() and not overwrite:
        raise InputError(f"{file}: exists already; choose another --out, or pass --overwrite")
    check_writable(file.parent, f"--out {file}")
    with tempfile.TemporaryDirectory(prefix="stochseg-export-") as folder:
        made = Path(folder) / file.name
        checked = _write_checked(made, _bare(model), format, output, fixed_size)
        _put(made, file)
    return Exported(file, checked)


def checked_table(checked: list[Checked]) -> str:
    """What the graph was compared on, a line a batch."""
    lines = ["images  samples       size  pixels that differ  largest difference of a probability"]
    for c in checked:
        b, n, h, w = c.shape
        largest = "-" if c.largest is None else f"{c.largest:.1e}"
        lines.append(f"{b:>6}  {n:>7}  {f'{h}x{w}':>9}  {c.differing:>18.4%}  {largest:>35}")
    return "\n".join(lines)


def _write_checked(file: Path, model: Segmenter, format: Format, output: Output, fixed_size: bool) -> list[Checked]:
    """Write the graph, and compare it; RunError where it cannot be made or does not agree."""
    graph = Graph(model, output).eval()
    h, w = model.size
    example = _inputs(model, (2, 3, h, w) if fixed_size else (2, 3, h + 3, w + 10))  # equal numbers count as one axis
    cure = "" if fixed_size else "; try --fixed-size"
    with _failing_as(f"--format {format}: the networks cannot be made one graph", cure):
        program = traced(graph, example, fixed_size)
        write = write_onnx if format == "onnx" else write_torch
        write(program, file, graph, example, _facts(model, graph, fixed_size))
    with _failing_as(f"--format {format}: the graph does not run", cure):
        run = (read_onnx if format == "onnx" else read_torch)(file)
        shapes = [(1, 1, h, w), (2, 4, h, w)] if fixed_size else _shapes(h, w)
        checked = [_compared(run, graph, shape) for shape in shapes]
    wrong = [c for c in checked if not c.fits]
    if wrong:
        raise RunError(
            f"--format {format}: the graph differs from the model at shape {list(wrong[0].shape)}: {wrong[0].differing:.2%} "
            f"of the pixels, probabilities by up to {wrong[0].largest or 0:.1e}; nothing was written"
        )
    return checked


def _compared(run: Callable[[Inputs], list[Tensor]], graph: Graph, shape: tuple[int, int, int, int]) -> Checked:
    """Run the graph beside `sample` and the networks as they are."""
    model = graph.model
    inputs = _inputs(model, shape)
    with torch.no_grad():
        found = dict(zip(graph.outputs(), run(inputs), strict=True))
        wanted = dict(zip(graph.outputs(), graph(**inputs), strict=True))
    maps = found["maps"] if "maps" in found else class_maps(found["probabilities"])
    sampled = model.sample(inputs["images"], z=inputs["z"], blackbox=inputs.get("blackbox"))
    soft = [name for name in found if name != "maps"]
    return Checked(
        shape,
        float((maps != sampled).double().mean()),
        max(float((found[name] - wanted[name]).abs().max()) for name in soft) if soft else None,
    )


def _inputs(model: Segmenter, shape: tuple[int, int, int, int]) -> Inputs:
    """Images of blobs and noise, z, and a black box's class maps for a model over one."""
    b, n, h, w = shape
    g = torch.Generator().manual_seed(SEED)

    def blobs(channels: int) -> Tensor:
        coarse = torch.randn(b, channels, 6, 6, generator=g)
        return F.interpolate(coarse, size=(h, w), mode="bicubic", align_corners=False)

    images = (0.5 * blobs(model.channels) + 0.1 * torch.randn(b, model.channels, h, w, generator=g)).clamp(-1, 1)
    inputs = {"images": images, "z": torch.randn(b, n, model.latent, generator=g)}
    if model.takes_blackbox:
        k = len(model.classes)
        inputs["blackbox"] = one_hot_maps(class_maps(blobs(k)), k)
    return inputs


def _shapes(h: int, w: int) -> list[tuple[int, int, int, int]]:
    """(b, n, h, w) that a graph for every size is compared on: the training size, and odd, small and oblong ones."""
    return [(1, 1, h, w), (3, 2, h, w), (2, 1, h + 5, w - 3), (1, 4, h // 2 + 1, w + w // 3), (2, 2, 3, 7)]


def _bare(model: Segmenter) -> Segmenter:
    """The model in float32 on the CPU, its networks copied and without the discriminator."""
    networks = {name: net for name, net in model.networks.items() if name != "discriminator"}
    copied = nn.ModuleDict(copy.deepcopy(networks)).cpu().eval()
    bare = model.with_networks(copied.to(memory_format=torch.contiguous_format))  # type: ignore[call-overload]
    bare.precision, bare.orientations = "float32", 1
    return bare


def _facts(model: Segmenter, graph: Graph, fixed_size: bool) -> dict[str, Any]:
    """What a program needs to know of a graph that it did not make."""
    from stochseg import __version__

    return {
        "stochseg": __version__,
        "method": model.method,
        "classes": [asdict(c) for c in model.classes],
        "channels": model.channels,
        "latent": model.latent,
        "training_size": list(model.size),
        "fixed_size": fixed_size,
        "image_range": [-1, 1],
        "outputs": list(graph.outputs()),
        "temperature": model.temperature and list(model.temperature),
        "windows": model.windows,
        "use": "research only; not a medical device, not for clinical use",
    }


def _file(out: Path, format: Format) -> Path:
    """The file that --out names, or model.onnx or model.pt2 in the folder that it names."""
    if out.suffix in SUFFIX.values() and not out.is_dir():
        if out.suffix != SUFFIX[format]:
            raise InputError(f"--out {out}: --format {format} writes {SUFFIX[format]}; change one of them")
        return out
    if out.is_file():
        raise InputError(f"--out {out}: is a file; give a folder, or a name that ends in {SUFFIX[format]}")
    return out / f"model{SUFFIX[format]}"


def _put(made: Path, file: Path) -> None:
    """Move a file to where it belongs, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    try:
        shutil.copyfile(made, partial)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _check_libraries(format: Format) -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if format == "onnx" and missing:
        raise InputError(f"--format onnx: needs {', '.join(missing)}: pip install 'stochseg[export]'")


@contextmanager
def _failing_as(what: str, cure: str) -> Iterator[None]:
    """Whatever torch and onnxruntime raise as one RunError; InputError goes through."""
    try:
        yield
    except (InputError, RunError):
        raise
    except Exception as error:  # the exporters raise whatever their many parts do
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RunError(f"{what} ({reason.strip()}){cure}; nothing was written") from error
