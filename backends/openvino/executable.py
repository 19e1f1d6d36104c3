"""A graph loaded into OpenVINO."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino
import torch

from graphopt.backends.onnx.emission import Emission
from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.model import build, mutated_constants
from graphopt.backends.onnx.opaque import opset_for
from graphopt.backends.onnx.save import EXTERNAL_ABOVE, save_emission
from graphopt.backends.onnx.session import as_returned, prepared
from graphopt.errors import EmissionError, InputError
from graphopt.ir import Graph, Type

if TYPE_CHECKING:
    from graphopt.backends.openvino.engine import OpenVinoEngine

_LEAST, _MOST = torch.iinfo(torch.int32).min, torch.iinfo(torch.int32).max


def load(graph: Graph, engine: OpenVinoEngine) -> OpenVinoExecutable:
    """Emit a graph and compile it. Weights above what a protocol buffer holds go by a temporary file.

    Raises:
        EmissionError: ONNX cannot express the graph, or OpenVINO refuses it.
    """
    opset = opset_for(graph, engine.opset)
    emission = Emission(build(graph, Emitter(opset)), opset, graph.name)
    config = _config(engine)
    try:
        return OpenVinoExecutable(graph, _compiled(emission, config))
    except (RuntimeError, ValueError):
        # Its generator of fused kernels fails on some graphs that it runs well without.
        config["SNIPPETS_MODE"] = "DISABLE"
    try:
        return OpenVinoExecutable(graph, _compiled(emission, config))
    except (RuntimeError, ValueError) as error:
        raise EmissionError(f"OpenVINO cannot load the graph: {_short(error)}") from error


def _compiled(emission: Emission, config: dict[str, Any]) -> openvino.CompiledModel:
    core = openvino.Core()
    if sum(emission.sizes) <= EXTERNAL_ABOVE:
        return core.compile_model(core.read_model(emission.to_model().SerializeToString()), "CPU", config)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        save_emission(emission, path)
        return core.compile_model(core.read_model(path), "CPU", config)


def _config(engine: OpenVinoEngine) -> dict[str, Any]:
    """Latency of single runs, all numbers as the graph has them."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "EXECUTION_MODE_HINT": "ACCURACY",
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        "KV_CACHE_PRECISION": "f32",
        "INFERENCE_NUM_THREADS": engine.threads or torch.get_num_threads(),
        "NUM_STREAMS": 1,
    }


class OpenVinoExecutable:
    """A loaded graph. The buffers that it updates live here, and change from run to run."""

    def __init__(self, graph: Graph, compiled: openvino.CompiledModel) -> None:
        self.compiled = compiled
        buffers = mutated_constants(graph)
        self.state: dict[str, torch.Tensor] = {
            value.name: value.constant.tensor.detach().clone() for value in buffers if value.constant is not None
        }
        self._inputs = [(value.name, value.type) for value in graph.inputs]
        self._mutations = graph.mutations
        self._returned: list[Type] = [value.type for value in graph.returned]
        self._idle: list[openvino.InferRequest] = []  # a request serves one caller at a time

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Run on flat inputs in graph order; return the flat outputs. A mutated input is written to in place.

        Raises:
            InputError: the inputs don't fit the graph, or whole numbers don't fit 32 bits.
        """
        if len(inputs) != len(self._inputs):
            raise InputError(f"the graph takes {len(self._inputs)} inputs, got {len(inputs)}")
        tensors = [_narrow(name, prepared(name, type_, given)) for (name, type_), given in zip(self._inputs, inputs)]
        results = self._infer([*tensors, *self.state.values()])
        returned = [as_returned(type_, result) for type_, result in zip(self._returned, results)]
        count = len(returned) - len(self._mutations)
        given = {name: value for (name, _), value in zip(self._inputs, inputs)}
        for target, new in zip(self._mutations, returned[count:]):
            if target in self.state:
                self.state[target] = new
            else:
                given[target].copy_(new)
        return returned[:count]

    def _infer(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        request = self._idle.pop() if self._idle else self.compiled.create_infer_request()
        arrays = [tensor.numpy() for tensor in tensors]
        try:
            for index, array in enumerate(arrays):
                request.set_input_tensor(index, openvino.Tensor(array, shared_memory=True))
            request.infer()
            # The request's memory is written again by its next run.
            return [torch.from_numpy(np.array(request.get_output_tensor(i).data)) for i in range(len(self._returned))]
        except (RuntimeError, ValueError) as error:
            raise InputError(f"OpenVINO cannot run on these inputs: {_short(error)}") from error
        finally:
            self._idle.append(request)


def _narrow(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Refuse numbers that would silently become others."""
    if tensor.dtype is torch.int64 and tensor.numel():
        least, most = torch.aminmax(tensor)
        if int(least) < _LEAST or int(most) > _MOST:
            raise InputError(
                f"input {name!r} has numbers beyond 32 bits, in which OpenVINO computes; use another engine"
            )
    return tensor


def _short(error: Exception) -> str:
    """What went wrong, without the places in OpenVINO's own source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return "; ".join((told or lines or [type(error).__name__])[:3])
