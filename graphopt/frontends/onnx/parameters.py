"""Which of a file's tensors are parameters, to be trained: the file does not say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from graphopt.frontends.builder import Derived
from graphopt.ir import Constant, ConstantKind, Graph, Node, Value

if TYPE_CHECKING:
    import onnx

STATISTICS = (3, 4)
"""The inputs of a batch norm that are its mean and variance."""


def set_kinds(graph: Graph, proto: onnx.GraphProto) -> None:
    """Say of each stored tensor whether it is a parameter.

    Floating-point initializers with dims are, apart from the statistics of batch norms. Some exporters write weights as
    `Constant` nodes: in a file without such an initializer these are the parameters.
    """
    for node in proto.node:
        for name in node.input[STATISTICS[0] : STATISTICS[-1] + 1] if node.op_type == "BatchNormalization" else ():
            _become(graph, name, ConstantKind.BUFFER)
    if any(_is_parameter(value.constant) for value in graph.constants.values()):
        return
    statistics = {name for name, value in graph.constants.items() if _is_buffer(value.constant)}
    for node in proto.node:
        name = node.output[0] if node.op_type == "Constant" and not node.domain and node.output else ""
        constant = graph.constants[name].constant if name in graph.constants else None
        if constant is not None and _holds_weights(constant) and name not in statistics:
            _become(graph, name, ConstantKind.PARAMETER)


def follow_parameters(graph: Graph, proto: onnx.GraphProto, derived: Sequence[Derived]) -> None:
    """Say which stored tensors are parameters, and compute by nodes what was evaluated from them while the graph was
    read, so that it follows when they train. Nothing is lost by that otherwise: passes fold constants.
    """
    needed: dict[Value, None] = {}
    for one in reversed(derived):
        if any(v.num_uses or v in needed for v in one.results):
            needed.update(dict.fromkeys([*one.results, *(v for v in one.operands if v is not None)]))
    results = {v for one in derived for v in one.results}
    restored = [v for v in needed if v not in results and graph.constants.setdefault(v.name, v) is v]
    set_kinds(graph, proto)
    _append(graph, [one for one in derived if one.results[0] in needed])
    for value in restored:
        if not value.num_uses and not _is_parameter(value.constant):
            del graph.constants[value.name]


def _append(graph: Graph, derived: Sequence[Derived]) -> None:
    """Append what depends on a parameter as nodes, before all others."""
    made: dict[Value, Value] = {}
    first = next(iter(graph), graph.terminator)
    for one in derived:
        if not any(v is not None and (v in made or _is_parameter(v.constant)) for v in one.operands):
            continue
        operands = [made.get(v, v) if v is not None else None for v in one.operands]
        node = Node(one.op, operands, one.attributes, [v.type for v in one.results], location=one.location)
        graph.insert_before(node, first)
        for old, new in zip(one.results, node.results):
            old.replace_all_uses_with(new)
            graph.constants.pop(old.name, None)
            made[old] = new


def _become(graph: Graph, name: str, kind: ConstantKind) -> None:
    value = graph.constants.get(name)
    if value is not None and value.constant is not None:
        trains = kind is ConstantKind.PARAMETER
        value.constant = replace(value.constant, kind=kind, names=(name,), requires_grad=trains)


def _is_parameter(constant: Constant | None) -> bool:
    return constant is not None and constant.kind is ConstantKind.PARAMETER


def _is_buffer(constant: Constant | None) -> bool:
    return constant is not None and constant.kind is ConstantKind.BUFFER


def _holds_weights(constant: Constant) -> bool:
    return constant.tensor.is_floating_point() and constant.tensor.ndim > 0 and constant.tensor.numel() > 1
