"""Sizes that depend on data: symbols that a node introduces, and how they get their names.

Inference knows one call and no graph, so it calls such sizes `?0`, `?1`, …: placeholders. When the node is linked
into a graph, the graph renames them to the first names `u0`, `u1`, … that no type in it uses. So two nodes never
bind one name, nobody who creates nodes has to think of it, and the names are the same from run to run. What is
named stays so: types that come with names (from text, from an exported program, from a clone) are left alone, and
`infer_node` gives a linked node's own names back instead of placeholders.

A node that introduces a symbol binds it for all that follow, attributes included: such a node cannot be merged,
folded or dropped without renaming every use (see `new_symbols`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphopt.ir.dims import Dim, Expr, Symbol, from_symbol, symbol, symbols_of
from graphopt.ir.types import ScalarType, TensorType, Type, substitute_type, type_symbols
from graphopt.ir.value import Node

PREFIX = "?"


def placeholder(index: int, low: int = 0, high: int | None = None) -> Expr:
    """The symbol of a size that depends on data, before a graph has named it."""
    return symbol(f"{PREFIX}{index}", low, high)


def placeholders(types: Iterable[Type]) -> list[Symbol]:
    """The placeholders in some types, each once."""
    found = dict.fromkeys(s for type_ in types for s in type_symbols(type_) if s.name.startswith(PREFIX))
    return list(found)


def new_symbols(node: Node) -> tuple[Symbol, ...]:
    """The symbols that the results introduce: neither the operands' types nor the attributes mention them."""
    symbols = [s for result in node.results for s in type_symbols(result.type)]
    if not symbols:
        return ()
    known = {s for operand in node.inputs for s in type_symbols(operand.type)}
    known.update(node.attributes.symbols)
    return tuple(dict.fromkeys(s for s in symbols if s not in known))


def named(types: Sequence[Type], taken: set[str]) -> tuple[Type, ...]:
    """Types with names that are not taken in the place of placeholders; the names are taken then."""
    mapping: dict[str, Dim] = {}
    number = 0
    for old in placeholders(types):
        while f"u{number}" in taken:
            number += 1
        name = f"u{number}"
        taken.add(name)
        mapping[old.name] = from_symbol(Symbol(name, old.min, old.max, old.multiple_of))
    return tuple([substitute_type(type_, mapping) for type_ in types]) if mapping else tuple(types)


def with_names_of(node: Node, inferred: tuple[Type, ...]) -> tuple[Type, ...]:
    """Inferred types with the names that the node's results already have in the place of placeholders."""
    mapping: dict[str, Dim] = {}
    for result, type_ in zip(node.results, inferred):
        for declared, dim in zip(_dims(result.type), _dims(type_)):
            _match(dim, declared, mapping)
    return tuple(substitute_type(type_, mapping) for type_ in inferred) if mapping else inferred


def _dims(type_: Type) -> tuple[Dim, ...]:
    if isinstance(type_, TensorType):
        return type_.shape
    return (type_.value,) if isinstance(type_, ScalarType) and type_.value is not None else ()


def _match(dim: Dim, declared: Dim, mapping: dict[str, Dim]) -> None:
    """Note which symbol a bare placeholder stands for."""
    symbols = symbols_of(dim)
    if (
        isinstance(declared, Expr)
        and len(symbols) == 1
        and symbols[0].name.startswith(PREFIX)
        and dim == from_symbol(symbols[0])
    ):
        mapping.setdefault(symbols[0].name, declared)
