"""Backends as plain functions of the flat inputs of a graph, to be held against its interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphopt.errors import EmissionError
from graphopt.ir import Graph
from graphopt.targets import Engine

Run = Callable[..., list[Any]]


class Unsupported(EmissionError):
    """A graph with something that an engine says it has no kernel for."""


def engine_function(engine: Engine, graph: Graph) -> Run:
    """Load a graph into an engine.

    Raises:
        Unsupported: the engine has no kernel for an operator or type of the graph.
        EmissionError: the graph cannot be emitted, though the engine says that it can run it.
    """
    try:
        executable = engine.load(graph)
    except EmissionError as error:
        reason = engine.unsupported(graph)
        if reason is not None and "kernel" in reason:
            raise Unsupported(reason) from error
        raise
    if graph.mutations:  # a run changes the state of an executable
        return lambda *inputs: engine.load(graph).run(inputs)
    return lambda *inputs: executable.run(inputs)


def fx_function(graph: Graph) -> Run:
    """The FX module of a graph, in its first state at each call. Returns also what the graph updates."""
    from graphopt.backends.fx import emit_fx

    module = emit_fx(graph, flat=True)
    if not graph.mutations:
        return lambda *inputs: list(module(*inputs))

    def run(*inputs: Any) -> list[Any]:
        fresh = emit_fx(graph, flat=True)
        outputs = list(fresh(*inputs))
        return outputs + [_state(fresh, graph, name, inputs) for name in graph.mutations]

    return run


def _state(module: Any, graph: Graph, name: str, inputs: tuple[Any, ...]) -> Any:
    """What an input or buffer that the graph updates holds after a call."""
    for value, given in zip(graph.inputs, inputs):
        if value.name == name:
            return given
    constant = graph.constants[name].constant
    assert constant is not None
    return module.get_buffer((*constant.names, name)[0])


def onnx_function(graph: Graph) -> Run:
    """The ONNX model of a graph in ONNX Runtime with its graph optimizations off: on, they can hide a bug in ours.

    Raises:
        Unsupported: ONNX Runtime has no kernel for an operator or type of the graph.
        EmissionError: see `graphopt.backends.onnx.emit_onnx`.
    """
    from graphopt.backends.onnx.engine import OnnxRuntimeEngine

    return engine_function(OnnxRuntimeEngine(threads=1, optimization="off"), graph)


def check_onnx(graph: Graph) -> None:
    """Run onnx.checker, with strict shape inference, on the ONNX model of a graph."""
    import onnx

    from graphopt.backends.onnx import emit_onnx

    onnx.checker.check_model(emit_onnx(graph), full_check=True)
