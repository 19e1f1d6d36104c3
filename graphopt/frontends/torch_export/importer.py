"""The importer: one traced FX graph, node by node, into an IR graph."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._ops import HigherOrderOperator, OpOverload

from graphopt.errors import CaptureError, GraphOptError
from graphopt.frontends.builder import Builder
from graphopt.frontends.torch_export.aliases import result_view
from graphopt.frontends.torch_export.arguments import bind_numbers
from graphopt.frontends.torch_export.context import Context
from graphopt.frontends.torch_export.overloads import Overload, describe
from graphopt.frontends.torch_export.storage import TensorRef
from graphopt.frontends.torch_export.symbolic_scalars import as_value, is_symbolic
from graphopt.ir import UNKNOWN, Attributes, Graph, Location, ScalarType, TensorType, Value
from graphopt.ir.bind import bind
from graphopt.ops import attribute_from_torch

Handler = Callable[["Importer", fx.Node, Overload], Any]

HANDLERS: dict[str, Handler] = {}
"""Operators with a normal form of their own, by `namespace.base`; other modules fill it."""

HIGHER_ORDER: dict[str, Callable[[Importer, fx.Node], Any]] = {}
"""Higher-order operators, by name."""

FALLBACKS: list[Handler] = []
"""The handler of operators that write to their arguments (one entry, set by `mutation`)."""


class Importer:
    """Imports FX graphs into one IR graph.

    env: what each FX node stands for: a `TensorRef`, a dim, a Python or symbolic number, None, a submodule, or a
    list of these.
    """

    def __init__(self, graph: Graph, context: Context, outer: Location = UNKNOWN) -> None:
        self.graph = graph
        self.context = context
        self.builder = Builder(graph)
        self.outer = outer
        self.env: dict[fx.Node, Any] = {}
        self.owner: torch.nn.Module | None = None

    def run(self, module: fx.GraphModule, arguments: Sequence[Any]) -> Any:
        """Import the graph of `module` with its placeholders bound to `arguments`; return what it returns."""
        previous, self.owner = self.owner, module
        remaining = iter(arguments)
        result: Any = None
        for node in module.graph.nodes:
            if node.op == "placeholder":
                self.env[node] = next(remaining)
            elif node.op == "output":
                result = self.lookup(node.args[0])
            else:
                self.builder.location = self.context.locations.of(node.meta, self.outer)
                self.env[node] = self._import(node)
        self.owner = previous
        return result

    def _import(self, node: fx.Node) -> Any:
        target = node.target
        try:
            if node.op == "get_attr":
                return self._attribute(str(target))
            if node.op != "call_function":
                raise CaptureError(f"FX nodes of kind {node.op} are not supported")
            if isinstance(target, OpOverload):
                return self._operator(node, describe(target))
            if isinstance(target, HigherOrderOperator):
                return self._higher_order(node, target.name())
            return self._function(node)
        except GraphOptError as error:
            if error.located:
                raise
            located = CaptureError(f"cannot capture {node.format_node()}: {error} (from {self.builder.location})")
            located.located = True
            raise located from error

    def _attribute(self, path: str) -> Any:
        assert self.owner is not None
        value = operator.attrgetter(path)(self.owner)
        return self.context.constant(self.graph, path, value) if isinstance(value, torch.Tensor) else value

    def _operator(self, node: fx.Node, overload: Overload) -> Any:
        handler = HANDLERS.get(f"{overload.torch_op.namespace}.{overload.base}")
        if handler is not None:
            return handler(self, node, overload)
        if overload.mutated:
            return FALLBACKS[0](self, node, overload)
        value = node.meta.get("val")
        if is_symbolic(value) or isinstance(value, int | float):
            return self._number(value)
        return self.emit(node, overload, self.arguments(node.args), self.keywords(node))

    def _higher_order(self, node: fx.Node, name: str) -> Any:
        handler = HIGHER_ORDER.get(name)
        if handler is None:
            raise CaptureError(f"the higher-order operator {name} is not supported; rewrite that part of the model")
        return handler(self, node)

    def _function(self, node: fx.Node) -> Any:
        if node.target is operator.getitem:
            container = self.lookup(node.args[0])
            if isinstance(container, list | tuple | dict):
                return container[node.args[1]]  # type: ignore[index]
        value = node.meta.get("val")
        if is_symbolic(value) or isinstance(value, int | float):
            return self._number(value)
        if value is None and not node.users:
            return None
        raise CaptureError(f"the function {node.target} is not an operator; register it with torch.library")

    def _number(self, value: Any) -> Any:
        return self.context.symbols.dim(value) if isinstance(value, torch.SymInt) else value

    # Arguments

    def lookup(self, argument: Any) -> Any:
        """Replace FX nodes by what they stand for, in nested lists and tuples too."""
        if isinstance(argument, fx.Node):
            return self.env[argument]
        if isinstance(argument, list | tuple):
            return [self.lookup(item) for item in argument]
        if isinstance(argument, dict):
            return {key: self.lookup(item) for key, item in argument.items()}
        return argument

    def arguments(self, arguments: Iterable[Any]) -> list[Any]:
        """Turn FX arguments into IR ones: values, dims and attributes."""
        return [self.argument(argument) for argument in arguments]

    def keywords(self, node: fx.Node) -> dict[str, Any]:
        """Turn a node's keyword arguments into IR ones."""
        return {name: self.argument(argument) for name, argument in node.kwargs.items()}

    def argument(self, argument: Any) -> Any:
        """Turn one FX argument into an IR one."""
        if isinstance(argument, fx.Node):
            argument = self.env[argument]
        return self.as_argument(argument)

    def as_argument(self, item: Any) -> Any:
        """Turn what an FX node stands for into an IR argument."""
        if isinstance(item, TensorRef):
            return item.view.read()
        if isinstance(item, list | tuple):
            return tuple([self.argument(part) for part in item])
        if is_symbolic(item):
            return as_value(item, self.builder, self.context.symbols, self.context.numbers)
        return attribute_from_torch(item)

    def refs(self, node: fx.Node) -> list[TensorRef]:
        """The tensors among a node's arguments."""
        return list(tensor_refs(self.env[n] for n in node.all_input_nodes))

    # Results

    def emit(
        self,
        node: fx.Node,
        overload: Overload,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        value: Any = None,
        refs: Sequence[TensorRef] | None = None,
    ) -> Any:
        """Append an application of an operator that writes to nothing; return what the node stands for."""
        value = node.meta.get("val") if value is None else value
        operands, attributes = bind(overload.op, args, kwargs)
        overload, operands, attributes = bind_numbers(self.builder, overload, operands, attributes)
        attributes = self.context.settled(overload, attributes, self.builder.location)
        several = isinstance(value, list | tuple)
        results = list(value) if several else [] if value is None else [value]
        if self.context.autocast is not None:
            operands = self.context.autocast.cast(self.builder, operands, attributes, results)
        types = [self.context.symbols.type_of(result) for result in results]
        names = [node.name] if not several else [f"{node.name}_{i}" for i in range(len(results))]
        values = self.builder.append(overload.op, operands, attributes, types, names)
        refs = self.refs(node) if refs is None else refs
        made = [
            self._wrap(node, overload, v, traced, (operands, attributes), refs) for v, traced in zip(values, results)
        ]
        return made if several else made[0] if made else None

    def _wrap(
        self,
        node: fx.Node,
        overload: Overload,
        value: Value,
        traced: Any,
        bound: tuple[list[Any], Attributes],
        refs: Sequence[TensorRef],
    ) -> Any:
        if isinstance(value.type, TensorType):
            differentiable = any(r.differentiable for r in refs) and (
                value.type.dtype.is_floating or value.type.dtype.is_complex
            )
            return TensorRef(result_view(self, node, overload, value, traced, bound, refs), differentiable)
        if isinstance(value.type, ScalarType):
            return self._number(traced)
        return None


def tensor_refs(items: Iterable[Any]) -> Iterator[TensorRef]:
    """Find the tensors in nested lists."""
    for item in items:
        if isinstance(item, TensorRef):
            yield item
        elif isinstance(item, list | tuple):
            yield from tensor_refs(item)
