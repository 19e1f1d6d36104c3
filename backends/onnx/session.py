"""A graph loaded into an ONNX Runtime session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import torch

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.engine import LEVELS
from graphopt.backends.onnx.model import build, mutated_constants
from graphopt.backends.onnx.opaque import opset_for
from graphopt.backends.onnx.serialize import point_to, to_model, write_raw
from graphopt.errors import EmissionError, InputError
from graphopt.ir import DType, Graph, ScalarKind, ScalarType, TensorType, Type
from graphopt.ops.onnx_dtypes import FROM_ONNX_CODE
from graphopt.ops.onnx_runtime import Run, session_options, session_run
from graphopt.ops.onnx_values import from_numpy, to_numpy
from graphopt.ops.quantization import is_packed

if TYPE_CHECKING:
    from graphopt.backends.onnx.engine import OnnxRuntimeEngine

_SHARED_ABOVE = 256
"""Initializers of more bytes are handed to the session in memory instead of being written into the model; but not
packed ones, which PyTorch has no tensors of."""
_NUMPY_LACKS = frozenset({DType.BF16, DType.F8E4M3FN, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ})
_SCALARS = {ScalarKind.INT: np.int64, ScalarKind.FLOAT: np.float64, ScalarKind.BOOL: np.bool_}


def load(graph: Graph, engine: OnnxRuntimeEngine) -> OnnxRuntimeExecutable:
    """Emit a graph and load it. Weights go to the session as memory, so they are copied at most once and may exceed
    what a protocol buffer holds.

    Raises:
        EmissionError: ONNX Runtime refuses the model.
    """
    opset = opset_for(graph, engine.opset)
    body = build(graph, Emitter(opset, widen_floats=True))
    weights: dict[str, Any] = {}

    def write(proto: onnx.TensorProto, data: torch.Tensor) -> None:
        if data.numel() * data.element_size() <= _SHARED_ABOVE or is_packed(FROM_ONNX_CODE[proto.data_type]):
            write_raw(proto, data)
            return
        held = _held(data, engine.share_weights)
        weights[proto.name] = held
        point_to(proto, "memory", 0, held.numel() * held.element_size())

    model = to_model(body, opset, graph.name, write, flat=True)  # a session takes memory for the main graph alone
    session = _session(model, weights, engine)
    return OnnxRuntimeExecutable(graph, session, list(weights.values()))


def _held(data: torch.Tensor, share: bool) -> torch.Tensor:
    """The elements in row-major order, in memory that only the session knows unless it may be shared."""
    data = data.detach()
    return data.contiguous() if share else data.clone(memory_format=torch.contiguous_format)


def _session(
    model: onnx.ModelProto, weights: dict[str, torch.Tensor], engine: OnnxRuntimeEngine
) -> onnxruntime.InferenceSession:
    options = session_options(LEVELS[engine.optimization], engine.threads)
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # 4 would round activations to int8
    if not engine.spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if weights:
        options.add_external_initializers(list(weights), [_value(t) for t in weights.values()])
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exception classes share no base of their own
        raise EmissionError(f"ONNX Runtime cannot load the graph: {error}") from error


def _value(tensor: torch.Tensor) -> onnxruntime.OrtValue:
    """A view of a tensor's memory."""
    return onnxruntime.OrtValue.from_dlpack(tensor)


class OnnxRuntimeExecutable:
    """A loaded graph. The buffers that it updates live here, and change from run to run."""

    def __init__(self, graph: Graph, session: onnxruntime.InferenceSession, weights: list[torch.Tensor]) -> None:
        buffers = mutated_constants(graph)
        self.session = session
        self.state: dict[str, torch.Tensor] = {
            value.name: value.constant.tensor.detach().clone() for value in buffers if value.constant is not None
        }
        self._weights = weights  # the session reads this memory
        self._inputs = [(value.name, value.type) for value in graph.inputs]
        self._mutations = graph.mutations
        self._names = [output.name for output in session.get_outputs()]
        types = [v.type for v in (*graph.inputs, *buffers, *graph.returned)]
        self._by_dlpack = any(isinstance(t, TensorType) and t.dtype in _NUMPY_LACKS for t in types)
        self._run_odd = None if all(map(_is_plain, types)) else session_run(session)
        self._returned = [value.type for value in graph.returned]

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Run on flat inputs in graph order; return the flat outputs. A mutated input is written to in place.

        Raises:
            InputError: the inputs don't fit the graph.
        """
        if len(inputs) != len(self._inputs):
            raise InputError(f"the graph takes {len(self._inputs)} inputs, got {len(inputs)}")
        given = {name: value for (name, _), value in zip(self._inputs, inputs)}
        if self._run_odd is not None:
            results = self._run_any(self._run_odd, given)
        else:
            feeds = {name: prepared(name, type_, given[name]) for name, type_ in self._inputs}
            feeds.update(self.state)
            results = self._run_values(feeds) if self._by_dlpack else self._run_arrays(feeds)
        results = [as_returned(type_, result) for type_, result in zip(self._returned, results)]
        count = len(results) - len(self._mutations)
        for target, new in zip(self._mutations, results[count:]):
            if target in self.state:
                self.state[target] = new
            else:
                given[target].copy_(new)
        return results[:count]

    def _run_any(self, run: Run, given: dict[str, Any]) -> list[Any]:
        """Run on strings, sequences, optionals and narrow elements."""
        arrays = [
            prepared(name, type_, given[name]).numpy() if _is_plain(type_) else to_numpy(given[name], type_)
            for name, type_ in self._inputs
        ]
        try:
            return [from_numpy(value) for value in run([*arrays, *map(to_numpy, self.state.values())])]
        except Exception as error:
            raise InputError(f"ONNX Runtime cannot run on these inputs: {error}") from error

    def _run_arrays(self, feeds: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        arrays = {name: tensor.numpy() for name, tensor in feeds.items()}
        try:
            return [_tensor(array) for array in self.session.run(self._names, arrays)]
        except Exception as error:
            raise InputError(f"ONNX Runtime cannot run on these inputs: {error}") from error

    def _run_values(self, feeds: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        values = {name: _value(tensor) for name, tensor in feeds.items()}
        try:
            results = self.session.run_with_ort_values(self._names, values)
        except Exception as error:
            raise InputError(f"ONNX Runtime cannot run on these inputs: {error}") from error
        return [torch.from_dlpack(value) for value in results]


def _is_plain(type_: Type) -> bool:
    """True for numbers, and tensors that PyTorch has as such."""
    if isinstance(type_, TensorType):
        return type_.dtype is not DType.STRING and type_.dtype.bits >= 8
    return isinstance(type_, ScalarType)


def _tensor(array: np.ndarray) -> torch.Tensor:
    """A view of an array. C's `unsigned long long` is not the type that PyTorch takes for u64, though it is as wide."""
    return torch.from_numpy(array.view(np.uint64) if array.dtype == np.uint64 else array)


def prepared(name: str, type_: Type, given: Any) -> torch.Tensor:
    """An input as a row-major tensor on the CPU, which an engine can read in place.

    Raises:
        InputError: another dtype or device than the graph takes, or no tensor.
    """
    if isinstance(given, torch.Tensor):
        given = given.detach()
        if isinstance(type_, TensorType) and given.dtype != type_.dtype.torch:
            raise InputError(f"input {name!r} is {given.dtype}, the graph takes {type_!r}")
        if given.device.type != "cpu":
            raise InputError(f"input {name!r} is on {given.device}, this engine runs on the CPU")
        return given.contiguous()
    if isinstance(type_, ScalarType):
        return torch.from_numpy(np.asarray(given, dtype=_SCALARS[type_.kind]))
    raise InputError(f"input {name!r} is a {type(given).__name__}, the graph takes {type_!r}")


def as_returned(type_: Type, result: torch.Tensor) -> Any:
    """A result as the graph types it: a number is no tensor."""
    return result.item() if isinstance(type_, ScalarType) else result
