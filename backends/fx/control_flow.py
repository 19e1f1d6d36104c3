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
    # PyTorch cannot export branches that are given one tensor twice.
    shared = _first_places(node.operands[1:]) if node.op.name == "higher_order.cond" else None
    regions = [
        _emit_region(body, region, name, constants, symbols, shared)
        for region, name in zip(node.regions, _REGION_NAMES[node.op.name])
    ]
    operands = [body.node_of(v) for v in node.inputs]
    captured: list[Any] = [*map(body.node_of, constants), *map(body.sizes.symbol, symbols)]
    if shared is not None:
        predicate, *rest = operands
        distinct = [operand for place, operand in enumerate(rest) if shared[place] == place]
        args: tuple[Any, ...] = (predicate, *regions, (*distinct, *captured))
        return body.fx_graph.call_function(torch.ops.higher_order.cond, args)
    carried = len(node.results)
    args = (*regions, tuple(operands[:carried]), (*operands[carried:], *captured))
    return body.fx_graph.call_function(torch.ops.higher_order.while_loop, args)


def _first_places(operands: Sequence[Value | None]) -> list[int]:
    """For each operand, where it stands first."""
    first: dict[Value | None, int] = {}
    return [first.setdefault(operand, place) for place, operand in enumerate(operands)]


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
    shared: Sequence[int] | None,
) -> torch.fx.Node:
    """Add a region as a submodule. shared: for each input of a branch, which input it is the same as."""
    if region.mutations:
        raise EmissionError(f"a branch of control flow updates {', '.join(region.mutations)}; return the new value")
    module = torch.fx.GraphModule({}, torch.fx.Graph())
    body = type(outer)(region, module, trainable=outer.trainable)
    places = range(len(region.inputs)) if shared is None else shared
    body.declare([*(v for i, v in enumerate(region.inputs) if places[i] == i), *constants], symbols)
    for value, place in zip(region.inputs, places):
        body.define(value, body.node_of(region.inputs[place]))
    body.emit_nodes()
    outputs = _separate(body, region, [*region.inputs, *constants])
    body.fx_graph.output(outputs[0] if name == "cond_graph" else tuple(outputs))
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
