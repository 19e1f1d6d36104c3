"""Real ONNX files through graphopt: whether its FX module and its ONNX Runtime session compute what the file says.

The judge is ONNX Runtime on the original file, with its graph optimizations off.
"""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn
from torch.utils import _pytree as pytree

import graphopt
from graphopt.errors import GraphOptError, GraphOptWarning
from graphopt.ir import Graph
from graphopt.ops.onnx_dialect import node_proto
from graphopt.ops.onnx_nested import count_nodes, graphs_of
from graphopt.testing.onnx_backend import opaque_nodes, session_of
from tests.frontends.onnx.real_files import paths
from tests.zoo import MODELS
from tests.zoo.audit import other_sizes
from tests.zoo.model import Inputs, ZooModel

TARGETS = ("fx", "onnxruntime")
EXPORTERS = ("dynamo", "script")

RELATIVE, ABSOLUTE = 1e-4, 1e-6
"""An output may differ by so much of its largest number, and by so much in any case."""

MAIN = ("Conv", "ConvTranspose", "MatMul", "Gemm", "Attention", "MultiHeadAttention", "LSTM", "GRU", "RNN", "Resize")
"""Operators that must not stay opaque; nor any normalization."""

Feeds = dict[str, np.ndarray]


@dataclass(frozen=True)
class RealFile:
    """A file with several sets of inputs, of different sizes where it has dynamic dims.

    model: a path, or a model. contents: inputs by name whose contents decide what the graph is.
    """

    name: str
    model: Callable[[], Path | onnx.ModelProto]
    feeds: Callable[[], list[Feeds]]


@dataclass
class Row:
    """What became of a file.

    errors: for each target, the largest error in terms of what is allowed (at most 1 holds). opaque: operators that
    stayed ONNX's own, by name; main: those among them that must not. dims: sizes of inputs that are no longer
    dynamic, or have another name. problems: what went wrong, by target. undone: passes that were rolled back.
    """

    name: str
    before: int = 0
    after: int = 0
    sets: int = 0
    errors: dict[str, float] = field(default_factory=dict)
    opaque: list[str] = field(default_factory=list)
    main: list[str] = field(default_factory=list)
    dims: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    undone: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """True if nothing is wrong."""
        right = set(self.errors) == set(TARGETS) and all(error <= 1 for error in self.errors.values())
        return right and not (self.problems or self.main or self.dims)


def check(file: RealFile) -> Row:
    """Compile a file for both targets, and hold the outputs to those of ONNX Runtime on the original."""
    start, row = time.perf_counter(), Row(file.name)
    source = file.model()
    original = source if isinstance(source, onnx.ModelProto) else onnx.load(source)
    row.before = count_nodes(original.graph)
    session = session_of(original)
    names = [value.name for value in session.get_inputs()]
    feeds = file.feeds()
    wanted = [session.run(None, given) for given in feeds]
    row.sets = len(feeds)
    for target in TARGETS:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                examples = tuple([torch.from_numpy(feeds[0][name]) for name in names])
                compiled = graphopt.compile(source, examples, target=target)
                row.errors[target] = max(_error(compiled, names, f, w) for f, w in zip(feeds, wanted))
                _describe(row, compiled, original)
            except GraphOptError as error:
                row.problems[target] = " ".join(str(error).split())[:500]
        row.undone += [str(w.message) for w in caught if issubclass(w.category, GraphOptWarning)]
    row.seconds = time.perf_counter() - start
    return row


def _error(compiled: graphopt.CompiledModel, names: Sequence[str], feeds: Feeds, wanted: Sequence[np.ndarray]) -> float:
    """The largest error of a run, in terms of what is allowed."""
    with torch.no_grad():
        result = compiled(*[torch.from_numpy(feeds[name]) for name in names])
    results = [result] if isinstance(result, torch.Tensor) else result
    worst = 0.0
    for got, want in zip(results, wanted, strict=True):
        if tuple(got.shape) != want.shape:
            return float("inf")
        gap = np.abs(got.numpy().astype(np.float64) - want)
        allowed = RELATIVE * np.abs(want.astype(np.float64)).max(initial=0.0) + ABSOLUTE
        worst = max(worst, float(gap.max(initial=0.0) / allowed))
    return worst


def _describe(row: Row, compiled: graphopt.CompiledModel, original: onnx.ModelProto) -> None:
    row.after = len(compiled.graph)
    row.opaque = sorted(set(opaque_types(compiled.graph)))
    row.main = [name for name in row.opaque if name in MAIN or name.endswith("Normalization")]
    row.dims = lost_dims(original, compiled.to_onnx())


def opaque_types(graph: Graph) -> Iterator[str]:
    """The types of operators that stayed ONNX's own, those of the graphs inside of them included."""
    waiting = [node_proto(node.op.name, [], [], dict(node.attributes)) for node in opaque_nodes(graph)]
    while waiting:
        proto = waiting.pop()
        yield proto.op_type
        for inner in graphs_of(proto):
            waiting.extend(inner.node)


def lost_dims(original: onnx.ModelProto, emitted: onnx.ModelProto) -> list[str]:
    """Dims of inputs that were dynamic in the original and are not in what was emitted, or have another name."""
    found, lost = {value.name: value.type.tensor_type.shape.dim for value in emitted.graph.input}, []
    stored = {tensor.name for tensor in original.graph.initializer}
    for value in original.graph.input:
        if value.name in stored:
            continue
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value >= 0:
                continue
            new = found[value.name][axis] if value.name in found else None
            name = dim.dim_param if dim.dim_param != "?" else ""
            if new is None or new.HasField("dim_value") or (name and new.dim_param != name):
                lost.append(f"{value.name}[{axis}]: {name or 'unnamed'}")
    return lost


# Files of packages


def packaged() -> list[RealFile]:
    """rapidocr's and silero-vad's files."""
    return [
        RealFile(path.stem, functools.partial(Path, path), functools.partial(_packaged_feeds, path)) for path in paths()
    ]


def _packaged_feeds(path: Path) -> list[Feeds]:
    draw = _Draw()
    if "det" in path.stem:
        return [{"x": draw.page(1, 64, 96)}, {"x": draw.page(2, 96, 64)}]
    if "cls" in path.stem:
        return [{"x": draw.page(1, 48, 192)}, {"x": draw.page(3, 48, 192)}]
    if "rec" in path.stem:
        return [{"x": draw.page(1, 48, 160)}, {"x": draw.page(2, 48, 320)}]
    if "sequence" in path.stem:
        return [{"input": draw(n, 576), "h": draw(1, 1, 128), "c": draw(1, 1, 128)} for n in (4, 9)]
    if "openvino" in path.stem:
        return [{"input": draw(1, 576), "state": draw(2, 1, 128)} for _ in range(2)]
    rates = {"silero_vad": (16000, 16000, 8000), "silero_vad_op18_ifless": (16000, 16000, 8000)}
    found = []
    for batch, rate in zip((1, 3, 2), rates.get(path.stem, (16000, 16000))):
        feeds: Feeds = {"input": draw(batch, rate * 512 // 16000), "state": draw(2, batch, 128)}
        found.append(feeds if "half" in path.stem else {**feeds, "sr": np.array(rate)})
    return found


class _Draw:
    """Draws inputs from a fixed seed."""

    def __init__(self) -> None:
        self._generator = np.random.default_rng(0)

    def __call__(self, *shape: int) -> np.ndarray:
        """Noise, as of a microphone."""
        return (self._generator.standard_normal(shape) * 0.3).astype(np.float32)

    def page(self, count: int, height: int, width: int) -> np.ndarray:
        """White pages with strokes in rows, as of letters."""
        pages = np.full((count, 3, height, width), 1.0, np.float32)
        strokes = self._generator.random((count, 1, height, width // 3)).repeat(3, axis=3) < 0.5
        rows = (np.arange(height) // 12 % 2 == 1)[:, None]
        return np.where(strokes[..., :width] & rows, np.float32(-1), pages[..., : strokes.shape[3]])


# Exports of the zoo


TWENTY = (
    "hf-albert",
    "hf-bart",
    "hf-bert",
    "hf-clip",
    "hf-deberta-v2",
    "hf-detr",
    "hf-dinov2",
    "hf-distilbert",
    "hf-falcon",
    "hf-gpt2",
    "hf-llama",
    "hf-mobilevit",
    "hf-modernbert",
    "hf-opt",
    "hf-qwen2",
    "hf-roberta",
    "hf-segformer",
    "hf-swinv2",
    "hf-vit",
    "hf-wav2vec2",
)
"""Transformers of every kind that both exporters take: encoders, decoders and both, of text, images and sound."""


class Positional(nn.Module):
    """A model with its tensors as positional arguments, and its other arguments fixed."""

    def __init__(self, model: nn.Module, spec: Any, leaves: Sequence[Any]) -> None:
        super().__init__()
        self.model = model
        self._spec = spec
        self._leaves = leaves

    def forward(self, *tensors: torch.Tensor) -> Any:
        given = iter(tensors)
        leaves = [next(given) if isinstance(leaf, torch.Tensor) else leaf for leaf in self._leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        return tuple(leaf for leaf in pytree.tree_leaves(self.model(*args, **kwargs)) if isinstance(leaf, torch.Tensor))


def exported(name: str, exporter: str) -> RealFile:
    """A model of the zoo, exported by one of PyTorch's exporters with its dynamic dims."""
    entry = MODELS[name]
    model = functools.partial(_export, entry, exporter)
    return RealFile(f"{name} ({exporter})", model, lambda: [_feeds(entry, given) for given in _sets(entry)])


def _sets(entry: ZooModel) -> list[Inputs]:
    own = _with_mask(entry, entry.inputs())
    return [own, *[_with_mask(entry, given) for given in other_sizes(entry)]] if entry.dynamic is not None else [own]


def _with_mask(entry: ZooModel, inputs: Inputs) -> Inputs:
    """Decoders without a mask look for packed sequences, in a way that exporters have no word for."""
    args, kwargs = inputs
    if "decoder" not in entry.tags:
        return inputs
    return args, {**kwargs, "attention_mask": torch.ones_like(args[0])}


def _feeds(entry: ZooModel, inputs: Inputs) -> Feeds:
    tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]
    return {f"input_{index}": tensor.numpy() for index, tensor in enumerate(tensors)}


def _export(entry: ZooModel, exporter: str) -> onnx.ModelProto:
    inputs = _with_mask(entry, entry.inputs())
    leaves, spec = pytree.tree_flatten(inputs)
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    model = Positional(entry.build(), spec, leaves).eval()
    names = [f"input_{index}" for index in range(len(tensors))]
    with warnings.catch_warnings(), _quiet(), torch.no_grad():
        warnings.simplefilter("ignore")
        if exporter == "script":
            return _scripted(model, tensors, names, dict(zip(names, _axes(entry, inputs, entry.dynamic or {}))))
        shapes = {"tensors": tuple(_axes(entry, inputs, entry.dynamic_shapes() if entry.dynamic else {}))}
        program = torch.onnx.export(
            model, tuple(tensors), dynamo=True, dynamic_shapes=shapes, input_names=names, verbose=False
        )
        assert program is not None
        return program.model_proto


def _scripted(
    model: nn.Module, tensors: Sequence[torch.Tensor], names: Sequence[str], axes: Mapping[str, Any]
) -> onnx.ModelProto:
    import io

    file = io.BytesIO()
    options = {"dynamo": False, "input_names": list(names), "dynamic_axes": axes, "opset_version": 17}
    torch.onnx.export(model, tuple(tensors), file, **options)  # type: ignore[arg-type]
    return onnx.load_from_string(file.getvalue())


def _axes(entry: ZooModel, inputs: Inputs, dynamic: Mapping[str, Any]) -> list[dict[int, Any]]:
    """The dynamic axes of each tensor among the arguments."""
    import inspect

    args, kwargs = inputs
    parameters = list(inspect.signature(entry.build().forward).parameters)
    given = {**dict(zip(parameters, args)), **kwargs}
    declared = dict(dynamic)
    if "attention_mask" in kwargs and "attention_mask" not in declared and declared:
        declared["attention_mask"] = next(iter(declared.values()))
    return [dict(declared.get(name) or {}) for name, value in given.items() if isinstance(value, torch.Tensor)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters log and print."""
    import io
    import logging

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)
