"""Higher-order operators: regions of no-grad and autocast are inlined, control flow becomes regions of the IR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from graphopt.errors import CaptureError
from graphopt.frontends.torch_export.autocast import Autocast
from graphopt.frontends.torch_export.importer import HIGHER_ORDER, Importer, tensor_refs
from graphopt.frontends.torch_export.normal_forms import stop_gradient
from graphopt.frontends.torch_export.storage import TensorRef
from graphopt.ir import Attributes, Expr, Graph, TensorType, Value, from_torch
from graphopt.ops import registry


def _set_grad_enabled(importer: Importer, node: fx.Node) -> Any:
    enabled, module, *arguments = map(importer.lookup, node.args)
    results = importer.run(module, arguments)
    if enabled:
        return results
    return [stop_gradient(importer, r) if isinstance(r, TensorRef) and r.differentiable else r for r in results]


def _autocast(importer: Importer, node: fx.Node) -> Any:
    device, dtype, enabled, _, module, *arguments = map(importer.lookup, node.args)
    outer = importer.context
    low = dtype or torch.get_autocast_dtype(device)
    importer.context = replace(outer, autocast=Autocast(device, from_torch(low)) if enabled else None)
    try:
        return importer.run(module, arguments)
    finally:
        importer.context = outer


def _inline(importer: Importer, node: fx.Node) -> Any:
    """A higher-order operator that only groups: `module(*arguments)`."""
    module, *arguments = map(importer.lookup, node.args)
    return importer.run(module, arguments)


def _cond(importer: Importer, node: fx.Node) -> Any:
    """`torch.cond(predicate, then, otherwise, operands)`."""
    predicate, then, otherwise, operands = map(importer.lookup, node.args)
    if isinstance(predicate, bool):
        return importer.run(then if predicate else otherwise, operands)
    tensors = [o for o in operands if isinstance(o, TensorRef)]
    regions = tuple(
        _region(importer, name, module, operands, []) for name, module in (("then", then), ("otherwise", otherwise))
    )
    values = [importer.as_argument(predicate), *(t.read() for t in tensors)]
    return _control_flow(importer, node, "higher_order.cond", values, regions, tensors)


def _while_loop(importer: Importer, node: fx.Node) -> Any:
    """`while_loop(condition, body, carried, invariant)`: sizes and numbers that are carried are scalar operands."""
    condition, body, carried, invariant = map(importer.lookup, node.args)
    operands = [*carried, *invariant]
    scalars = [i for i, item in enumerate(carried) if isinstance(item, int | Expr)]
    regions = tuple(
        _region(importer, name, module, operands, scalars)
        for name, module in (("condition", condition), ("body", body))
    )
    values = [
        scalar(importer, item) if i in scalars else item.read()
        for i, item in enumerate(operands)
        if i in scalars or isinstance(item, TensorRef)
    ]
    return _control_flow(importer, node, "higher_order.while_loop", values, regions, list(tensor_refs(operands)))


def _region(
    importer: Importer, name: str, module: fx.GraphModule, operands: Sequence[Any], scalars: Sequence[int]
) -> Graph:
    """Import a branch or body. Tensors, and the operands numbered by `scalars`, come in as inputs; sizes are free."""
    graph = Graph(name)
    inner = Importer(graph, importer.context, importer.builder.location)
    placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
    arguments: list[Any] = []
    for i, (operand, placeholder) in enumerate(zip(operands, placeholders)):
        traced = placeholder.meta.get("val")
        if isinstance(operand, TensorRef):
            value = graph.add_input(placeholder.name, importer.context.symbols.type_of(traced))
            arguments.append(importer.context.root(value, traced, operand.differentiable))
        elif i in scalars:
            graph.add_input(placeholder.name, importer.context.symbols.type_of(traced))
            arguments.append(importer.context.symbols.dim(traced))
        else:
            arguments.append(operand)
    returned = inner.run(module, arguments)
    if any(ref.view.storage.version for ref in tensor_refs(arguments)):
        raise CaptureError("a branch or loop body writes to a tensor from outside; return the new value instead")
    returned = returned if isinstance(returned, list) else [returned]
    graph.set_outputs([item.read() if isinstance(item, TensorRef) else scalar(inner, item) for item in returned])
    return graph


def scalar(importer: Importer, item: Any) -> Value:
    """Return a size or number as a value."""
    if isinstance(item, bool) or not isinstance(item, int | Expr):
        return importer.as_argument(item) if not isinstance(item, bool) else importer.builder.scalar(item)
    return importer.builder.size(item)


def _control_flow(
    importer: Importer,
    node: fx.Node,
    name: str,
    values: Sequence[Value],
    regions: tuple[Graph, ...],
    tensors: Sequence[TensorRef],
) -> list[Any]:
    traced = node.meta["val"]
    types = [importer.context.symbols.type_of(item) for item in traced]
    names = [f"{node.name}_{i}" for i in range(len(types))]
    results = importer.builder.append(registry.get(name), values, Attributes(), types, names, regions)
    differentiable = any(t.differentiable for t in tensors)
    return [
        importer.context.root(value, item, differentiable)
        if isinstance(value.type, TensorType)
        else importer.context.symbols.dim(item)
        for value, item in zip(results, traced)
    ]


HIGHER_ORDER.update(
    {
        "wrap_with_set_grad_enabled": _set_grad_enabled,
        "wrap_with_autocast": _autocast,
        "tag_activation_checkpoint": _inline,
        "strict_mode": _inline,
        "cond": _cond,
        "while_loop": _while_loop,
    }
)
