"""Sizes at run time: symbols read from the shapes of tensors, expressions computed once and reused."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from graphopt.errors import EmissionError
from graphopt.ir import Expr, Graph, Node, ScalarType, Symbol, TensorType, Type, Value
from graphopt.ir.dims import Dim, linear_in, lower_dim, symbols_of

Size = int | torch.fx.Node

_OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "max": torch.sym_max,
    "min": torch.sym_min,
}


class Sizes:
    """Gives the dims of one FX graph as ints or FX nodes.

    A symbol is read as soon as a value shows it in a dim `a*s + b`, so that no tensor is kept alive for its
    shape; symbols that nothing needs are not read.
    """

    def __init__(self, graph: torch.fx.Graph, needed: frozenset[str]) -> None:
        self._graph = graph
        self._needed = needed
        self._symbols: dict[str, torch.fx.Node] = {}
        self._computed: dict[tuple[str, Size, Size], Size] = {}
        self._dims: dict[Expr, Size] = {}

    def observe(self, value: Value, node: torch.fx.Node) -> None:
        """Read the symbols that are needed and that the type of `value` shows first."""
        for axis, symbol, factor, offset in _shown(value.type):
            if symbol.name in self._needed and symbol.name not in self._symbols:
                self._symbols[symbol.name] = self._solve(node, axis, symbol, factor, offset)

    def tells(self, value: Value) -> bool:
        """True if the type of `value` shows a symbol that is needed, and that nothing showed before."""
        return any(s.name in self._needed and s.name not in self._symbols for _, s, _, _ in _shown(value.type))

    def bind(self, name: str, node: torch.fx.Node) -> None:
        """Let `node` be the value of a symbol."""
        self._symbols[name] = node

    def __call__(self, dim: Dim) -> Size:
        """Return a dim as an int or as the FX node that computes it.

        Raises:
            EmissionError: a symbol that no value shows.
        """
        if isinstance(dim, int):
            return dim
        found = self._dims.get(dim)
        if found is None:
            found = self._dims[dim] = lower_dim(dim, self.symbol, int, self._apply)
        return found

    def symbol(self, symbol: Symbol) -> Size:
        """Return the FX node that holds a symbol's value."""
        found = self._symbols.get(symbol.name)
        if found is None:
            raise EmissionError(f"no shape of an input shows the size {symbol.name}; pass it as an input")
        return found

    def _solve(self, node: torch.fx.Node, axis: int | None, symbol: Symbol, factor: int, offset: int) -> torch.fx.Node:
        """The symbol's value, from `factor*symbol + offset` = the size of `axis`."""
        bare = factor == 1 and offset == 0
        name = re.sub(r"\W", "_", symbol.name) if bare else f"{node.name}_size"
        size = node
        if axis is not None:
            size = self._graph.create_node("call_method", "size", (node, axis), {}, name)
        if offset:
            size = self._graph.call_function(operator.sub, (size, offset))
        if factor != 1:
            size = self._graph.call_function(operator.floordiv, (size, factor))
        return size

    def _apply(self, operation: str, left: Size, right: Size) -> Size:
        key = (operation, left, right)
        found = self._computed.get(key)
        if found is None:
            found = self._graph.call_function(_OPERATIONS[operation], (left, right))
            self._computed[key] = found
        return found


def _shown(type_: Type) -> Iterator[tuple[int | None, Symbol, int, int]]:
    """(axis, symbol, a, b) of each dim `a*symbol + b` in a type; the axis of a scalar is None."""
    if isinstance(type_, TensorType):
        dims: Iterable[tuple[int | None, Dim]] = enumerate(type_.shape)
    elif isinstance(type_, ScalarType) and type_.value is not None:
        dims = ((None, type_.value),)
    else:
        return
    for axis, dim in dims:
        linear = None if isinstance(dim, int) else linear_in(dim)
        if linear is not None:
            yield axis, *linear


def needed_symbols(graph: Graph) -> frozenset[str]:
    """The names of the symbols whose values the nodes of `graph` need."""
    return frozenset(symbol.name for node in graph for symbol in _needed_by(node))


def free_symbols(graph: Graph) -> tuple[Symbol, ...]:
    """The symbols that a region needs before a value in it shows them."""
    shown = {symbol.name for value in graph.inputs for _, symbol, _, _ in _shown(value.type)}
    free: dict[Symbol, None] = {}
    for node in graph:
        free.update(dict.fromkeys(s for s in _needed_by(node) if s.name not in shown))
        shown.update(symbol.name for result in node.results for _, symbol, _, _ in _shown(result.type))
    return tuple(free)


def _needed_by(node: Node) -> Iterator[Symbol]:
    for attribute in node.attributes.values():
        yield from _attribute_symbols(attribute)
    for region in node.regions:
        yield from free_symbols(region)


def _attribute_symbols(attribute: Any) -> Iterator[Symbol]:
    if isinstance(attribute, Expr):
        yield from symbols_of(attribute)
    elif isinstance(attribute, tuple):
        for item in attribute:
            yield from _attribute_symbols(item)
