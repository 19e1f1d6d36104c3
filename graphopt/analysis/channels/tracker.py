"""The walk over a graph: what a rule sees of a node, and what it says about its results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum

import torch

from graphopt.analysis.channels.atoms import Atoms, Ids
from graphopt.analysis.channels.axes import Axis, Factor, State, factor_states, opaque, varying
from graphopt.analysis.channels.regroup import Regrouper
from graphopt.ir import ConstantKind, Dim, Graph, Node, TensorType, Trait, Value

STEPS = 64
"""How far back the origin of what varies is looked for."""


class Role(Enum):
    """What a dim of a stored tensor is to the channels on it.

    OUT: the rows that produce them. SCALE, SHIFT: one factor or summand a channel. These make channels, and are zero
    in the masked model where channels go. So is NORMALIZED: contracted with them after a norm. Either over the weight,
    as `v` of weight norm, g · v / |v|: zeros leave the norm to what stays. Or over the channels, by a norm that has no
    weights of its own to be zero.
    IN: contracted with them. SLICE: a constant at their side. These stay as they are.
    """

    OUT = "out"
    SCALE = "scale"
    SHIFT = "shift"
    NORMALIZED = "normalized"
    IN = "in"
    SLICE = "slice"

    __hash__ = object.__hash__

    @property
    def makes(self) -> bool:
        """True if the channels come from here."""
        return self in (Role.OUT, Role.SCALE, Role.SHIFT)

    @property
    def zeroed(self) -> bool:
        """True if the slices of removed channels are zero in the masked model."""
        return self.makes or self is Role.NORMALIZED


@dataclass(frozen=True, eq=False, slots=True)
class Coupling:
    """One node that tied slots of two dims together."""

    node: Node | None
    text: str
    atoms: Ids


@dataclass(frozen=True, eq=False, slots=True)
class Care:
    """A node whose arithmetic counts the slots of a dim, so that removing some needs more than slicing.

    kind: `mean` (divide by the old count), `layer_norm`, `rms_norm`, `group_norm` (statistics over the old width),
    `attention` (the default scale is that of the old width).
    """

    kind: str
    node: Node
    value: Value
    dim: int
    atoms: Ids


@dataclass(frozen=True, slots=True)
class Block:
    """Atoms that were made together: the rows of one parameter, or the rows or columns of one split."""

    atoms: Ids
    source: tuple[Value, int] | None = None


class Tracker:
    """Walks the nodes in order. A rule reads the axes of operands, couples or freezes them, and sets the results'."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.atoms = Atoms()
        self.values: dict[Value, tuple[Axis, ...]] = {}
        self.roles: dict[tuple[Value, int], dict[Role, Node]] = {}
        self.blocks: list[Block] = []
        self.couplings: list[Coupling] = []
        self.cares: list[Care] = []
        self.constant_values: set[Value] = set()
        self.written = {graph.constants[n]: v for n, v in graph.updates.items() if n in graph.constants}
        self.node: Node | None = None
        self._played: set[tuple[Value, int]] = set()

    # ------------------------------------------------------------------ reading

    def axes(self, value: Value) -> tuple[Axis, ...]:
        """The dims of an operand."""
        found = self.values.get(value)
        if found is None:
            assert value.constant is not None, value
            found = self.values[value] = self._constant_axes(value)
            self.constant_values.add(value)
        return found

    def operands(self) -> Iterator[Value]:
        """The tensor operands of the node."""
        assert self.node is not None
        return (v for v in self.node.inputs if isinstance(v.type, TensorType))

    def is_constant(self, value: Value) -> bool:
        """True if a value depends on stored tensors alone."""
        return value.constant is not None or value in self.constant_values

    def is_parameter(self, axis: Axis) -> bool:
        """True if a dim is one of parameters, through views alone."""
        sources = [value.constant for factor in axis for value, _ in factor.sources]
        return bool(sources) and all(c is not None and c.kind is ConstantKind.PARAMETER for c in sources)

    def _constant_axes(self, value: Value) -> tuple[Axis, ...]:
        if not isinstance(value.type, TensorType):
            return ()
        assert value.constant is not None
        parameter = value.constant.kind is ConstantKind.PARAMETER
        axes: list[Axis] = []
        for dim, size in enumerate(value.type.shape):
            if size == 1:
                axes.append(())
                continue
            if not isinstance(size, int) or size == 0:
                axes.append(opaque(size, self.reason(f"size {size}")))
                continue
            state = State.ZERO if parameter else self._stored_state(value, dim)
            atoms = self.fresh(size, (value, dim))
            axes.append((Factor(size, atoms[:, None], 0, state, ((value, dim),)),))
        return tuple(axes)

    def _stored_state(self, value: Value, dim: int) -> State:
        """What slots of a stored tensor that is no parameter hold. One that is written to holds what the last call
        left there: zero, if it starts from zero and is written zero (see `settle`), else nothing that is known."""
        assert value.constant is not None
        tensor = value.constant.tensor
        if value not in self.written:
            return constant_state(tensor, dim)
        return State.VARYING if tensor.is_meta or bool(tensor.any()) else State.ZERO

    # ------------------------------------------------------------------ making

    def fresh(self, size: int, source: tuple[Value, int] | None = None) -> Ids:
        """New atoms that compete with one another."""
        atoms = self.atoms.fresh(size)
        self.blocks.append(Block(atoms, source))
        return atoms

    def reason(self, text: str) -> int:
        """The number of a reason at the current node."""
        return self.atoms.reason(text, self.node)

    def opaque(self, size: Dim, text: str) -> Axis:
        """A dim in which nothing can be removed."""
        return opaque(size, self.reason(text)) if size != 1 else ()

    def opaque_result(self, index: int, text: str) -> None:
        """A result in which nothing can be removed."""
        assert self.node is not None
        value = self.node.results[index]
        if isinstance(value.type, TensorType):
            self.values[value] = tuple([self.opaque(d, text) for d in value.type.shape])

    def set(self, axes: Iterable[Axis], index: int = 0) -> None:
        """Set the dims of a result."""
        assert self.node is not None
        value = self.node.results[index]
        axes = tuple(axes)
        assert len(axes) == len(value.type.shape), (self.node, axes)  # type: ignore[union-attr]
        self.values[value] = axes

    def copies(self, size: Dim, state: State = State.VARYING) -> Axis:
        """A dim whose slots go with what they are coupled to; by themselves they are no channels."""
        if not isinstance(size, int) or size < 2:
            return self.opaque(size, f"size {size}")
        return (Factor(size, self.atoms.fresh(size)[:, None], 0, state),)

    # ------------------------------------------------------------------ relating

    def regrouper(self, text: str) -> Regrouper:
        """Splits and couplings at this node."""
        return Regrouper(self.atoms, self.fresh, self.reason(text))

    def equate(self, a: Axis, b: Axis, text: str = "coupled") -> Axis:
        """Couple two dims slot by slot."""
        if a is b:
            return a
        if not a or not b:
            if a or b:
                self.freeze(a or b, "met a dim of size 1")
            return ()
        result = self.regrouper(f"{text}: the two sides don't divide into the same parts").equate(a, b)
        for factor in result:
            if factor.atoms is not None:
                self.couplings.append(Coupling(self.node, text, factor.atoms))
        return result

    def freeze(self, axis: Axis, text: str) -> None:
        """Nothing in this dim may be removed."""
        for factor in axis:
            if factor.atoms is not None:
                self.atoms.freeze(factor.atoms, self.reason(text))

    def freeze_all(self, value: Value, text: str) -> None:
        """Nothing in this value may be removed."""
        for axis in self.axes(value):
            self.freeze(axis, text)

    def contract(self, activation: Axis, weight: Axis, text: str) -> Axis:
        """Sum over a dim of an activation times a stored tensor: the constants of removed slots fold into the bias."""
        varies = varying(activation)
        normed = bool(varies) and all(f.state is State.NORMED for f in varies) and self.is_parameter(weight)
        if not normed:
            self.freeze(varies, f"{text}: its removed slots would not be constant{self.origin()}")
        self.play(weight, Role.NORMALIZED if normed else Role.IN)
        return self.equate(activation, weight, text)

    def origin(self) -> str:
        """Where what the node reads began to vary in slots that go, as text."""
        node = self.node
        for _ in range(STEPS):
            before = next((v for v in self._varying_operands(node) if v.producer is not None), None)
            if before is None:
                break
            node = before.producer
        return "" if node is None or node is self.node else f" after {node.op.name} ({node.location})"

    def _varying_operands(self, node: Node | None) -> Iterator[Value]:
        for value in node.inputs if node is not None else ():
            if any(varying(axis) for axis in self.values.get(value, ())):
                yield value

    def play(self, axis: Axis, role: Role) -> None:
        """Note what the dim of a constant is to its channels."""
        assert self.node is not None
        for factor in axis:
            for source in factor.sources:
                constant = source[0].constant
                assert constant is not None
                self._played.add(source)
                stored = constant.kind is ConstantKind.PARAMETER or role is Role.IN
                self.roles.setdefault(source, {}).setdefault(role if stored else Role.SLICE, self.node)

    def visit(self, node: Node, apply: Callable[[Tracker, Node], None]) -> None:
        """Apply a rule to a node; what it says nothing about is opaque, and constants that it mixes in are summands."""
        self.node = node
        self._played.clear()
        apply(self, node)
        for index, result in enumerate(node.results):
            if result not in self.values:
                self.opaque_result(index, f"result of {node.op.base}")
        if all(self.is_constant(v) for v in node.inputs) and not node.op.has(Trait.RANDOM):
            self.constant_values.update(node.results)
        else:
            self._mix(node)

    def _mix(self, node: Node) -> None:
        """The results are no views of constants any more; the dims that the rule gave no role are summands."""
        for value in self.operands():
            if self.is_constant(value):
                for axis in self.axes(value):
                    sources = tuple([s for f in axis for s in f.sources if s not in self._played])
                    self.play((Factor(1, None, 0, State.ZERO, sources),), Role.SHIFT)
        for result in node.results:
            axes = self.values.get(result, ())
            if any(f.sources for axis in axes for f in axis):
                self.values[result] = tuple([tuple([replace(f, sources=()) for f in axis]) for axis in axes])

    def care(self, kind: str, value: Value, dim: int) -> None:
        """Note that this node counts the slots of a dim."""
        assert self.node is not None
        for factor in self.axes(value)[dim]:
            if factor.atoms is not None:
                self.cares.append(Care(kind, self.node, value, dim, factor.atoms))


def constant_state(tensor: torch.Tensor, dim: int) -> State:
    """What the slots of a stored tensor hold over its other dims."""
    if tensor.ndim <= 1 or tensor.numel() == 0:
        return State.CONSTANT
    flat = tensor.detach().movedim(dim, 0).flatten(1)
    return State.CONSTANT if bool((flat == flat[:, :1]).all()) else State.VARYING


def run(tracker: Tracker, apply: Callable[[Tracker, Node], None]) -> None:
    """Visit all nodes, then freeze what the graph returns."""
    for value in tracker.graph.inputs:
        if isinstance(value.type, TensorType):
            tracker.values[value] = tuple(
                [tracker.opaque(d, f"input {value.name!r}, which the caller gives") for d in value.type.shape]
            )
    for node in tracker.graph:
        tracker.visit(node, apply)
    tracker.node = None
    freeze_returned(tracker)


def freeze_returned(tracker: Tracker) -> None:
    """The caller sees the outputs and the inputs that are written to; a stored tensor shrinks with its new value."""
    graph = tracker.graph
    for index, value in enumerate(graph.outputs):
        if isinstance(value.type, TensorType):
            tracker.freeze_all(value, f"output {index}, which the caller sees")
    for name, value in graph.updates.items():
        constant = graph.constants.get(name)
        if constant is None:
            tracker.freeze_all(value, f"written back to {name!r}, which the caller sees")
        else:
            settle(tracker, constant, value)


def settle(tracker: Tracker, constant: Value, written: Value) -> None:
    """Couple a stored tensor to its next value. Where it was taken to hold zeros, it must stay so: by induction over
    the calls, its removed slots are zero in all of them."""
    text = f"written back to {constant.name!r}"
    for own, new in zip(tracker.axes(constant), tracker.axes(written)):
        if not own and not new:
            continue
        joint = tracker.equate(own, new, text)
        for factor, before, after in zip(joint, factor_states(own, joint), factor_states(new, joint)):
            if before is State.ZERO and after is not State.ZERO:
                tracker.freeze((factor,), f"{text}: its removed slots would not stay zero")
