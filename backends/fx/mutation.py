"""Writing back: new values of buffers and inputs, copied in place after everything else has run."""

from __future__ import annotations

from collections.abc import Callable

import torch

from graphopt.ir import Graph, Op, TensorType, Trait, Value

_MAY_RETURN_OPERAND = frozenset({"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "pin_memory"})
"""ATen operators that may return their operand itself, though their schemas don't say so."""


def emit_updates(
    graph: Graph, fx_graph: torch.fx.Graph, node_of: Callable[[Value], torch.fx.Node]
) -> list[torch.fx.Node]:
    """Append the write-backs; return the nodes of the outputs.

    The graph is functional, so an output that is an input or an earlier output (`x + 0` became `x`), or may share
    memory with a stored tensor or something written to, is cloned before anything is written. Views of inputs stay
    views, as in PyTorch. The new value of a stored tensor is detached: it is state, not a part of the loss.
    """
    targets = {name: _target(graph, name) for name in graph.mutations}
    written = frozenset(targets.values())
    outputs = _own_outputs(graph, fx_graph, node_of, written)
    updates = graph.updates
    sources = {}
    for name, value in updates.items():
        own = written - {targets[name]} if value is targets[name] else written
        sources[name] = _apart(value, node_of(value), own, fx_graph)
    for name, target in targets.items():
        if updates[name] is target:
            continue
        source, destination = sources[name], node_of(target)
        if target.constant is not None:
            source = fx_graph.call_method("detach", (source,))
            if target.constant.requires_grad:
                destination = fx_graph.call_method("detach", (destination,))
        fx_graph.call_method("copy_", (destination, source))
    return outputs


def _own_outputs(
    graph: Graph, fx_graph: torch.fx.Graph, node_of: Callable[[Value], torch.fx.Node], written: frozenset[Value]
) -> list[torch.fx.Node]:
    lasting = written.union(graph.constants.values())
    nodes: list[torch.fx.Node] = []
    seen: set[Value] = set(graph.inputs)
    for value in graph.outputs:
        node = node_of(value)
        shared = value in seen or may_alias(value, lasting)
        nodes.append(fx_graph.call_method("clone", (node,)) if shared and _is_tensor(value) else node)
        seen.add(value)
    return nodes


def _is_tensor(value: Value) -> bool:
    return isinstance(value.type, TensorType)


def _target(graph: Graph, name: str) -> Value:
    for value in graph.inputs:
        if value.name == name:
            return value
    return graph.constants[name]


def may_alias(value: Value, others: frozenset[Value]) -> bool:
    """Whether `value` may share memory with one of `others`, through operators that return views."""
    pending, seen = [value], {value}
    while pending:
        current = pending.pop()
        if current in others:
            return True
        producer = current.producer
        if producer is None or not _returns_view(producer.op):
            continue
        for operand in producer.inputs:
            if operand not in seen:
                seen.add(operand)
                pending.append(operand)
    return False


def _apart(value: Value, node: torch.fx.Node, written: frozenset[Value], fx_graph: torch.fx.Graph) -> torch.fx.Node:
    return fx_graph.call_method("clone", (node,)) if may_alias(value, written) else node


def _returns_view(op: Op) -> bool:
    if op.has(Trait.VIEW) or op.has(Trait.REGION) or op.name.split(".")[1] in _MAY_RETURN_OPERAND:
        return True
    schema = getattr(op.evaluate, "_schema", None)
    return schema is not None and any(result.alias_info is not None for result in schema.returns)
