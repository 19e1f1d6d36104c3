"""Smaller sizes: symbols become numbers, and numbers become smaller wherever they occur together.

A size of the model shows up in many places: in inputs, weights, attributes. Which of them belong together is not worked
out; a size is simply replaced by a smaller one everywhere (in the types alone, in tuples of attributes, too, or in all
attributes; with its multiples or without), and type inference says which way fits. Tensors are cropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch

from graphopt.analysis import Interpreter
from graphopt.errors import GraphOptError
from graphopt.ir import Node, TensorType, Type, Value, walk
from graphopt.ir.attributes import Attributes
from graphopt.ir.dims import Expr, substitute
from graphopt.ir.types import substitute_type
from graphopt.passmanager.samples import resize
from graphopt.passmanager.shrink.case import Case, rebuilt, tidied
from graphopt.passmanager.shrink.search import Search

UNCHECKED = ("aten.lstm", "aten.gru", "aten.rnn_tanh", "aten.rnn_relu")
"""Operators whose kernels read past the end of weights that don't fit: their sizes are left alone."""

Number = Callable[[int], int]
"""A size in place of a size."""


def reduce_sizes(search: Search) -> None:
    """Turn symbols into numbers, and numbers into smaller ones."""
    for symbol in search.best.graph.symbols():
        if not search.accept(specialized(search.best, symbol.name)):
            search.accept(cropped(search.best, symbol.name))
    if any(node.op.base in UNCHECKED for node in walk(search.best.graph)):
        return
    tried: set[tuple[int, int]] = set()
    while (move := next((m for m in _moves(search.best) if m not in tried), None)) is not None:
        tried.add(move)
        search.accept(resized(search.best, *move))


def specialized(case: Case, symbol: str) -> Case | None:
    """Put the size that a symbol has in the inputs in its place."""
    size = case.sizes().get(symbol)
    if size is None:
        return None
    mapping = {symbol: size}
    made = rebuilt(
        case,
        lambda value: substitute_type(value.type, mapping),
        lambda node: _attributes(node, lambda v: substitute(v, mapping) if isinstance(v, Expr) else v),
        lambda tensor, old, new: tensor,
    )
    return tidied(made) if made is not None else None


def cropped(case: Case, symbol: str) -> Case | None:
    """Crop the inputs to a smaller size of a symbol."""
    sizes = case.sizes()
    found = next((s for s in case.graph.symbols() if s.name == symbol), None)
    if case.inputs is None or found is None or symbol not in sizes:
        return None
    step = found.multiple_of
    small = -(-max(found.min, 2 * step) // step) * step
    if small >= sizes[symbol]:
        return None
    generator = torch.Generator().manual_seed(0)
    inputs = [resize(v, x, {**sizes, symbol: small}, generator) for v, x in zip(case.graph.inputs, case.inputs)]
    return Case(case.graph, inputs)


def _moves(case: Case) -> Iterator[tuple[int, int]]:
    """Sizes and smaller ones for them, the largest first and the boldest first."""
    types = [v.type for v in (*case.graph.inputs, *case.graph.constants.values())]
    sizes = {d for t in types if isinstance(t, TensorType) for d in t.shape if isinstance(d, int) and d > 1}
    for size in sorted(sizes, reverse=True):
        for smaller in dict.fromkeys((1, 2, 3, 4, size // 2, size - 1)):
            if 0 < smaller < size:
                yield size, smaller


def resized(case: Case, size: int, smaller: int) -> Case | None:
    """Put a smaller size in the place of a size, in the first of several ways that fits."""
    for multiples, reach in product((False, True), (_no_attribute, _tuples, _numbers)):

        def number(found: int, multiples: bool = multiples) -> int:
            if multiples and found % size == 0:
                return found // size * smaller
            return smaller if found == size else found

        def type_of(value: Value, number: Number = number) -> Type:
            return _type(value.type, number)

        def attributes_of(node: Node, number: Number = number, reach: Any = reach) -> Attributes:
            return _attributes(node, lambda value: reach(value, number))

        def tensor_of(tensor: torch.Tensor, old: Type, new: Type) -> torch.Tensor:
            return _crop(tensor, old, new, size, smaller)

        made = rebuilt(case, type_of, attributes_of, tensor_of)
        if made is not None and _runs(made):
            return made
    return None


def _runs(case: Case) -> bool:
    """Whether a graph runs: inference lets sizes pass that it cannot tell apart."""
    if case.inputs is None:
        return True
    try:
        Interpreter(case.graph).run(*case.inputs)
    except GraphOptError:
        return False
    return True


def _type(type_: Type, number: Number) -> Type:
    if not isinstance(type_, TensorType):
        return type_
    return type_.with_shape(tuple(number(d) if isinstance(d, int) else d for d in type_.shape))


def _attributes(node: Node, change: Callable[[Any], Any]) -> Attributes:
    def deep(value: Any) -> Any:
        made = change(value)
        return tuple(map(deep, made)) if isinstance(made, tuple) else made

    changed = {name: deep(value) for name, value in node.attributes.items()}
    return Attributes(changed) if changed != dict(node.attributes) else node.attributes


def _no_attribute(value: Any, number: Number) -> Any:
    return value


def _tuples(value: Any, number: Number) -> Any:
    return tuple(_numbers(v, number) for v in value) if isinstance(value, tuple) else value


def _numbers(value: Any, number: Number) -> Any:
    return number(value) if type(value) is int else value


def _crop(tensor: torch.Tensor, old: Type, new: Type, size: int, smaller: int) -> torch.Tensor:
    """The first elements along each dim that became smaller. Integers below `size` may be indices: they stay in it."""
    if old != new:
        assert isinstance(old, TensorType) and isinstance(new, TensorType)
        index = [slice(b) if isinstance(b, int) and a != b else slice(None) for a, b in zip(old.shape, new.shape)]
        tensor = tensor[tuple(index)].contiguous().clone()
    if tensor.dtype in (torch.int64, torch.int32) and bool((tensor >= smaller).any()) and bool((tensor < size).all()):
        tensor = torch.where(tensor >= smaller, tensor % smaller, tensor)
    return tensor
