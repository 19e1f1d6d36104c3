"""The text form of a graph. `parse(print_graph(g))` is structurally equal to `g`."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from typing import Any

import torch

from graphopt.ir.dims import Expr, Symbol
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Graph, walk
from graphopt.ir.location import UNKNOWN, Location
from graphopt.ir.op import MISSING
from graphopt.ir.types import type_symbols
from graphopt.ir.value import Constant, Node, Value

INLINE_LIMIT = 16
"""Constants of at most this many elements are printed with their values."""

_PLAIN = re.compile(r"[A-Za-z0-9_.$]+")


def print_graph(graph: Graph, *, locations: bool = True) -> str:
    """Return the text of `graph`.

    locations: print where each node came from (`@ "model.py":12 "layer1.conv" <- "rule"`).
    """
    return "\n".join(_Printer(locations).graph_lines(graph, ""))


def print_node(node: Node) -> str:
    """Return the text of one node with its types, for messages."""
    return _Printer(True).node_line(node)


class _Printer:
    def __init__(self, locations: bool) -> None:
        self.locations = locations
        self.names: dict[Value, str] = {}
        self.taken: set[str] = set()
        self.counter = 0

    def graph_lines(self, graph: Graph, indent: str) -> Iterator[str]:
        yield f"{indent}graph {graph.name} {{"
        inner = indent + "  "
        if not indent:
            for symbol in all_symbols(graph):
                yield inner + symbol_text(symbol)
        for value in graph.inputs:
            yield f"{inner}input {self.name(value)}: {value.type!r}"
        for value in graph.constants.values():
            yield inner + self.constant_line(value)
        for node in graph:
            yield inner + self.node_line(node)
            if node.regions:
                for region in node.regions:
                    yield from self.graph_lines(region, inner + "  ")
                yield f"{inner}]"
        yield f"{inner}return {', '.join(self.name(v) for v in graph.outputs)}".rstrip()
        for target, value in graph.updates.items():
            yield f"{inner}update {json.dumps(target)} = {self.name(value)}"
        yield f"{indent}}}"

    def constant_line(self, value: Value) -> str:
        constant = value.constant
        assert constant is not None
        parts = [f"{constant.kind.value} {self.name(value)}: {value.type!r}"]
        if constant.names and constant.names != (value.name,):
            parts.append("names " + ", ".join(map(json.dumps, constant.names)))
        if constant.requires_grad:
            parts.append("requires_grad")
        if not constant.persistent:
            parts.append("not_persistent")
        if is_inline(constant):
            parts.append("= " + _tensor_text(constant.tensor))
        else:
            parts.append(f"sha256 {json.dumps(content_hash(constant.tensor))}")
        return " ".join(parts)

    def node_line(self, node: Node) -> str:
        results = ", ".join(f"{self.name(r)}: {r.type!r}" for r in node.results)
        operands = ", ".join("none" if v is None else self.name(v) for v in node.operands)
        text = f"{results} = " if results else ""
        text += f"{node.op.name}({operands})"
        attributes = printed_attributes(node)
        if attributes:
            text += " {" + ", ".join(f"{k}={attribute_text(v)}" for k, v in attributes.items()) + "}"
        if self.locations and node.location != UNKNOWN:
            text += " " + location_text(node.location)
        return text + (" [" if node.regions else "")

    def name(self, value: Value) -> str:
        if value not in self.names:
            name = value.name
            if not name:
                name, self.counter = str(self.counter), self.counter + 1
            base, number = name, 0
            while name in self.taken:
                number += 1
                name = f"{base}_{number}"
            self.taken.add(name)
            self.names[value] = name
        name = self.names[value]
        return f"%{name}" if _PLAIN.fullmatch(name) else f"%{json.dumps(name)}"


def all_symbols(graph: Graph) -> tuple[Symbol, ...]:
    """Return every symbol in the types of the graph, inputs first."""
    found = dict.fromkeys(graph.symbols())
    for node in walk(graph):
        for region in node.regions:
            found.update(dict.fromkeys(region.symbols()))
        for result in node.results:
            found.update(dict.fromkeys(type_symbols(result.type)))
    return tuple(found)


def symbol_text(symbol: Symbol) -> str:
    """Return the declaration of a symbol with its range and divisibility."""
    text = f"symbol {symbol.name} [{symbol.min}, {'inf' if symbol.max is None else symbol.max}]"
    return text if symbol.multiple_of == 1 else f"{text} multiple_of {symbol.multiple_of}"


def printed_attributes(node: Node) -> dict[str, Any]:
    """Return the attributes that differ from the schema's defaults."""
    defaults = {p.name: p.default for p in node.op.attribute_params if p.default is not MISSING}
    return {
        name: value
        for name, value in node.attributes.items()
        if name not in defaults or attribute_text(defaults[name]) != attribute_text(value)
    }


def attribute_text(value: Any) -> str:
    """Return the text of an attribute."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, DType):
        return value.value
    if isinstance(value, float):
        return _float_text(value)
    if isinstance(value, complex):
        return f"complex({_float_text(value.real)}, {_float_text(value.imag)})"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, tuple):
        return "(" + ", ".join(map(attribute_text, value)) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, int | Expr):
        return str(value)
    raise TypeError(f"not an attribute: {value!r}")


def location_text(location: Location) -> str:
    """Return the text of a location: `@ "file":line "scope" <- "rule"`."""
    text = f"@ {json.dumps(location.file)}:{location.line} {json.dumps(location.scope)}"
    return text + "".join(f" <- {json.dumps(rule)}" for rule in location.rules)


def content_hash(tensor: torch.Tensor) -> str:
    """Return the first 16 hex digits of the SHA-256 of a tensor's contiguous bytes."""
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(data.tobytes()).hexdigest()[:16]


def is_inline(constant: Constant) -> bool:
    """True if the constant's values are part of the text."""
    return constant.tensor.numel() <= INLINE_LIMIT and not constant.tensor.is_complex()


def _tensor_text(tensor: torch.Tensor) -> str:
    """Values as nested tuples; single-precision numbers in their shortest form that reads back exactly."""
    data = tensor.detach().cpu()
    if data.dtype == torch.float32:
        shortest = [float(str(number)) for number in data.reshape(-1).numpy()]
        data = torch.tensor(shortest, dtype=torch.float64).reshape(data.shape)
    return attribute_text(_nested(data.tolist()))


def _nested(value: Any) -> Any:
    return tuple(_nested(v) for v in value) if isinstance(value, list) else value


def _float_text(value: float) -> str:
    if math.isnan(value):
        return "nan"
    return repr(value)



