"""Which of a file's tensors are parameters, to be trained: the file does not say."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from graphopt.ir import Constant, ConstantKind, Graph

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
