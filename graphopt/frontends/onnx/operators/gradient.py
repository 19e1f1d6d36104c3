"""`Gradient`: derivatives of one tensor of the graph by others, written out by PyTorch's automatic differentiation.

∂(Σ y)/∂xᵢ, where y is computed from the xs (and zs) as the graph does
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from graphopt.frontends.onnx.application import Application, Declined, numbers_of, tensor_type, translates
from graphopt.frontends.onnx.entries import Entry
from graphopt.ir import Expr, Node, Trait, Value, from_torch
from graphopt.ops import torch_arguments

DOMAIN = "ai.onnx.preview.training"


@translates("Gradient", domain=DOMAIN)
def gradient(a: Application) -> Sequence[Entry]:
    """The derivatives of `y` by each of `xs`, at the operands."""
    names = [*a.attr("xs"), *(a.attr("zs") or [])]
    variables = [a.value(a.reader.lookup(name)) for name in names]
    y = a.value(a.reader.lookup(a.attr("y")))
    nodes, free = _between(variables, y)
    at = [a[i] for i in range(len(names))]
    if not any(v is y for v in variables) and not nodes:
        raise Declined(f"{a.attr('y')!r} is not computed from {', '.join(names)}")
    wanted = [i for i in range(len(a.attr("xs"))) if a.uses(i)]
    results = _written(a, _traced(nodes, [*variables, *free], wanted, y), [*at, *free])
    found: list[Entry] = [None] * len(names)
    for index, result in zip(wanted, results):
        found[index] = result
    return found[: a.num_outputs]


def _between(variables: Sequence[Value], y: Value) -> tuple[list[Node], list[Value]]:
    """The nodes that lead from the variables to y, in order, and what else they use."""
    graph = y.producer.graph if y.producer is not None else None
    depends = set(variables)
    leading = []
    for node in graph or ():
        if any(v in depends for v in node.inputs):
            depends.update(node.results)
            leading.append(node)
    needed, nodes, free = {y}, [], dict[Value, None]()
    for node in reversed(leading):
        if any(v in needed for v in node.results):
            if node.op.has(Trait.REGION) or node.op.evaluate is None:
                raise Declined(f"the derivative of {node.op.name}")
            nodes.append(node)
            needed.update(node.inputs)
            free.update((v, None) for v in node.inputs if v not in depends)
    return nodes[::-1], list(free)


def _traced(nodes: Sequence[Node], inputs: Sequence[Value], wanted: Sequence[int], y: Value) -> fx.GraphModule:
    """The derivatives by some inputs as a graph of PyTorch operators."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    def derivatives(*tensors: torch.Tensor) -> list[torch.Tensor]:
        leaves = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(tensors)]
        values: dict[Value, Any] = dict(zip(inputs, leaves))
        for node in nodes:
            operands = [None if v is None else values[v] for v in node.operands]
            args, kwargs = torch_arguments(node.op, operands, node.attributes, _no_size)
            assert node.op.evaluate is not None
            results = node.op.evaluate(*args, **kwargs)
            values.update(zip(node.results, results if isinstance(results, list | tuple) else [results]))
        by = [leaves[i] for i in wanted]
        found = torch.autograd.grad(values[y].sum(), by, allow_unused=True, materialize_grads=True)
        return list(found)

    with FakeTensorMode():
        types = [tensor_type(v) for v in inputs]
        fakes = [torch.empty(numbers_of(t.shape, "the gradient"), dtype=t.dtype.torch) for t in types]
    try:
        return make_fx(derivatives)(*fakes)
    except RuntimeError as error:
        raise Declined(f"PyTorch does not differentiate this: {error}") from error


def _written(a: Application, module: fx.GraphModule, inputs: Sequence[Value]) -> list[Value]:
    """Append the operators of a traced graph."""
    values: dict[fx.Node, Any] = {}
    given = iter(inputs)
    for node in module.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(given)
        elif node.op == "get_attr":
            values[node] = a.constant(getattr(module, str(node.target)))
        elif node.op == "output":
            return [values[result] for result in node.args[0]]
        else:
            values[node] = _applied(a, node, values)
    raise AssertionError("a traced graph has an output")


def _applied(a: Application, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    args: Any = fx.node.map_arg(node.args, values.__getitem__)
    kwargs: Any = fx.node.map_arg(node.kwargs, values.__getitem__)
    if not isinstance(node.target, torch._ops.OpOverload):  # one of several results
        operation: Callable[..., Any] = node.target  # type: ignore[assignment]
        return operation(*args)
    if node.target is torch.ops.aten.detach.default:
        return args[0]
    name = str(node.target).removesuffix(".default")
    kept = {key: _plain(value) for key, value in kwargs.items() if key not in AMBIENT}
    results = a.emit_all(name, *map(_plain, args), **kept)
    return results[0] if len(results) == 1 else results


AMBIENT = ("device", "layout", "memory_format", "pin_memory")
"""Arguments that say where and how tensors lie."""


def _plain(value: Any) -> Any:
    return from_torch(value) if isinstance(value, torch.dtype) else value


def _no_size(dim: Expr) -> Any:
    raise Declined(f"the size {dim} is not known before the model runs")
