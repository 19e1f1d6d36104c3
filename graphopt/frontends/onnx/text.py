"""Names in damaged files may be no text: protocol buffers then give bytes where all else expects strings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from graphopt.errors import CaptureError

if TYPE_CHECKING:
    import onnx


def check_text(model: onnx.ModelProto) -> None:
    """Look whether names, operators and notes are UTF-8.

    Raises:
        CaptureError: some are not.
    """
    if set(map(type, _texts(model))) == {str}:
        return
    damaged = next(text for text in _texts(model) if type(text) is not str)
    raise CaptureError(f"the file is damaged: it holds {bytes(damaged)[:60]!r}, which is no UTF-8 text")


def _texts(model: onnx.ModelProto) -> Iterator[Any]:
    return chain(
        [model.producer_name, model.producer_version, model.domain, model.doc_string],
        _noted(model),
        [entry.domain for entry in model.opset_import],
        _of_graph(model.graph),
        *map(_of_function, model.functions),
    )


def _of_graph(graph: onnx.GraphProto) -> Iterator[Any]:
    yield from (graph.name, graph.doc_string)
    yield from _noted(graph)
    for value in (*graph.input, *graph.output):
        yield from (value.name, value.doc_string)
        yield from _noted(value)
        yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
    for info in graph.value_info:
        yield info.name
    for tensor in (*graph.initializer, *[sparse.values for sparse in graph.sparse_initializer]):
        yield from (tensor.name, tensor.doc_string)
        yield from _noted(tensor)
        yield from (text for entry in tensor.external_data for text in (entry.key, entry.value))
    yield from chain.from_iterable(_of_nodes(graph.node))


def _of_function(function: onnx.FunctionProto) -> Iterator[Any]:
    yield from (function.name, function.domain, *function.input, *function.output, *function.attribute)
    yield from (entry.domain for entry in function.opset_import)
    yield from chain.from_iterable(_of_nodes(function.node))


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[Iterable[Any]]:
    """The texts in groups, since there are many. Containers of protocol buffers are faster to slice than to iterate."""
    for node in nodes:
        yield node.op_type, node.name, node.domain, node.doc_string
        yield node.input[:]
        yield node.output[:]
        if node.metadata_props:
            yield _noted(node)
        for attribute in node.attribute[:]:
            yield attribute.name, attribute.ref_attr_name
            if attribute.HasField("g"):
                yield _of_graph(attribute.g)
            for graph in attribute.graphs:
                yield _of_graph(graph)
            if attribute.HasField("t"):
                yield (attribute.t.name,)


def _noted(message: Any) -> Iterator[Any]:
    for entry in message.metadata_props:
        yield from (entry.key, entry.value)
