"""The ONNX project's own tests, run through a backend one by one, each with its outcome and the reason for it.

for case in cases("node"):
    print(run(case, FxBackend))
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import OptionalProto, SequenceProto, TensorProto, numpy_helper
from onnx.backend.base import Backend, BackendRep
from onnx.backend.test import loader
from onnx.backend.test.runner import Runner

from graphopt.errors import GraphOptError, GraphOptWarning
from graphopt.testing.onnx_backend import FxBackend, OnnxRuntimeBackend, PreparedModel, session_of

KINDS = ("node", "pytorch-converted", "pytorch-operator", "simple", "real")
"""The suites of `onnx.backend.test`; `real` holds nine nets whose weights are constant, so that they need no data."""

LACKING = (TensorProto.STRING, TensorProto.UINT4, TensorProto.INT4, TensorProto.FLOAT4E2M1, 25, 26)
"""Element types that PyTorch has no tensors of; 25 and 26 are the two-bit integers."""

FOREIGN = ("ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training")
"""Domains of operators of classic machine learning, and of training."""

CONTAINERS = ("ConcatFromSequence", "Optional", "Sequence", "SplitToSequence")
"""What the names of operators on sequences and optionals begin with."""

CONVERTED = ("pytorch-converted", "pytorch-operator", "simple")
"""The suites of which path a is to pass every case."""

DataSet = tuple[list[Any], list[Any]]


@dataclass(frozen=True)
class Case:
    """A test of a suite: a model with inputs and expected outputs, and how close to come to these."""

    kind: str
    name: str
    test: Any

    @functools.cached_property
    def model(self) -> onnx.ModelProto:
        """The model."""
        if self.test.model is not None:
            return self.test.model
        return onnx.load(self._light if self.test.model_dir is None else Path(self.test.model_dir) / "model.onnx")

    @functools.cached_property
    def data_sets(self) -> list[DataSet]:
        """Inputs, and the outputs expected of them."""
        graph = self.model.graph
        if self.test.data_sets is not None:
            return [([*map(_array, given)], [*map(_array, wanted)]) for given, wanted in self.test.data_sets]
        if self.test.model_dir is None:
            wanted = _loaded(self._light.with_name(f"{self._light.stem}_output_0.pb"), graph.output[0].type)
            stored = {tensor.name for tensor in graph.initializer}
            inputs = [Runner.generate_dummy_data(value) for value in graph.input if value.name not in stored]
            return [(inputs, [wanted])]
        folders = sorted(Path(self.test.model_dir).glob("test_data_set_*"))
        return [(_stored(f, "input", graph.input), _stored(f, "output", graph.output)) for f in folders]

    @property
    def is_plain(self) -> bool:
        """True if the model is about plain tensors: no string, sequence, optional, no operator of classic machine
        learning or training, no element type that PyTorch lacks."""
        return not any(
            node.domain in FOREIGN or node.op_type.startswith(CONTAINERS) for node in _nodes(self.model)
        ) and all(_is_plain(type_) for type_ in _types(self.model.graph))

    @property
    def _light(self) -> Path:
        return Path(onnx.__file__).parent.parent / self.test.url


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    status: `passed`; `unsupported`: refused by an error of graphopt, the reason; `failed`: another answer, or an
        error of another kind. opaque: the ONNX operators that stayed in the graph. undone: passes that were rolled
        back.
    """

    name: str
    kind: str
    plain: bool
    status: str
    reason: str = ""
    opaque: tuple[str, ...] = ()
    undone: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True if the answer is right."""
        return self.status == "passed"


class OriginalBackend(Backend):
    """ONNX Runtime on the original file."""

    class _Session(BackendRep):
        def __init__(self, model: onnx.ModelProto) -> None:
            self._session = session_of(model)

        def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
            names = [value.name for value in self._session.get_inputs()]
            return tuple(self._session.run(None, dict(zip(names, inputs))))

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> BackendRep:
        return cls._Session(model)


PATHS: dict[str, type[Backend]] = {"a": FxBackend, "b": OnnxRuntimeBackend, "original": OriginalBackend}
"""By name: the two paths through graphopt, and ONNX Runtime alone, which path b is held to."""


def cases(kind: str) -> list[Case]:
    """The cases of a suite, in the order of their names."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        tests = loader.load_model_tests(kind=kind)
    return sorted([Case(kind, test.name, test) for test in tests], key=lambda case: case.name)


def run(case: Case, backend: type[Backend]) -> Outcome:
    """Run a case on a backend."""
    prepared, status, reason = None, "passed", ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            prepared = backend.prepare(case.model)
            for inputs, wanted in case.data_sets:
                got = prepared.run(inputs)
                Runner.assert_similar_outputs(wanted, got, case.test.rtol, case.test.atol)
        except GraphOptError as error:
            status, reason = "unsupported", str(error)
        except Exception as error:  # whatever goes wrong is the outcome
            status, reason = "failed", f"{type(error).__name__}: {error}"
    undone = tuple([str(w.message) for w in caught if issubclass(w.category, GraphOptWarning)])
    opaque: tuple[str, ...] = ()
    if isinstance(prepared, PreparedModel) and prepared.has_run:
        opaque = tuple([node.op.name for node in prepared.opaque])
    return Outcome(case.name, case.kind, case.is_plain, status, reason, opaque, undone)


@dataclass(frozen=True)
class Bar:
    """What is asked, and what was reached: `reached` of `total` cases, of which a share of `least` is needed."""

    title: str
    reached: int
    total: int
    least: float

    @property
    def held(self) -> bool:
        """True if enough cases pass."""
        return self.reached >= self.least * self.total


def bars(outcomes: Mapping[str, Sequence[Outcome]]) -> list[Bar]:
    """The bars that the paths at hand decide."""
    found = []
    if "a" in outcomes:
        node = [o for o in outcomes["a"] if o.kind == "node"]
        plain = [o for o in node if o.plain]
        whole = sum(o.passed and not o.opaque for o in plain)
        found.append(Bar("a: node tests on plain tensors, no opaque node", whole, len(plain), 0.9))
        found.append(Bar("a: all node tests, opaque nodes allowed", sum(o.passed for o in node), len(node), 0.9))
        converted = [o for o in outcomes["a"] if o.kind in CONVERTED]
        found.append(Bar(f"a: {', '.join(CONVERTED)}", sum(o.passed for o in converted), len(converted), 1.0))
    if "b" in outcomes:
        passing = {(o.kind, o.name) for o in outcomes["original"] if o.passed}
        held = [o for o in outcomes["b"] if (o.kind, o.name) in passing]
        found.append(Bar("b: cases that ONNX Runtime passes", sum(o.passed for o in held), len(held), 1.0))
    return [bar for bar in found if bar.total]


def _array(value: Any) -> Any:
    """A value as an array, where it is one; some tests give NumPy's scalars."""
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def _stored(folder: Path, what: str, infos: Any) -> list[Any]:
    files = [folder / f"{what}_{index}.pb" for index in range(len(infos))]
    return [_loaded(file, info.type) for file, info in zip(files, infos) if file.exists()]


def _loaded(file: Path, type_: onnx.TypeProto) -> Any:
    """What a file of test data holds."""
    readers: dict[str, tuple[Any, Any]] = {
        "tensor_type": (TensorProto, numpy_helper.to_array),
        "sequence_type": (SequenceProto, numpy_helper.to_list),
        "optional_type": (OptionalProto, numpy_helper.to_optional),
    }
    proto_class, read = readers[type_.WhichOneof("value")]
    proto = proto_class()
    proto.ParseFromString(file.read_bytes())
    return read(proto)


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of functions and subgraphs included."""
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                waiting.extend(graph.node)


def _types(graph: onnx.GraphProto) -> Iterator[onnx.TypeProto]:
    """The types that a graph names, and those of the tensors that it stores."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield value.type
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    tensors = [*graph.initializer, *(a.t for a in attributes if a.HasField("t"))]
    for code in [*(t.data_type for t in tensors), *(a.i for a in attributes if a.name in ("to", "dtype"))]:
        yield onnx.helper.make_tensor_type_proto(code, None)
    for attribute in attributes:
        for inner in (attribute.g, *attribute.graphs):
            yield from _types(inner)


def _is_plain(type_: onnx.TypeProto) -> bool:
    return type_.WhichOneof("value") == "tensor_type" and type_.tensor_type.elem_type not in LACKING
