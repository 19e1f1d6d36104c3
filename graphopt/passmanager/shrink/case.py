"""A case: a graph and inputs for it. Parts of it, cut out with the values that flow into them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from graphopt.analysis import Interpreter, bind_sizes
from graphopt.errors import GraphOptError
from graphopt.ir import DType, Graph, Node, Symbol, TensorType, Type, Value, infer_types, verify
from graphopt.ir.attributes import Attributes
from graphopt.ir.dims import from_symbol, linear_in
from graphopt.ir.printer import all_symbols
from graphopt.ir.types import type_symbols


@dataclass(frozen=True)
class Case:
    """A graph and one flat set of inputs for it; None if it is to run on made-up ones, or not at all."""

    graph: Graph
    inputs: list[Any] | None

    @property
    def given(self) -> dict[Value, Any]:
        """The inputs by value."""
        return dict(zip(self.graph.inputs, self.inputs or ()))

    def sizes(self) -> dict[str, int]:
        """Symbol name → size in the inputs."""
        return bind_sizes(self.graph.inputs, self.inputs) if self.inputs is not None else {}


def sound(graph: Graph) -> bool:
    """Whether a candidate holds together."""
    try:
        verify(graph)
    except Exception:  # a candidate may be broken in ways that the verifier itself trips over
        return False
    return True


def boundary(graph: Graph, chosen: Collection[Node]) -> list[Value]:
    """The results of other nodes that some nodes use, and those that are written back to what they use."""
    wanted = [v for n in graph if n in chosen for v in n.inputs]
    wanted += list(graph.updates.values())
    return [v for v in dict.fromkeys(wanted) if v.producer is not None and v.producer not in chosen]


def record(case: Case, wanted: Iterable[Value]) -> dict[Value, Any]:
    """Run a case and return the values of some results. Empty without inputs.

    Raises:
        GraphOptError: it does not run.
    """
    if case.inputs is None:
        return {}
    left, found = set(wanted), dict[Value, Any]()

    def observe(node: Node, results: Any) -> None:
        found.update((v, _own(r)) for v, r in zip(node.results, results) if v in left)

    if left:
        Interpreter(case.graph, observer=observe).run(*case.inputs)
    return found


def _own(value: Any) -> Any:
    """A copy: a result may be a view of a large tensor."""
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def part(case: Case, chosen: Collection[Node], recorded: Mapping[Value, Any] | None = None) -> Case | None:
    """Cut nodes out: what flows in becomes inputs, and what flows out is returned. None if that gives no sound graph.

    What the graph writes back to an input or buffer that these nodes use stays written back.

    recorded: values at the boundary; by default the case is run for them.
    """
    try:
        values = record(case, boundary(case.graph, chosen)) if recorded is None else recorded
        made = _Part(case, chosen, values).build()
    except (GraphOptError, KeyError):
        return None
    return made if sound(made.graph) else None


class _Part:
    def __init__(self, case: Case, chosen: Collection[Node], recorded: Mapping[Value, Any]) -> None:
        self.old = case.graph
        self.chosen = chosen
        self.values = {**case.given, **recorded}
        self.samples: list[Any] | None = None if case.inputs is None else []
        self.sizes = case.sizes()
        self.graph = Graph(case.graph.name)
        self.copies: dict[Value, Value] = {}
        self.names = {v.name for v in (*self.old.inputs, *self.old.constants.values())}

    def build(self) -> Case:
        for node in self.old:
            if node in self.chosen:
                for value in node.inputs:
                    self._need(value)
                regions = tuple(region.clone() for region in node.regions)
                self.graph.append(node.copy(self.copies, regions))
        outputs = [r for n in self.old if n in self.chosen for r in n.results if self._leaves(r)]
        if not outputs:
            outputs = [r for n in self.old if n in self.chosen for r in n.results][-1:]
        updates = self._updates()
        self.graph.set_outputs([self.copies[v] for v in outputs], updates)
        self._bind_symbols()
        return Case(self.graph, self.samples)

    def _need(self, value: Value) -> None:
        if value in self.copies:
            return
        if value.constant is not None:
            self.copies[value] = self.graph.add_constant(value.name, value.type, value.constant)
        else:
            name = value.name if value.producer is None else self._fresh(value.name)
            self._input(name, value.type, self.values[value] if self.samples is not None else None)
            self.copies[value] = self.graph.inputs[-1]

    def _input(self, name: str, type_: Type, sample: Any) -> None:
        self.graph.add_input(name, type_)
        if self.samples is not None:
            self.samples.append(sample)

    def _fresh(self, name: str) -> str:
        base, number = name or "value", 0
        while (unique := base if not number else f"{base}_{number}") in self.names:
            number += 1
        self.names.add(unique)
        return unique

    def _leaves(self, value: Value) -> bool:
        outputs = set(self.old.outputs)
        return value in outputs or any(
            use.node not in self.chosen and use.node is not self.old.terminator for use in value.uses
        )

    def _updates(self) -> dict[str, Value]:
        known = {v.name: v for v in (*self.old.inputs, *self.old.constants.values())}
        found = {}
        for name, value in self.old.updates.items():
            if known[name] in self.copies:
                self._need(value)
                found[name] = self.copies[value]
        return found

    def _bind_symbols(self) -> None:
        """Give each symbol that no input's size tells an input for itself."""
        bound = set(bindable(self.graph))
        for symbol in all_symbols(self.graph):
            if symbol not in bound and symbol in self.old.symbols():
                size = self.sizes.get(symbol.name, 0)
                type_ = TensorType(DType.F32, (from_symbol(symbol),))
                self._input(self._fresh(f"size_{symbol.name}"), type_, torch.zeros(size))


def bindable(graph: Graph) -> Iterable[Symbol]:
    """The symbols that the sizes of inputs tell."""
    for value in graph.inputs:
        dims = value.type.shape if isinstance(value.type, TensorType) else (getattr(value.type, "value", None),)
        for dim in dims:
            linear = linear_in(dim) if dim is not None else None
            if linear is not None:
                yield linear[0]


def tidied(case: Case, outputs: Collection[int] | None = None) -> Case | None:
    """A copy that returns only some of the outputs (by index), without what is then unused."""
    graph = case.graph.clone()
    if outputs is not None:
        graph.set_outputs([v for i, v in enumerate(graph.outputs) if i in outputs], graph.updates)
    for node in reversed(graph):
        if not any(r.num_uses for r in node.results):
            graph.erase(node)
    for name, value in list(graph.constants.items()):
        if not value.num_uses and name not in graph.mutations:
            del graph.constants[name]
    used = {s for n in graph for r in n.results for s in type_symbols(r.type)} | {
        s for n in graph for s in n.attributes.symbols
    }
    used |= {s for v in graph.inputs if v.num_uses or v.name in graph.mutations for s in type_symbols(v.type)}
    keep, bound = [], set[Symbol]()
    # Inputs that are used come first, since they bind symbols anyway.
    for value in sorted(graph.inputs, key=lambda v: not v.num_uses):
        binds = {s for s in _told(value.type) if s in used} - bound
        if value.num_uses or value.name in graph.mutations or binds:
            keep.append(value)
            bound |= binds
    indices = [i for i, value in enumerate(graph.inputs) if value in keep]
    graph.inputs[:] = [graph.inputs[i] for i in indices]
    return _checked(graph, None if case.inputs is None else [case.inputs[i] for i in indices])


def _told(type_: Type) -> set[Symbol]:
    if not isinstance(type_, TensorType):
        return set()
    found = (None if isinstance(d, int) else linear_in(d) for d in type_.shape)
    return {linear[0] for linear in found if linear is not None}


def _checked(graph: Graph, inputs: list[Any] | None) -> Case | None:
    return Case(graph, inputs) if sound(graph) else None


def rebuilt(
    case: Case,
    type_of: Callable[[Value], Type],
    attributes_of: Callable[[Node], Attributes],
    tensor_of: Callable[[torch.Tensor, Type, Type], torch.Tensor],
) -> Case | None:
    """Make the graph anew with other types of inputs and constants, and other attributes; types follow by inference.

    tensor_of: makes a tensor of the first type into one of the second. None if that gives no sound graph.
    """
    graph, copies = Graph(case.graph.name), dict[Value, Value]()
    inputs: list[Any] = []
    try:
        for index, value in enumerate(case.graph.inputs):
            type_ = type_of(value)
            copies[value] = graph.add_input(value.name, type_)
            if case.inputs is not None:
                given = case.inputs[index]
                inputs.append(tensor_of(given, value.type, type_) if isinstance(given, torch.Tensor) else given)
        for name, value in case.graph.constants.items():
            assert value.constant is not None
            type_, constant = type_of(value), value.constant
            tensor = tensor_of(constant.tensor.detach(), value.type, type_)
            if tensor is not constant.tensor:
                constant = replace(constant, tensor=tensor, version=tensor._version)
            copies[value] = graph.add_constant(name, type_, constant)
        for node in case.graph:
            attributes = attributes_of(node)
            operands = [None if v is None else copies[v] for v in node.operands]
            types = [r.type for r in node.results]
            if node.op.infer is not None:
                types = list(infer_types(node.op, operands, attributes, node.regions))
            regions = tuple(region.clone() for region in node.regions)
            names = [r.name for r in node.results]
            made = Node(node.op, operands, attributes, types, regions=regions, location=node.location, names=names)
            copies.update(zip(node.results, graph.append(made).results))
        updates = {name: copies[v] for name, v in case.graph.updates.items()}
        graph.set_outputs([copies[v] for v in case.graph.outputs], updates)
    except (GraphOptError, ValueError, RuntimeError, IndexError):
        return None
    return _checked(graph, None if case.inputs is None else inputs)
