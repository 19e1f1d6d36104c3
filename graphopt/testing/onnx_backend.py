"""graphopt as a backend of the ONNX project's own tests (`onnx.backend.base.Backend`).

Two paths through the compiler, each a backend class:

- `FxBackend`: the file is read into the IR, and runs as an FX module;
- `OnnxRuntimeBackend`: the file is read, goes through the default passes, is written as an ONNX model again, and runs
  in ONNX Runtime with its own graph optimizations off: on, they can hide a fault of ours.

    onnx.backend.test.BackendTest(FxBackend, __name__)

`rep.graph` of a prepared model says what was made of it. Inputs whose contents decide shapes are known at a run only,
so the model is read at the first run, and again for each other set of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import onnx
import torch
from onnx.backend.base import Backend, BackendRep

from graphopt.errors import GraphOptError
from graphopt.ir import Graph, Node, from_torch, walk
from graphopt.ops.onnx_dtypes import FROM_ONNX_CODE, ONNX_CODES

if TYPE_CHECKING:
    from graphopt.compiled import CompiledModel

_NUMPY_LACKS = {
    torch.bfloat16: torch.uint16,
    torch.float8_e4m3fn: torch.uint8,
    torch.float8_e4m3fnuz: torch.uint8,
    torch.float8_e5m2: torch.uint8,
    torch.float8_e5m2fnuz: torch.uint8,
}
"""PyTorch's types without one of NumPy's own, and the integers of their size."""


class PreparedModel(BackendRep):
    """A model ready to run on arrays, strings (arrays of objects), lists of arrays, and None.

    Raises (when run):
        GraphOptError: the model cannot be read or emitted.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        stored = {tensor.name for tensor in model.graph.initializer}
        self.input_names = [value.name for value in model.graph.input if value.name not in stored]
        self._compiled: CompiledModel | None = None

    @property
    def has_run(self) -> bool:
        """True once the model was read and run, if not in full."""
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
        given = tuple([to_torch(value) for value in inputs])
        results = self._results(given)
        return tuple([to_numpy(value) for value in results])

    def _results(self, given: tuple[Any, ...]) -> Sequence[Any]:
        raise NotImplementedError


class FxModel(PreparedModel):
    """Path a: an FX module of what was read."""

    def _results(self, given: tuple[Any, ...]) -> Sequence[Any]:
        self._compiled = compiled(self.model, given, target="fx", passes="none", validate=False)
        with torch.no_grad():
            return as_outputs(self._compiled(*given), len(self.model.graph.output))


class OnnxRuntimeModel(PreparedModel):
    """Path b: an ONNX model again, after the default passes."""

    emitted: onnx.ModelProto

    def _results(self, given: tuple[Any, ...]) -> Sequence[Any]:
        self._compiled = compiled(self.model, given, target="onnx", passes="default", on_failure="raise")
        self.emitted = self._compiled.to_onnx()
        session = session_of(self.emitted)
        feeds = dict(zip([value.name for value in session.get_inputs()], map(to_numpy, given)))
        return session.run(None, feeds)


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


def compiled(model: onnx.ModelProto, given: Sequence[Any], *, target: str, **options: Any) -> CompiledModel:
    """Compile a model. Inputs whose contents decide shapes are given theirs."""
    from graphopt.compiled import CompiledModel
    from graphopt.options import make_options
    from graphopt.program import build_program

    resolved = make_options(target, **options)
    return CompiledModel(resolved, build_program(read(model, given), resolved, (tuple(given), {})))


def read(model: onnx.ModelProto, given: Sequence[Any]) -> Graph:
    """Read a model; inputs whose contents decide shapes are given theirs."""
    from graphopt.frontends.onnx import read_onnx
    from graphopt.frontends.onnx.application import NeedsValue

    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = dict(zip([value.name for value in model.graph.input if value.name not in stored], given))
    values: dict[str, Any] = {}
    while True:
        try:
            return read_onnx(model, values)
        except GraphOptError as error:
            cause = error.__cause__
            if not isinstance(cause, NeedsValue) or cause.name not in inputs or cause.name in values:
                raise
            values[cause.name] = inputs[cause.name]


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


def as_outputs(result: Any, count: int) -> Sequence[Any]:
    """What a model returned, as a sequence of its outputs: one is returned by itself."""
    return [result] if count == 1 else result


def to_torch(value: Any) -> Any:
    """An array as a tensor, a list as a list of tensors. Arrays that PyTorch has no tensors of stay as they are."""
    if isinstance(value, list):
        return [to_torch(item) for item in value]
    if not isinstance(value, np.ndarray | np.generic):
        return value
    array = np.array(value)
    if array.dtype.isbuiltin == 1 and array.dtype != object:
        return torch.from_numpy(array)
    try:
        dtype = FROM_ONNX_CODE[onnx.helper.np_dtype_to_tensor_dtype(array.dtype)].torch
    except (KeyError, TypeError, ValueError):
        return value
    return torch.from_numpy(array.view(f"u{array.itemsize}")).view(dtype)


def to_numpy(value: Any) -> Any:
    """The reverse of `to_torch`."""
    if isinstance(value, list | tuple):
        return [to_numpy(item) for item in value]
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach().contiguous()
    if value.dtype not in _NUMPY_LACKS:
        return value.numpy()
    dtype = onnx.helper.tensor_dtype_to_np_dtype(ONNX_CODES[from_torch(value.dtype)])
    return value.view(_NUMPY_LACKS[value.dtype]).numpy().view(dtype)
