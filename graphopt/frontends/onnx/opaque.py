"""Nodes that no rule translates, kept as operators of the `onnx` dialect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from graphopt.errors import CaptureError
from graphopt.frontends.onnx.application import Declined
from graphopt.frontends.onnx.entries import Entry, Sequence_
from graphopt.frontends.onnx.opaque_types import Dims, result_types, type_from_proto
from graphopt.frontends.onnx.tensors import Folder, to_torch
from graphopt.ir import (
    Attributes,
    Constant,
    DType,
    Graph,
    Location,
    Node,
    OptionalType,
    SequenceType,
    TensorType,
    Type,
    UnrankedType,
    Value,
    complete,
    from_torch,
)
from graphopt.ir.fresh import placeholder
from graphopt.ops import onnx_dialect as dialect
from graphopt.ops import registry
from graphopt.ops.onnx_attributes import attribute_from_proto
from graphopt.ops.onnx_dtypes import FROM_ONNX_CODE, ONNX_CODES
from graphopt.ops.onnx_nested import captured_names, defined_names, domains_of, graphs_of, rename, unique
from graphopt.ops.onnx_values import kind_text, to_numpy, told_by_value

if TYPE_CHECKING:
    import onnx

EMBEDDED = 1024
"""Initializers of nested graphs of more bytes become constants of the graph, which the node captures."""


class Surroundings(Protocol):
    """What is asked of the reader."""

    graph: Graph
    folder: Folder | None
    declared: dict[str, onnx.TypeProto]

    def lookup(self, name: str) -> Entry:
        """What a name stands for."""

    def as_value(self, entry: Entry) -> Value | None:
        """What an entry stands for, as a value."""

    def imports(self, domains: Iterable[str]) -> Mapping[str, int]:
        """The versions of some domains."""

    @property
    def location(self) -> Location:
        """Where the node comes from."""


def keep(node: onnx.NodeProto, reader: Surroundings) -> list[Value | None]:
    """Append a node as it is, and return its outputs; None for those without a name.

    Raises:
        GraphOptError: its types cannot be known, or it holds what the dialect cannot.
    """
    proto = type(node)()
    proto.CopyFrom(node)
    _check(proto)
    lifted = _make_self_contained(proto, reader)
    captured = captured_names(proto)
    entries = [reader.lookup(name) for name in proto.input]
    values = [reader.as_value(entry) for entry in entries]
    outer = [lifted[name] if name in lifted else reader.as_value(reader.lookup(name)) for name in captured]
    if None in outer:
        raise Declined("a graph in it uses an optional that is absent")
    operands = dict(zip([*proto.input, *captured], [*zip(values, entries), *[(v, v) for v in outer]]))
    imports = reader.imports([proto.domain, *domains_of(proto)])
    known = {name: (value, entry) for name, (value, entry) in operands.items() if name and value is not None}
    bound = [s for v in reader.graph.inputs if isinstance(v.type, TensorType) for s in v.type.symbols]
    types = result_types(proto, known, imports, reader.declared, bound)
    attributes = _attributes(proto, [*values, *outer], captured, imports)
    op = registry.get(dialect.op_name(proto.domain, proto.op_type))
    names = [name for name in proto.output if name]
    appended = Node(op, [*values, *outer], attributes, types, location=reader.location, names=names)
    results = iter(reader.graph.append(appended).results)
    return [next(results) if name else None for name in proto.output]


def freeze_operands(graph: Graph) -> None:
    """Let parameters that only opaque nodes use require no gradient, since none could be had."""
    for value in graph.constants.values():
        constant, users = value.constant, value.users
        if constant is not None and constant.requires_grad and users and all(map(dialect.is_opaque, users)):
            value.constant = replace(constant, requires_grad=False)


def sequence(entry: Sequence_, reader: Surroundings) -> Value:
    """Append a node that makes a sequence of known length."""
    items = [reader.as_value(item) for item in entry.items]
    if not items:
        dtype = entry.dtype or DType.F32
        type_: Type = UnrankedType(dtype)
        return _append("SequenceEmpty", (), SequenceType(type_), reader, dtype=ONNX_CODES[dtype])
    types = [item.type for item in items if item is not None]
    return _append("SequenceConstruct", items, SequenceType(_joined(types)), reader)


def string_constant(tensor: onnx.TensorProto, reader: Surroundings) -> Value:
    """Append a node that gives strings, which the graph has no constants of."""
    from onnx import NodeProto
    from onnx.helper import make_attribute

    node = NodeProto(op_type="Constant", output=[tensor.name], attribute=[make_attribute("value", tensor)])
    (value,) = keep(node, reader)
    assert value is not None
    return value


def optional(value: Value | None, proto: onnx.TypeProto, reader: Surroundings) -> Value:
    """Append a node that makes an optional, absent if there is no value. proto: its type."""
    from onnx.helper import make_attribute

    type_ = type_from_proto(proto, Dims(frozenset()), "an optional")
    if value is not None:
        return _append("Optional", [value], OptionalType(value.type), reader)
    element = attribute_from_proto(make_attribute("type", proto.optional_type.elem_type))
    return _append("Optional", (), type_, reader, type=element)


def _append(
    op_type: str, operands: Sequence[Value | None], type_: Type, reader: Surroundings, **attributes: Any
) -> Value:
    op = registry.get(dialect.op_name("", op_type))
    attributes[dialect.OPSET] = reader.imports([""])[""]
    attributes[dialect.KINDS] = _kinds(operands)
    node = Node(op, operands, complete(op, attributes), [type_], location=reader.location)
    return reader.graph.append(node).result


def _joined(types: Sequence[Type]) -> Type:
    """The type of the elements of a sequence, from those of each; a size in which they differ is open."""
    first, *others = types
    if all(type_ == first for type_ in others):
        return first
    assert isinstance(first, TensorType | UnrankedType), "sequences hold tensors"
    tensors = [t for t in types if isinstance(t, TensorType)]
    if len(tensors) < len(types) or len({t.rank for t in tensors}) > 1:
        return UnrankedType(first.dtype)
    sizes = enumerate(zip(*[t.shape for t in tensors]))
    return TensorType(first.dtype, tuple([dims[0] if len(set(dims)) == 1 else placeholder(i) for i, dims in sizes]))


def _check(node: onnx.NodeProto) -> None:
    if not node.op_type:
        raise CaptureError("the node names no operator")
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            raise Declined(f"attribute {attribute.name!r} refers to an attribute of a function around it")
        if attribute.name.startswith(f"{dialect.DIALECT}."):
            raise Declined(f"attribute {attribute.name!r} has a name that graphopt uses")


def _make_self_contained(node: onnx.NodeProto, reader: Surroundings) -> dict[str, Value]:
    """Take large and external tensors out of the node, in place: they become constants, by the name under which the
    node's graphs use them."""
    _embed_tensors(node, reader.folder)
    names = list(defined_names(node))
    if not names:
        return {}
    taken = {*captured_names(node), *node.input}
    if len({*names, *taken}) < len(names) + len(taken):
        rename(node, {}, unique(taken))
    lifted: dict[str, Value] = {}
    for graph in graphs_of(node):
        _lift(graph, reader, lifted)
    return lifted


def _lift(graph: onnx.GraphProto, reader: Surroundings, lifted: dict[str, Value]) -> None:
    defaults = {value.name for value in graph.input}
    stay = []
    for tensor in graph.initializer:
        is_string = tensor.data_type == tensor.STRING
        if is_string or tensor.name in defaults or (tensor.ByteSize() <= EMBEDDED and not tensor.external_data):
            _embed(tensor, reader.folder)
            stay.append(tensor)
        else:
            lifted[tensor.name] = _constant(tensor, reader)
    if len(stay) < len(graph.initializer):
        copies = [type(t).FromString(t.SerializeToString()) for t in stay]
        del graph.initializer[:]
        graph.initializer.extend(copies)
    for node in graph.node:
        _embed_tensors(node, reader.folder)
        for inner in graphs_of(node):
            _lift(inner, reader, lifted)


def _constant(tensor: onnx.TensorProto, reader: Surroundings) -> Value:
    stored = to_torch(tensor, reader.folder)
    type_ = TensorType(from_torch(stored.dtype), tuple(stored.shape))
    return reader.graph.add_constant(tensor.name, type_, Constant(stored, names=(tensor.name,)))


def _embed_tensors(node: onnx.NodeProto, folder: Folder | None) -> None:
    for attribute in node.attribute:
        for tensor in (*([attribute.t] if attribute.HasField("t") else ()), *attribute.tensors):
            _embed(tensor, folder)


def _embed(tensor: onnx.TensorProto, folder: Folder | None) -> None:
    """Read external data into a tensor, and look whether a tensor is what it says: engines may crash if not.

    Raises:
        Damaged: it is not.
    """
    from onnx import numpy_helper

    if tensor.data_type == tensor.STRING or tensor.data_type not in FROM_ONNX_CODE:
        return
    found = to_torch(tensor, folder)
    if tensor.data_location == tensor.EXTERNAL:
        tensor.CopyFrom(numpy_helper.from_array(to_numpy(found), tensor.name))


def _attributes(
    node: onnx.NodeProto, operands: Sequence[Value | None], captured: Sequence[str], imports: Mapping[str, int]
) -> Attributes:
    domain = dialect.domain_and_type(dialect.op_name(node.domain, node.op_type))[0]
    found: dict[str, object] = {dialect.OPSET: imports.get(domain, 1)}
    found[dialect.OUTPUTS] = tuple([i for i, name in enumerate(node.output) if name])
    found[dialect.CAPTURED] = tuple(captured)
    found[dialect.KINDS] = _kinds(operands)
    found[dialect.IMPORTS] = tuple([item for d, v in imports.items() if d != domain for item in (d, v)])
    found.update({attribute.name: attribute_from_proto(attribute) for attribute in node.attribute})
    return Attributes(found)


def _kinds(operands: Sequence[Value | None]) -> tuple[str, ...]:
    """The types of operands whose values don't tell them."""
    kinds = tuple(["" if v is None or told_by_value(v.type) else kind_text(v.type) for v in operands])
    return kinds if any(kinds) else ()
