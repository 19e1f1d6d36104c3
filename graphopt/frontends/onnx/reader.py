"""Reading an ONNX graph: node by node, each translated to ATen operators by a rule."""

from __future__ import annotations

import itertools
from collections import ChainMap
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from graphopt.errors import CaptureError, GraphOptError
from graphopt.frontends.builder import Builder
from graphopt.frontends.onnx.application import TRANSLATIONS, Application, Declined, NeedsValue, OneOperator
from graphopt.frontends.onnx.attributes import attributes_of
from graphopt.frontends.onnx.choice import RanksDiffer, key, only_valid_branch
from graphopt.frontends.onnx.entries import Entry, Known, Sequence_, holds_strings
from graphopt.frontends.onnx.functions import Functions, inlined, is_standard, schema_function, without_calls
from graphopt.frontends.onnx.interface import input_type, signature
from graphopt.frontends.onnx.legacy import MODERN, modernized
from graphopt.frontends.onnx.opaque import freeze_operands, keep, optional, sequence, string_constant
from graphopt.frontends.onnx.opsets import Opsets
from graphopt.frontends.onnx.scopes import Budget
from graphopt.frontends.onnx.shape_rules import known_results
from graphopt.frontends.onnx.sparse import dense
from graphopt.frontends.onnx.tensors import Damaged, Folder, dtype_of, to_torch
from graphopt.ir import Constant, ConstantKind, Graph, Location, OptionalType, TensorType, Value, from_torch
from graphopt.ir.memory import collection_paused
from graphopt.ops.onnx_nested import short_domain

if TYPE_CHECKING:
    import onnx


@dataclass
class Reader:
    """Reads one graph, and those that it holds.

    folder: where external data may lie. values: contents of inputs that decide shapes, by name: they are taken to
    be constant. ranks: of inputs of which the file does not say it. names: what each ONNX name stands for.
    functions: those that the model defines. declared: what the file says of the types of names. atomic: a node that
    cannot be read is not kept as it is, since the whole that it is a part of will be. undecided: the model's
    inputs, but those of `values`. on_trial, guesses: see `choice`. symbol_names: of all graphs together. native:
    keep operators that PyTorch lacks as they are.
    """

    graph: Graph
    opsets: Opsets
    folder: Folder | None = None
    values: Mapping[str, torch.Tensor] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)
    names: MutableMapping[str, Entry] = field(default_factory=dict)
    functions: Functions = field(default_factory=Functions)
    declared: dict[str, onnx.TypeProto] = field(default_factory=dict)
    atomic: bool = False
    undecided: set[str] = field(default_factory=set)
    on_trial: bool = False
    guesses: dict[str, bool] = field(default_factory=dict)
    symbol_names: set[str] = field(default_factory=set)
    budget: Budget = field(default_factory=Budget)
    native: bool = False

    def __post_init__(self) -> None:
        self.builder = Builder(self.graph)
        self.replaced: set[Value] = set()
        """Initializers that rules stored in another form."""

    def read(self, proto: onnx.GraphProto) -> None:
        """Read the model's graph: inputs, initializers, nodes, outputs.

        Raises:
            CaptureError: names the node that cannot be read.
        """
        self.declare(proto)
        self.budget.file = proto
        with collection_paused():
            stored = self.read_initializers(proto)
            self._inputs(proto, stored)
            self.graph.share_symbol_names(self.symbol_names)
            self.nodes(proto.node)
            self.graph.set_outputs([self._output(o) for o in proto.output])
            self._drop_unused()
            freeze_operands(self.graph)
        self.graph.signature = signature([v.name for v in proto.input if v.name not in stored], proto)

    def _drop_unused(self) -> None:
        """Drop tensors that nothing uses, but initializers: those are part of the state, unless others took over."""
        for name, value in list(self.graph.constants.items()):
            assert value.constant is not None
            own = value.constant.kind is ConstantKind.CONSTANT or value in self.replaced
            if own and not value.num_uses:
                del self.graph.constants[name]

    def declare(self, proto: onnx.GraphProto) -> None:
        """Note what a graph says of the types of its names."""
        self.declared.update((info.name, info.type) for info in (*proto.value_info, *proto.output))

    def nodes(self, protos: Sequence[onnx.NodeProto]) -> None:
        """Translate nodes in order."""
        for index, node in enumerate(protos):
            outputs = node.output[:]  # a list, as protocol buffers make the strings anew whenever they are asked
            self.builder.location = Location(scope=node.name or next(filter(None, outputs), node.op_type))
            try:
                for name, entry in zip(outputs, self._translated(protos, index, outputs)):
                    if name:
                        self.define(name, entry)
            except GraphOptError as error:
                if error.located:
                    raise
                located = CaptureError(f"cannot read node {_label(node)} ({node.op_type}): {error}")
                located.located = True
                raise located from error

    def lookup(self, name: str) -> Entry:
        """What a name stands for; None for the empty name of an absent operand.

        Raises:
            CaptureError: nothing has that name before the node that uses it.
        """
        if not name:
            return None
        try:
            return self.names[name]
        except KeyError:
            raise CaptureError(f"it uses {name!r}, which no input, initializer or earlier node defines") from None

    def define(self, name: str, entry: Entry) -> None:
        """Give a name its meaning.

        Raises:
            CaptureError: the name is taken.
        """
        if name in (self.names.maps[0] if type(self.names) is ChainMap else self.names):
            raise CaptureError(f"{name!r} is defined twice")
        self.names[name] = entry
        if isinstance(entry, Value) and not entry.name and entry.producer is not None:
            entry.name = name

    # Inputs, initializers, outputs

    def read_initializers(self, proto: onnx.GraphProto) -> set[str]:
        """Store the tensors that a graph brings along; return their names."""
        names: set[str] = set()
        for tensor in proto.initializer:
            if tensor.data_type == tensor.STRING:
                self.define(tensor.name, string_constant(tensor, self))
                names.add(tensor.name)
                continue
            self._store(tensor, to_torch(tensor, self.folder))
            names.add(tensor.name)
        for sparse in proto.sparse_initializer:
            self._store(sparse.values, dense(sparse, self.folder))
            names.add(sparse.values.name)
        return names

    def _store(self, proto: onnx.TensorProto, tensor: torch.Tensor) -> None:
        """Store a tensor under the name of its proto. Floating-point ones with dims are parameters."""
        floating = tensor.is_floating_point() or tensor.is_complex()
        kind = ConstantKind.PARAMETER if floating and tensor.ndim else ConstantKind.BUFFER
        type_ = TensorType(dtype_of(proto.data_type, proto.name), tuple(tensor.shape))
        constant = Constant(tensor, kind, (proto.name,), kind is ConstantKind.PARAMETER)
        self.define(proto.name, self.graph.add_constant(proto.name, type_, constant))

    def _inputs(self, proto: onnx.GraphProto, stored: set[str]) -> None:
        for info in proto.input:
            if info.name in stored:
                continue  # an initializer that is listed as an input is a default, which is kept
            value = self.graph.add_input(info.name, input_type(info, self.ranks.get(info.name)))
            given = self.values.get(info.name)
            entry: Entry = value
            if given is not None:
                type_ = TensorType(from_torch(given.dtype), tuple(given.shape))
                entry = self.graph.add_constant(f"{info.name} as given", type_, Constant(given))
            else:
                self.undecided.add(info.name)
            self.define(info.name, entry)

    def _output(self, info: onnx.ValueInfoProto) -> Value:
        value = self.as_value(self.lookup(info.name))
        is_optional = info.type.WhichOneof("value") == "optional_type"
        if value is not None and (not is_optional or isinstance(value.type, OptionalType)):
            return value
        if not is_optional:
            raise CaptureError(f"output {info.name!r} is an absent optional, but is declared to be none")
        return optional(value, info.type, self)

    def as_value(self, entry: Entry) -> Value | None:
        """What an entry stands for as a value; None for an absent optional."""
        if isinstance(entry, Known):
            return self.application().value(entry)
        return sequence(entry, self) if isinstance(entry, Sequence_) else entry

    def application(self) -> Application:
        """An application of no node, to append nodes with."""
        from onnx import NodeProto

        return Application(NodeProto(), 0, (), {}, self.builder)

    def inside(self, graph: Graph, names: MutableMapping[str, Entry]) -> Reader:
        """A reader of a graph that a node of this one holds, into a region."""
        inner = replace(self, graph=graph, names=names)
        inner.builder.location = self.builder.location
        return inner

    # What opaque nodes ask for

    @property
    def location(self) -> Location:
        """Where the node that is being read comes from."""
        return self.builder.location

    def imports(self, domains: Iterable[str]) -> dict[str, int]:
        """The versions of some domains, in order."""
        return {domain: self.opsets.versions.get(domain, 1) for domain in dict.fromkeys(map(short_domain, domains))}

    # Nodes

    def _translated(self, protos: Sequence[onnx.NodeProto], index: int, outputs: Sequence[str]) -> Sequence[Entry]:
        """What the outputs of the node at an index stand for."""
        node = protos[index]
        inputs = tuple(map(self.lookup, node.input[:]))
        version = self.opsets.since(node.domain, node.op_type)
        mark = self.mark()
        try:
            results = self._by_rules(node, version, inputs)
            if any(outputs[len(results) :]):
                raise Declined(f"{node.op_type} has {len(outputs)} outputs, its rule gives {len(results)}")
            return results
        except MISTAKES as mistake:
            self.undo(mark)
            return self._kept(node, _malformed(mistake))
        except GraphOptError as reason:
            self.undo(mark)
            branch = only_valid_branch(self, protos[index:]) if isinstance(reason, RanksDiffer) else None
            if branch is None:
                return self._kept_or_composed(node, version, inputs, reason)
            self.guesses[key(node)] = branch
            return self._by_rules(node, version, inputs)

    def _kept_or_composed(
        self, node: onnx.NodeProto, version: int, inputs: tuple[Entry, ...], reason: GraphOptError
    ) -> Sequence[Entry]:
        """Keep a node. One that was to be left to an engine is read by its rule after all, if its types are unknown."""
        try:
            return self._kept(node, reason)
        except GraphOptError:
            if not isinstance(reason, OneOperator):
                raise
        self.native = False
        try:
            return self._by_rules(node, version, inputs)
        finally:
            self.native = True

    def _kept(self, node: onnx.NodeProto, reason: GraphOptError) -> Sequence[Entry]:
        """Keep a node as it is, if its types can be known.

        reason: why it cannot be read otherwise.
        """
        invalid = self.on_trial and reason.certain
        if (
            isinstance(reason, Damaged)
            or self.atomic
            or invalid
            or self._decides(reason)
            or self.functions.find(node) is not None
        ):
            raise reason from reason.__cause__
        try:
            return keep(without_calls(node, self.functions, self.opsets), self)
        except (GraphOptError, *MISTAKES) as error:
            raise CaptureError(f"{reason}; nor can the node stay as it is: {error}") from error

    def _decides(self, reason: BaseException | None) -> bool:
        """True if all that is missing are the contents of an input of the model."""
        while reason is not None and not isinstance(reason, NeedsValue):
            reason = reason.__cause__
        return reason is not None and reason.name in self.undecided

    def _by_rules(self, node: onnx.NodeProto, version: int, inputs: tuple[Entry, ...]) -> Sequence[Entry]:
        if node.op_type not in _OF_ANY_KIND and any(map(holds_strings, inputs)):
            raise Declined("PyTorch has no tensors of strings")
        application = Application(node, version, inputs, attributes_of(node, self.folder), self.builder, self)
        domain = short_domain(node.domain)
        if not domain and 0 < version < MODERN:
            application = modernized(application)
        if not domain and Known in map(type, inputs):
            found = known_results(application)
            if found is not None:
                return found
        rule = TRANSLATIONS.get((domain, node.op_type))
        function = self.functions.find(node)
        if function is not None and rule is None and not is_standard(node):
            return self._called(node, function)
        mark = self.mark()
        try:
            if rule is None:
                raise Declined(f"operator {domain + '.' if domain else ''}{node.op_type} is not supported")
            result = rule(application)
            if result is None or isinstance(result, Value | Known | Sequence_):
                return [result]
            return result
        except GraphOptError as reason:
            self.undo(mark)
            left = isinstance(reason, OneOperator) or (self.native and rule is not None)
            body = None if left else schema_function(application, self.opsets)
            if body is None:
                raise
            return self._called_whole(node, body, reason if rule is not None else None)

    # Calls of functions

    def _called(self, node: onnx.NodeProto, function: onnx.FunctionProto) -> list[Entry]:
        """Read the body of a function in place of a call."""
        prefix = f"{next((name for name in node.output if name), node.op_type)}::"
        call = inlined(node, function, prefix)
        outer, location = self.opsets, self.builder.location
        self.functions.enter(node, function)
        self.opsets = call.opsets
        try:
            self.nodes(call.nodes)
            results = [self.lookup(own) if name else None for name, own in zip(node.output, call.outputs)]
        finally:
            self.opsets, self.builder.location = outer, location
            self.functions.leave()
            for name in call.names:
                self.names.pop(name, None)
        for name, own, entry in zip(node.output, call.outputs, results):
            if name and isinstance(entry, Value) and entry.producer is not None and entry.name == own:
                entry.name = name
        return results

    def _called_whole(
        self, node: onnx.NodeProto, function: onnx.FunctionProto, reason: GraphOptError | None
    ) -> list[Entry]:
        """Read the body by which the standard defines an operator, all of it or nothing.

        reason: why the operator's own rule does not cover the node.
        """
        mark, atomic, self.atomic = self.mark(), self.atomic, True
        try:
            return self._called(node, function)
        except GraphOptError as error:
            self.undo(mark)
            if reason is not None:
                raise reason from reason.__cause__
            if isinstance(error.__cause__, NeedsValue):
                raise error.__cause__ from None
            raise Declined(f"its definition by other operators cannot be read: {error}") from error
        finally:
            self.atomic = atomic

    def mark(self) -> tuple[int, int, int]:
        """Where the graph ends, for `undo`."""
        return len(self.graph), len(self.builder.sizes), len(self.graph.constants)

    def undo(self, mark: tuple[int, int, int]) -> None:
        """Take back what was appended since, by a rule that then declined."""
        nodes, sizes, constants = mark
        for node in list(itertools.islice(reversed(self.graph), len(self.graph) - nodes)):
            self.graph.erase(node)
        for dim in list(self.builder.sizes)[sizes:]:
            del self.builder.sizes[dim]
        while len(self.graph.constants) > constants:
            self.graph.constants.popitem()


_OF_ANY_KIND = frozenset(
    [
        "Identity",
        "If",
        "Loop",
        "Optional",
        "OptionalGetElement",
        "OptionalHasElement",
        "SequenceAt",
        "SequenceConstruct",
        "SequenceErase",
        "SequenceInsert",
        "SequenceLength",
        "SequenceMap",
        "Shape",
        "Size",
    ]
)
"""Operators whose rules do not touch elements."""


MISTAKES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What a rule raises where a node lacks what its operator must have, or has what it cannot."""


def _malformed(mistake: Exception) -> Declined:
    return Declined(f"the node is malformed, or its rule does not cover it ({type(mistake).__name__}: {mistake})")


def _label(node: onnx.NodeProto) -> str:
    return node.name or key(node) or node.op_type
