"""Emitting a graph as an ONNX model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.model import DEFAULT_OPSET, build
from graphopt.backends.onnx.opaque import opset_for
from graphopt.backends.onnx.save import save_onnx
from graphopt.backends.onnx.serialize import to_model
from graphopt.errors import EmissionError
from graphopt.ir import Graph

if TYPE_CHECKING:
    import onnx

LOWEST_OPSET, HIGHEST_OPSET = 18, 28


def emit_onnx(graph: Graph, *, opset: int | None = None, path: str | Path | None = None) -> onnx.ModelProto:
    """Return the graph as an ONNX model, and write it to `path` if one is given.

    opset: the version of the standard operators, 18 to 28. 20 is the default: GELU is an operator from there on, and
    ONNX Runtime's fusions know the operators of that version; a graph with an opaque operator of a later opset is
    written with that. Inputs keep their names; dynamic dims keep the names of
    their symbols; every operation carries the model's source line. Buffers that the graph updates are inputs, and their
    new values are outputs named `<buffer>_updated`, after the outputs proper.

    Raises:
        EmissionError: a node that ONNX cannot express; the message names the node and its origin.
        SerializationError: the file cannot be written.

    >>> from graphopt.ops import parse
    >>> model = emit_onnx(parse('''input %x: f32[batch, 4]
    ... %y = relu(%x)
    ... return %y'''))
    >>> [node.op_type for node in model.graph.node], model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    (['Relu'], 'batch')
    """
    opset = opset_for(graph, DEFAULT_OPSET) if opset is None else opset
    if not LOWEST_OPSET <= opset <= HIGHEST_OPSET:
        raise EmissionError(f"opset {opset} is not supported; choose one from {LOWEST_OPSET} to {HIGHEST_OPSET}")
    model = to_model(build(graph, Emitter(opset)), opset, graph.name)
    if path is not None:
        save_onnx(model, path)
    return model
