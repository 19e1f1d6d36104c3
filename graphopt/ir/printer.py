"""The text form of a graph. `parse(print_graph(g))` is structurally equal to `g`."""

from __future__ import annotations

import hashlib
import json
import math
import re
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import torch

from graphopt.ir.attributes import attribute_key
from graphopt.ir.dims import Expr, Symbol, format_symbol
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Graph, walk
from graphopt.ir.location import UNKNOWN, Location
from graphopt.ir.op import MISSING
from graphopt.ir.storage import byte_view
from graphopt.ir.types import type_symbols
from graphopt.ir.value import Constant, ConstantKind, Node, Value

INLINE_LIMIT = 16
"""Constants of at most this many elements are printed with their values."""

_PLAIN = re.compile(r"[A-Za-z0-9_.$]+")
_WORD = re.compile(r"[^\W\d][\w.]*")
_FIRST_WORD = re.compile(r'-?("|[^\W\d][\w.]*)')
_RESERVED = frozenset(["none", "true", "false", "inf", "nan", "complex", "dim", "bytes", *(d.value for d in DType)])


def print_graph(graph: Graph, *, locations: bool = True) -> str:
    """Return the text of `graph`.

    locations: print where each node came from (`@ "model.py":12 "layer1.conv" <- "rule"`).
    """
    return "\n".join(_Printer(locations).graph_lines(graph, ""))


def printed_constants(graph: Graph) -> dict[str, Value]:
    """Return the constants of a graph and its regions by the names that the text gives them."""
    printer = _Printer(False)
    for _ in printer.graph_lines(graph, ""):
        pass
    graphs = [graph, *(region for node in walk(graph) for region in node.regions)]
    return {printer.names[value]: value for g in graphs for value in g.constants.values()}


def print_node(node: Node) -> str:
    """Return the text of one node with its types, for messages."""
    return _Printer(True).node_line(node)


class _Printer:
    """Names are unique within a graph; those of constants in all its regions, since their data goes by name."""

    def __init__(self, locations: bool) -> None:
        self.locations = locations
        self.names: dict[Value, str] = {}
        self.constants: set[str] = set()
        self.taken: set[str] = set()
        self.counter = 0

    def graph_lines(self, graph: Graph, indent: str) -> Iterator[str]:
        yield f"{indent}graph {_word(graph.name)} {{"
        inner = indent + "  "
        if not indent:
            for symbol in all_symbols(graph):
                yield inner + symbol_text(symbol)
        for value in graph.inputs:
            yield f"{inner}input {self.name(value)}: {value.type!r}"
        for value in graph.constants.values():
            yield inner + self.constant_line(value)
        for node in graph:
            if node.regions:
                yield f"{inner}{self.node_line(node)} ["
                for region in node.regions:
                    yield from self.region_lines(region, inner + "  ")
                yield f"{inner}]"
            else:
                yield inner + self.node_line(node)
        yield f"{inner}return {', '.join(self.name(v) for v in graph.outputs)}".rstrip()
        for target, value in graph.updates.items():
            yield f"{inner}update {json.dumps(target)} = {self.name(value)}"
        yield f"{indent}}}"

    def region_lines(self, region: Graph, indent: str) -> Iterator[str]:
        """A region is a scope of its own."""
        saved = self.taken, self.counter
        self.taken, self.counter = set(), 0
        yield from self.graph_lines(region, indent)
        self.taken, self.counter = saved

    def constant_line(self, value: Value) -> str:
        constant = value.constant
        assert constant is not None
        shown = self.name(value)
        alias = "" if self.names[value] == value.name else f" as {json.dumps(value.name)}"
        parts = [f"{constant.kind.value} {shown}{alias}: {value.type!r}"]
        if constant.names != ((value.name,) if constant.kind is not ConstantKind.CONSTANT else ()):
            parts.append("names " + (", ".join(map(json.dumps, constant.names)) or "none"))
        if constant.requires_grad:
            parts.append("requires_grad")
        if not constant.persistent:
            parts.append("not_persistent")
        if is_inline(constant):
            parts.append("= " + _tensor_text(constant.tensor))
        else:
            parts.append(f"sha256 {json.dumps(constant_hash(constant))}")
        return " ".join(parts)

    def node_line(self, node: Node) -> str:
        text = ", ".join([f"{self.name(r)}: {r.type!r}" for r in node.results])
        operands = ", ".join(["none" if v is None else self.name(v) for v in node._operands])
        call = f"{_word(node.op.name)}({operands})"
        text = f"{text} = {call}" if text else call
        attributes = printed_attributes(node)
        if attributes:
            text += " {" + ", ".join([f"{_word(k)}={attribute_text(v)}" for k, v in attributes.items()]) + "}"
        if self.locations and node.location != UNKNOWN:
            text += " " + location_text(node.location)
        return text

    def name(self, value: Value) -> str:
        name = self.names.get(value)
        if name is None:
            name = self.names[value] = self.new_name(value)
        return f"%{name}" if _PLAIN.fullmatch(name) else f"%{json.dumps(name)}"

    def new_name(self, value: Value) -> str:
        name = value.name
        if not name:
            while str(self.counter) in self.taken:
                self.counter += 1
            name, self.counter = str(self.counter), self.counter + 1
        unique, number = name, 0
        while unique in self.taken or (value.constant is not None and unique in self.constants):
            number += 1
            unique = f"{name}_{number}"
        self.taken.add(unique)
        if value.constant is not None:
            self.constants.add(unique)
        return unique


def all_symbols(graph: Graph) -> tuple[Symbol, ...]:
    """Return every symbol in the types and attributes of the graph, inputs first."""
    found = dict.fromkeys(graph.symbols())
    for node in walk(graph):
        for region in node.regions:
            found.update(dict.fromkeys(region.symbols()))
        for result in node.results:
            found.update(dict.fromkeys(type_symbols(result.type)))
        found.update(dict.fromkeys(node.attributes.symbols))
    return tuple(found)


def symbol_text(symbol: Symbol) -> str:
    """Return the declaration of a symbol with its range and divisibility."""
    text = f"symbol {format_symbol(symbol)} [{symbol.min}, {'inf' if symbol.max is None else symbol.max}]"
    return text if symbol.multiple_of == 1 else f"{text} multiple_of {symbol.multiple_of}"


def printed_attributes(node: Node) -> dict[str, Any]:
    """Return the attributes that differ from the schema's defaults."""
    defaults = {p.name: p.default for p in node.op.attribute_params}
    return {
        name: value
        for name, value in node.attributes.items()
        if name not in defaults or not _is_same(value, defaults[name])
    }


def _is_same(value: Any, default: Any) -> bool:
    return value is default or (default is not MISSING and attribute_key(value) == attribute_key(default))


def attribute_text(value: Any) -> str:
    """Return the text of an attribute."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, DType):
        return value.value
    if isinstance(value, float):
        return _float_text(value)
    if isinstance(value, complex):
        return f"complex({_float_text(value.real)}, {_float_text(value.imag)})"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, bytes):
        return f'bytes("{b64encode(value).decode()}")'
    if isinstance(value, tuple):
        return "(" + ", ".join(map(attribute_text, value)) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, Expr):
        return _dim_text(value)
    raise TypeError(f"not an attribute: {value!r}")


def _dim_text(dim: Expr) -> str:
    """A dim's text; marked where its first word would read as something else than a symbol."""
    text = str(dim)
    first = _FIRST_WORD.match(text)
    return f"dim({text})" if first is not None and (first[1] == '"' or first[1] in _RESERVED) else text


def location_text(location: Location) -> str:
    """Return the text of a location: `@ "file":line "scope" <- "rule"`, each part if it is known."""
    text = "@"
    if location.file or location.line:
        text += f" {json.dumps(location.file)}:{location.line}"
    if location.scope:
        text += f" {json.dumps(location.scope)}"
    return text + "".join(f" <- {json.dumps(rule)}" for rule in location.rules)


def _word(name: str) -> str:
    return name if _WORD.fullmatch(name) else json.dumps(name)


def content_hash(tensor: torch.Tensor) -> str:
    """Return the first 16 hex digits of the SHA-256 of a tensor's contiguous bytes."""
    data = byte_view(tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()).numpy()
    return hashlib.sha256(data.data).hexdigest()[:16]


def constant_hash(constant: Constant) -> str:
    """`content_hash` of a constant, computed once for each version of its tensor."""
    tensor = constant.tensor
    if tensor.is_inference():
        return content_hash(tensor)
    known = constant.digest
    if known is None or known[0] != tensor._version:
        known = (tensor._version, content_hash(tensor))
        object.__setattr__(constant, "digest", known)
    return known[1]


def is_inline(constant: Constant) -> bool:
    """True if the constant's values are part of the text: few, and numbers that text can tell apart."""
    tensor = constant.tensor
    if tensor.numel() > INLINE_LIMIT or tensor.is_complex():
        return False
    return not tensor.is_floating_point() or not bool(tensor.isnan().any()) or _has_plain_nans(tensor)


def _has_plain_nans(tensor: torch.Tensor) -> bool:
    """True if every NaN has the bits that the text `nan` reads back as."""
    plain = torch.where(tensor.isnan(), torch.full((), math.nan, dtype=tensor.dtype), tensor.detach().cpu())
    return content_hash(plain) == content_hash(tensor)


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
