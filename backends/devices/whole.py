"""A graph on one device, its inputs and outputs on the host."""

from __future__ import annotations

from graphopt.ir import Graph, TensorType, Value
from graphopt.ir.types import on_device
from graphopt.ops import get_op
from graphopt.ops.copy import COPY
from graphopt.rewrite import Rewriter


def on_one_device(graph: Graph, device: str, host: str) -> Graph:
    """Return a copy whose nodes run on a device. Inputs come from the host, outputs and updates go back to it.

    >>> from graphopt.ops import parse
    >>> print(on_one_device(parse('''
    ... input %x: f32[2]
    ... %y = aten.relu(%x)
    ... return %y'''), "cuda:0", "cpu"))
    graph main {
      input %x: f32[2]
      %x_1: f32[2]@cuda:0 = graphopt.copy(%x) {device="cuda:0"} @ <- "one device"
      %y: f32[2]@cuda:0 = aten.relu(%x_1)
      %y_1: f32[2] = graphopt.copy(%y) {device="cpu"} @ <- "one device"
      return %y_1
    }
    """
    copy = graph.clone()
    rewriter = Rewriter(copy)
    nodes, returned = copy.nodes, copy.returned
    states = [copy.constants[name] for name in copy.mutations if name in copy.constants]
    moved: dict[Value, Value] = {}
    first = next(iter(nodes), copy.terminator)
    for value in (*copy.inputs, *states):
        value.type = on_device(value.type, host)
        if isinstance(value.type, TensorType) and any(use.node is not copy.terminator for use in value.uses):
            with rewriter.at(first, "one device"):
                moved[value] = rewriter.create(get_op(COPY), value, device, name=value.name).result
    for value in copy.constants.values():
        kept = value in states or all(use.node is copy.terminator for use in value.uses)
        value.type = on_device(value.type, host if kept else device)
    for node in nodes:
        rewriter.place(node, [None if v is None else moved.get(v, v) for v in node.operands], device)
    back: dict[Value, Value] = {}
    for index, value in enumerate(returned):
        if value.producer is not None and isinstance(value.type, TensorType):
            if value not in back:
                with rewriter.at(copy.terminator, "one device"):
                    back[value] = rewriter.create(get_op(COPY), value, host, name=value.name).result
            rewriter.set_operand(copy.terminator, index, back[value])
        elif value.constant is not None and value not in states:
            value.type = on_device(value.type, device)
            with rewriter.at(copy.terminator, "one device"):
                back[value] = rewriter.create(get_op(COPY), value, host, name=value.name).result
            rewriter.set_operand(copy.terminator, index, back[value])
    return copy
