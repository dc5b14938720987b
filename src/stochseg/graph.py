"""A model as one graph of tensors, traced once and written as ONNX or for torch.export.

    images float32 [b c h w] in [-1, 1], z float32 [b n z] standard normal   (blackbox float32 [b k h w])
      -> maps int64 [b n h w], or probabilities float32 [b n k h w];  q float32 [b k h w] (car)

All randomness is in z, so the graph is a pure function. b, n, h and w are free: padding to the networks' strides and
cropping back are inside. Temperature and the choice of the empty map are inside too.
"""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stochseg.models.segmenter import Segmenter

Output = Literal["maps", "probabilities"]
Inputs = dict[str, Tensor]
"""By name, in the order in which the graph takes them."""
FACTS = "stochseg"
"""Where the facts lie, as JSON: a key of an ONNX file's metadata; stochseg.json among the extra files of torch.export."""
OPSET = 18
AXES = {
    "images": ("b", "c", "h", "w"),
    "z": ("b", "n", "z"),
    "blackbox": ("b", "k", "h", "w"),
    "maps": ("b", "n", "h", "w"),
    "probabilities": ("b", "n", "k", "h", "w"),
    "q": ("b", "k", "h", "w"),
}


class Graph(nn.Module):
    """What is written: images, z and, over a black box, its answer to maps or probabilities, and q."""

    def __init__(self, model: Segmenter, output: Output) -> None:
        super().__init__()
        self.networks, self.model, self.output = model.networks, model, output

    def forward(self, images: Tensor, z: Tensor, blackbox: Tensor | None = None) -> tuple[Tensor, ...]:
        logits, q = self.model.logits(images, z, blackbox)
        logits = logits.float()
        answer = logits.argmax(2) if self.output == "maps" else logits.softmax(2)
        return (answer,) if q is None else (answer, q)

    def outputs(self) -> tuple[str, ...]:
        """Names of what `forward` returns."""
        return (self.output, "q") if self.model.method == "car" else (self.output,)


def traced(graph: Graph, inputs: Inputs, fixed_size: bool) -> Any:
    """The ExportedProgram of a graph for every b and n, and unless `fixed_size` every h and w.

    inputs: an example of at least 2 of everything. Whatever torch raises where the networks cannot be traced.
    """
    from torch.fx.experimental import _config

    free = {"b", "n"} if fixed_size else {"b", "n", "h", "w"}
    dynamic = {
        name: {i: torch.export.Dim.DYNAMIC for i, axis in enumerate(AXES[name]) if axis in free} for name in inputs
    }
    # Otherwise torch ties the graph to what it sees in the example: sizes above 1, or which of its kernels is quickest.
    with (
        quiet(),
        torch.no_grad(),
        torch.backends.mkldnn.flags(enabled=False),
        _config.patch(backed_size_oblivious=True),  # type: ignore[attr-defined]
    ):
        program = torch.export.export(graph, (), dict(inputs), dynamic_shapes=dynamic, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of code with this machine's paths, as large as the weights
    return program


def write_torch(program: Any, file: Path, graph: Graph, inputs: Inputs, facts: dict[str, Any]) -> None:
    torch.export.save(program, file, extra_files={f"{FACTS}.json": json.dumps(facts)})


def read_torch(file: Path) -> Callable[[Inputs], list[Tensor]]:
    # the guards are guesses about memory formats from the example, not conditions of the result
    module = torch.export.load(file).module(check_guards=False)
    return lambda inputs: list(module(**inputs))


def write_onnx(program: Any, file: Path, graph: Graph, inputs: Inputs, facts: dict[str, Any]) -> None:
    with quiet():
        written = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(graph.outputs()),
            external_data=False,
            verbose=False,
        )
    assert written is not None
    model = written.model
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert value.name is not None and value.shape is not None
        for i, axis in enumerate(AXES[value.name]):
            if not isinstance(value.shape[i], int):  # torch's own names are s34 and the like
                value.shape[i] = axis
    for node in model.graph.all_nodes():
        node.metadata_props.clear()  # what torch notes of its own tracing
    model.metadata_props[FACTS] = json.dumps(facts)
    written.save(file, external_data=False)


def read_onnx(file: Path) -> Callable[[Inputs], list[Tensor]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda inputs: [
        torch.from_numpy(found) for found in session.run(None, {name: t.numpy() for name, t in inputs.items()})
    ]


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporters say of themselves: deprecations in torch, libraries that nobody asked for."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
