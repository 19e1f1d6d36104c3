"""Functions: operators that a file, or the ONNX standard, defines by a body of other nodes. Calls are inlined.

    Foo(x) = body with its inputs renamed to the operands, its attributes to those of the call, and its own names to
    fresh ones

The body is copied as protocol buffers, so that a node of it is read as any other, sub-graphs and the names that they
capture included.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graphopt.errors import CaptureError
from graphopt.frontends.onnx.application import Application
from graphopt.frontends.onnx.entries import Entry, Known
from graphopt.frontends.onnx.opsets import Opsets
from graphopt.ir import TensorType, Value
from graphopt.ops.onnx_dtypes import ONNX_CODES
from graphopt.ops.onnx_nested import short_domain

if TYPE_CHECKING:
    import onnx

DEEPEST = 64
"""How many calls may be nested."""

SPARE = 100_000
"""How many nodes the calls of a file may add up to, beside `FACTOR` times those that it stores."""

FACTOR = 50

Key = tuple[str, str, str]


@dataclass
class Functions:
    """The functions of a model, and what is left of the bound on the nodes that calls of them add up to."""

    local: Mapping[Key, onnx.FunctionProto] = field(default_factory=dict)
    left: int = SPARE
    stack: list[Key] = field(default_factory=list)

    @staticmethod
    def of(model: onnx.ModelProto) -> Functions:
        """Return the functions that a model defines.

        Raises:
            CaptureError: two of them have the same name.
        """
        local: dict[Key, onnx.FunctionProto] = {}
        for function in model.functions:
            key = (short_domain(function.domain), function.name, function.overload)
            if key in local:
                raise CaptureError(f"the model defines function {_named(key)} twice")
            local[key] = function
        stored = len(model.graph.node) + sum(len(f.node) for f in model.functions)
        return Functions(local, SPARE + FACTOR * stored)

    def find(self, node: onnx.NodeProto) -> onnx.FunctionProto | None:
        """Return the model's function that a node calls, if it calls one."""
        return self.local.get(_key(node)) if self.local else None

    def enter(self, node: onnx.NodeProto, function: onnx.FunctionProto) -> None:
        """Note that a call is being read.

        Raises:
            CaptureError: the function calls itself, calls are too deep, or add up to too many nodes.
        """
        key = _key(node)
        if key in self.stack and key in self.local:
            chain = " → ".join(_named(k) for k in [*self.stack[self.stack.index(key) :], key])
            raise CaptureError(f"function {_named(key)} calls itself ({chain}); ONNX functions are not recursive")
        if len(self.stack) >= DEEPEST:
            raise CaptureError(f"calls of functions are nested more than {DEEPEST} deep, at {_named(key)}")
        self.left -= len(function.node)
        if self.left < 0:
            raise CaptureError(
                f"the calls of the model's functions add up to too many nodes (at {_named(key)}): more than {FACTOR} "
                f"times those that it stores, and {SPARE}"
            )
        self.stack.append(key)

    def leave(self) -> None:
        """Note that a call has been read."""
        self.stack.pop()


@dataclass(frozen=True)
class Call:
    """A call as nodes: those of the body, with names of the caller.

    names: all names that the body defines. outputs: of these, what the results of the call are.
    """

    nodes: Sequence[onnx.NodeProto]
    names: Sequence[str]
    outputs: Sequence[str]
    opsets: Opsets


def inlined(node: onnx.NodeProto, function: onnx.FunctionProto, prefix: str) -> Call:
    """Return what a call of a function stands for.

    prefix: of the names of the body.

    Raises:
        CaptureError: the call has more operands or results than the function.
    """
    for what, given, formal in (("inputs", node.input, function.input), ("outputs", node.output, function.output)):
        if len(given) > len(formal):
            raise CaptureError(f"function {function.name} has {len(formal)} {what}, but is called with {len(given)}")
    names = dict.fromkeys(function.input, "") | dict(zip(function.input, node.input))
    attributes = {a.name: a for a in (*function.attribute_proto, *node.attribute)}
    copier = _Copier(names | {"": ""}, attributes, prefix)
    nodes = [copier.node(inner) for inner in function.node]
    outputs = [copier.name(name) for name in function.output[: len(node.output)]]
    return Call(nodes, list(copier.own), outputs, Opsets.imported(function.opset_import, f"function {function.name}"))


def without_calls(node: onnx.NodeProto, functions: Functions, opsets: Opsets) -> onnx.NodeProto:
    """Return a node in whose graphs the calls of the model's functions are inlined, for an engine that knows none.

    Raises:
        CaptureError: a function imports another opset than the model.
    """
    if not functions.local or not any(_graphs(attribute) for attribute in node.attribute):
        return node
    copy = type(node)()
    copy.CopyFrom(node)
    for attribute in copy.attribute:
        for graph in _graphs(attribute):
            nodes = list(_plain(graph.node, functions, opsets))
            del graph.node[:]
            graph.node.extend(nodes)
    return copy


def _plain(nodes: Iterable[onnx.NodeProto], functions: Functions, opsets: Opsets) -> Iterator[onnx.NodeProto]:
    """The nodes, and the bodies of calls in place of these."""
    from onnx import helper

    for node in nodes:
        function = functions.find(node)
        if function is None:
            yield without_calls(node, functions, opsets)
            continue
        call = inlined(node, function, f"{next(filter(None, node.output), node.op_type)}::")
        other = [
            domain
            for domain, version in call.opsets.versions.items()
            if version not in (0, opsets.versions.get(domain))
        ]
        if other:
            raise CaptureError(f"function {function.name} imports another version of {other[0] or 'the opset'}")
        functions.enter(node, function)
        yield from _plain(call.nodes, functions, opsets)
        functions.leave()
        for name, own in zip(node.output, call.outputs):
            if name:
                yield helper.make_node("Identity", [own], [name])


class _Copier:
    """Copies nodes of a body. names: what a name is called outside."""

    def __init__(self, names: dict[str, str], attributes: Mapping[str, onnx.AttributeProto], prefix: str) -> None:
        self._names = names
        self._attributes = attributes
        self._prefix = prefix
        self.own: dict[str, None] = {}

    def name(self, name: str) -> str:
        """The name of what is called `name` in the body."""
        if name not in self._names:
            self._names[name] = self._prefix + name
            self.own[self._names[name]] = None
        return self._names[name]

    def node(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """A node of the body, or of a sub-graph in it."""
        from onnx import NodeProto

        copy = NodeProto()
        copy.CopyFrom(node)
        if node.name:
            copy.name = self._prefix + node.name
        self._rename(copy.input)
        self._rename(copy.output)
        del copy.attribute[:]
        for attribute in node.attribute:
            found = self._attribute(attribute)
            if found is not None:
                copy.attribute.append(found)
        return copy

    def _rename(self, names: Iterable[str]) -> None:
        renamed = [self.name(name) for name in names]
        names[:] = renamed  # type: ignore[index]

    def _attribute(self, attribute: onnx.AttributeProto) -> onnx.AttributeProto | None:
        """An attribute; one that refers to the call's is absent where the call has none."""
        from onnx import AttributeProto

        copy = AttributeProto()
        if attribute.ref_attr_name:
            given = self._attributes.get(attribute.ref_attr_name)
            if given is None:
                return None
            copy.CopyFrom(given)
            copy.name = attribute.name
            return copy
        copy.CopyFrom(attribute)
        for graph in _graphs(copy):
            self._graph(graph)
        return copy

    def _graph(self, graph: onnx.GraphProto) -> None:
        for value in (*graph.input, *graph.initializer, *graph.output, *graph.value_info):
            value.name = self.name(value.name)
        nodes = [self.node(node) for node in graph.node]
        del graph.node[:]
        graph.node.extend(nodes)


def _graphs(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    return [attribute.g, *attribute.graphs] if attribute.HasField("g") else list(attribute.graphs)


def schema_function(a: Application, opsets: Opsets) -> onnx.FunctionProto | None:
    """Return the body by which the standard defines an operator, if it has one for these operands.

    Of bodies for several opsets, it is the newest that is not newer than the model's.
    """
    from onnx import FunctionProto, defs

    domain = short_domain(a.node.domain)
    try:
        schema: Any = defs.get_schema(a.name, opsets.versions.get(domain, 0), domain)  # onnx's types lack functions
    except defs.SchemaError:
        return None
    newest = opsets.versions[""]
    body = b""
    static = [v for v in schema.function_opset_versions if v <= newest]
    if static:
        body = schema.get_function_with_opset_version(max(static))
    else:
        dependent = [v for v in schema.context_dependent_function_opset_versions if v <= newest]
        types = [_type(entry) for entry in a.inputs]
        if dependent and None not in types:
            data = [t for t in types if t is not None]
            node = a.node.SerializeToString()
            body = schema.get_context_dependent_function_with_opset_version(max(dependent), node, data)
    if not body:
        return None
    function = FunctionProto()
    function.ParseFromString(body)
    _complete(function, schema, opsets)
    return function


def _complete(function: onnx.FunctionProto, schema: onnx.defs.OpSchema, opsets: Opsets) -> None:
    """State what the standard leaves implicit: defaults of attributes, opsets of the model."""
    imported = {short_domain(o.domain) for o in function.opset_import}
    for domain, version in opsets.versions.items():
        if domain not in imported:
            function.opset_import.add(domain=domain, version=version)
    stated = {attribute.name for attribute in function.attribute_proto}
    for name, attribute in schema.attributes.items():
        if name not in stated and attribute.default_value.name:
            function.attribute_proto.append(attribute.default_value)


def _type(entry: Entry) -> bytes | None:
    """The type of an operand as the standard's functions ask for it; None if it is no tensor."""
    from onnx import TypeProto

    proto = TypeProto()
    if isinstance(entry, Known):
        type_ = TensorType(entry.dtype, entry.shape)
    elif isinstance(entry, Value) and isinstance(entry.type, TensorType):
        type_ = entry.type
    else:
        return proto.SerializeToString() if entry is None else None
    proto.tensor_type.elem_type = ONNX_CODES[type_.dtype]
    for dim in type_.shape:
        size = proto.tensor_type.shape.dim.add()
        if isinstance(dim, int):
            size.dim_value = dim
    proto.tensor_type.shape.SetInParent()
    return proto.SerializeToString()


def is_standard(node: onnx.NodeProto) -> bool:
    """True if the standard knows the operator, whatever functions the model has."""
    from onnx import defs

    return not short_domain(node.domain) and bool(defs.has(node.op_type))


def _key(node: onnx.NodeProto) -> Key:
    return (short_domain(node.domain), node.op_type, node.overload)


def _named(key: Key) -> str:
    domain, name, overload = key
    return f"{domain + '.' if domain else ''}{name}{':' + overload if overload else ''}"
