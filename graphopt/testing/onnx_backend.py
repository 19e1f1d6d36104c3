"""graphopt as a backend of the ONNX project's own tests (`onnx.backend.base.Backend`).

Two paths through the compiler, each a backend class:

- `FxBackend`: the file is read into the IR, and runs as an FX module;
- `OnnxRuntimeBackend`: the file is read, goes through the default passes, is written as an ONNX model again, and runs
  in ONNX Runtime with its own graph optimizations off: on, they can hide a fault of ours.

    onnx.backend.test.BackendTest(FxBackend, __name__)

`rep.graph` of a prepared model says what was made of it. Inputs whose contents decide shapes are known at a run only,
so a model is read at its first run; one with such inputs at each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import onnx
import torch
from onnx.backend.base import Backend, BackendRep

import graphopt
from graphopt.errors import GraphOptError
from graphopt.ir import Graph, Node, walk
from graphopt.ops.onnx_values import from_numpy, to_numpy
from graphopt.pipelines import default_pipeline

if TYPE_CHECKING:
    from graphopt.compiled import CompiledModel


class PreparedModel(BackendRep):
    """A model ready to run on arrays, strings (arrays of objects), lists of arrays, and None.

    Raises (when run):
        GraphOptError: the model cannot be read or emitted.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self._compiled: CompiledModel | None = None

    @property
    def has_run(self) -> bool:
        """True once the model was read and compiled."""
        return self._compiled is not None

    @property
    def graph(self) -> Graph:
        """The graph of the last run."""
        assert self._compiled is not None, "the model is read at its first run"
        return self._compiled.graph

    @property
    def opaque(self) -> list[Node]:
        """The nodes of the graph that no ATen operator expresses."""
        return opaque_nodes(self.graph)

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Run on the inputs in the file's order, and return the outputs."""
        given = [from_numpy(value) for value in inputs]
        if self._compiled is None or self._holds_for_contents(self.graph):
            self._compiled = None
            self._compiled = self._compile(given)
        return self._results(self._compiled, inputs, given)

    @staticmethod
    def _holds_for_contents(graph: Graph) -> bool:
        return graph.signature is not None and bool(graph.signature.fixed)

    def _compile(self, given: list[Any]) -> CompiledModel:
        raise NotImplementedError

    def _results(self, compiled: CompiledModel, inputs: Any, given: list[Any]) -> tuple[Any, ...]:
        raise NotImplementedError


class FxModel(PreparedModel):
    """Path a: an FX module of what was read."""

    def _compile(self, given: list[Any]) -> CompiledModel:
        return graphopt.compile(self.model, given, target="fx", passes="none", validate=False)

    def _results(self, compiled: CompiledModel, inputs: Any, given: list[Any]) -> tuple[Any, ...]:
        with torch.no_grad():
            result = compiled(*given)
        results = [result] if len(self.model.graph.output) == 1 else result
        return tuple([to_numpy(value, output.type) for value, output in zip(results, self.graph.returned)])


class OnnxRuntimeModel(PreparedModel):
    """Path b: an ONNX model again, after the default passes."""

    emitted: onnx.ModelProto
    _session: Any

    def _compile(self, given: list[Any]) -> CompiledModel:
        # No engine: what it checks is what the tests check.
        passes = default_pipeline("onnx")
        compiled = graphopt.compile(self.model, given, target="fx", trainable=False, passes=passes)
        self.emitted = compiled.to_onnx()
        self._session = session_of(self.emitted)
        return compiled

    def _results(self, compiled: CompiledModel, inputs: Any, given: list[Any]) -> tuple[Any, ...]:
        names = [value.name for value in self._session.get_inputs()]
        return tuple(self._session.run(None, dict(zip(names, inputs))))


class _GraphOptBackend(Backend):
    model_class: ClassVar[type[PreparedModel]]

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """True for the CPU."""
        return device.partition(":")[0] == "CPU"

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> PreparedModel:
        """Return the model, ready to run.

        Raises:
            GraphOptError: another device than the CPU.
        """
        if not cls.supports_device(device):
            raise GraphOptError(f"this backend runs on the CPU, not on {device}")
        return cls.model_class(model)


class FxBackend(_GraphOptBackend):
    """ONNX → IR → FX module."""

    model_class = FxModel


class OnnxRuntimeBackend(_GraphOptBackend):
    """ONNX → IR → default passes → ONNX → ONNX Runtime."""

    model_class = OnnxRuntimeModel


def session_of(model: onnx.ModelProto) -> Any:
    """An ONNX Runtime session on one thread, with its graph optimizations off."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def opaque_nodes(graph: Graph) -> list[Node]:
    """The nodes that stayed operators of ONNX, those in regions included."""
    return [node for node in walk(graph) if node.op.name.startswith("onnx.")]
