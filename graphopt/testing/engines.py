"""Backends as plain functions of the flat inputs of a graph, to be held against its interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from graphopt.ir import Graph

Run = Callable[..., list[Any]]


def fx_function(graph: Graph) -> Run:
    """The FX module of a graph."""
    from graphopt.backends.fx import emit_fx

    module = emit_fx(graph, flat=True)
    return lambda *inputs: list(module(*inputs))


def onnx_function(graph: Graph, *, check: bool = True) -> Run:
    """The ONNX model of a graph in ONNX Runtime with its graph optimizations off: on, they can hide a bug in ours.

    check: also run onnx.checker, with full shape inference.
    """
    import onnx

    from graphopt.backends.onnx import emit_onnx

    model = emit_onnx(graph)
    if check:
        onnx.checker.check_model(model, full_check=True)
    session = _session(model.SerializeToString())
    names = [value.name for value in session.get_inputs()]
    count = len(graph.outputs)

    def run(*inputs: Any) -> list[Any]:
        feed = {name: torch.as_tensor(value).numpy() for name, value in zip(names, _fed(graph, inputs))}
        return [_tensor(output) for output in session.run(None, feed)[:count]]

    return run


def _fed(graph: Graph, inputs: tuple[Any, ...]) -> list[Any]:
    """The inputs, and the buffers that the graph updates, which an ONNX model takes as further inputs."""
    names = {value.name for value in graph.inputs}
    constants = (graph.constants[name].constant for name in graph.mutations if name not in names)
    return [*inputs, *(c.tensor for c in constants if c is not None)]


def _session(data: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _tensor(output: Any) -> Any:
    import numpy

    return torch.from_numpy(numpy.array(output))
