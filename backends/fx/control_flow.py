"""`torch.cond` and `while_loop`: each region becomes a graph module of its own.

The operators are called as exported programs call them (`torch.ops.higher_order`): in eager mode they then run
the branch directly, where `torch.cond` would start the compiler. Regions see nothing but their inputs, so
stored tensors and sizes that they need become further operands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from graphopt.backends.fx.mutation import may_alias
from graphopt.backends.fx.sizes import free_symbols
from graphopt.errors import EmissionError
from graphopt.ir import Graph, Node, Symbol, Value

if TYPE_CHECKING:
    from graphopt.backends.fx.body import Body

_REGION_NAMES = {
    "higher_order.cond": ("true_graph", "false_graph"),
    "higher_order.while_loop": ("cond_graph", "body_graph"),
}


def emit_control_flow(body: Body, node: Node) -> torch.fx.Node:
    """Append a `cond` or `while_loop` to `body`; the result is a tuple.

    Raises:
        EmissionError: another operator with regions, or a region that updates a buffer.
    """
    if node.op.name not in _REGION_NAMES:
        raise EmissionError(f"{node.op.name} has regions, and no FX form")
    constants = list(dict.fromkeys(v for region in node.regions for v in stored_tensors(region)))
    symbols = list(dict.fromkeys(s for region in node.regions for s in free_symbols(region)))
    regions = [
        _emit_region(body, region, name, constants, symbols, is_predicate=name == "cond_graph")
        for region, name in zip(node.regions, _REGION_NAMES[node.op.name])
    ]
    operands = [body.node_of(v) for v in node.inputs]
    captured: list[Any] = [*map(body.node_of, constants), *map(body.sizes.symbol, symbols)]
    if node.op.name == "higher_order.cond":
        predicate, *rest = operands
        args: tuple[Any, ...] = (predicate, *regions, (*rest, *captured))
        return body.fx_graph.call_function(torch.ops.higher_order.cond, args)
    carried = len(node.results)
    args = (*regions, tuple(operands[:carried]), (*operands[carried:], *captured))
    return body.fx_graph.call_function(torch.ops.higher_order.while_loop, args)


def stored_tensors(graph: Graph) -> Iterator[Value]:
    """The stored tensors of a graph and of the regions in it."""
    yield from graph.constants.values()
    for node in graph:
        for region in node.regions:
            yield from stored_tensors(region)


def _emit_region(
    outer: Body,
    region: Graph,
    name: str,
    constants: Sequence[Value],
    symbols: Sequence[Symbol],
    *,
    is_predicate: bool,
) -> torch.fx.Node:
    if region.mutations:
        raise EmissionError(f"a branch of control flow updates {', '.join(region.mutations)}; return the new value")
    module = torch.fx.GraphModule({}, torch.fx.Graph())
    body = type(outer)(region, module, trainable=outer.trainable)
    body.declare([*region.inputs, *constants], symbols)
    body.emit_nodes()
    outputs = _separate(body, region, [*region.inputs, *constants])
    body.fx_graph.output(outputs[0] if is_predicate else tuple(outputs))
    module.graph = body.fx_graph
    return outer.submodule(name, module)


def _separate(body: Body, region: Graph, inputs: Sequence[Value]) -> list[torch.fx.Node]:
    """The results of a region, cloned where they may share memory with an input or another result: PyTorch
    does not trace regions that return their inputs."""
    taken = frozenset(inputs)
    nodes = []
    for value in region.outputs:
        node = body.node_of(value)
        if may_alias(value, taken):
            node = body.fx_graph.call_method("clone", (node,))
        taken |= {value}
        nodes.append(node)
    return nodes
