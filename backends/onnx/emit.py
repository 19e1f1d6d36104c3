"""Emitting a graph as an ONNX model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.backends.onnx.emission import HIGHEST_OPSET, LOWEST_OPSET, Emission
from graphopt.backends.onnx.save import save_onnx
from graphopt.ir import Graph

if TYPE_CHECKING:
    import onnx


def emit_onnx(graph: Graph, *, opset: int | None = None, path: str | Path | None = None) -> onnx.ModelProto:
    """Return the graph as an ONNX model, and write it to `path` if one is given.

    opset: the version of the standard operators, 11 to 28. By default that of the ONNX file which the graph was read
    from, else 20: GELU is an operator from there on, and ONNX Runtime's fusions know the operators of that version. If
    an operation needs a later one, that is taken.

    Inputs keep their names, and so do outputs, nodes and stored tensors of a graph that was read from an ONNX file;
    dynamic dims keep the names of their symbols; every other operation carries the model's source line. Buffers that
    the graph updates are inputs, and their new values are outputs named `<buffer>_updated`, after the outputs proper.

    Raises:
        EmissionError: a node that ONNX cannot express, or not in this opset; the message names the node and its origin.
        SerializationError: the file cannot be written.

    >>> from graphopt.ops import parse
    >>> model = emit_onnx(parse('''input %x: f32[batch, 4]
    ... %y = relu(%x)
    ... return %y'''))
    >>> [node.op_type for node in model.graph.node], model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    (['Relu'], 'batch')
    """
    if path is not None:
        return save_onnx(graph, path, opset=opset)
    return Emission.of(graph, opset).to_model()


__all__ = ["HIGHEST_OPSET", "LOWEST_OPSET", "emit_onnx"]
