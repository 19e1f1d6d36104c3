"""Elementwise operators: equal indices of all operands live and die together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphopt.analysis.channels.axes import Axis, State, axis_state, factor_states, is_tracked, with_state
from graphopt.analysis.channels.rules.table import rule
from graphopt.analysis.channels.tracker import Role, Tracker
from graphopt.ir import Node, TensorType, Trait, Value

_NAMES = """
relu gelu silu tanh neg positive abs absolute sqrt square sin sinh tan asin asinh atan atanh erf erfinv expm1
log1p hardswish leaky_relu elu selu celu mish softshrink hardshrink relu6 sign sgn floor ceil round trunc frac
dropout alpha_dropout feature_dropout feature_alpha_dropout native_dropout _to_copy to deg2rad rad2deg
nan_to_num detach clone contiguous alias lift_fresh_copy tanhshrink
"""
KEEP_ZERO = frozenset(_NAMES.split())
"""f(0) = 0."""

INFINITE_AT_ZERO = frozenset(["reciprocal", "rsqrt", "log", "log2", "log10", "logit", "lgamma", "digamma"])

ZERO_AT_ZERO_AND_NUMBER = frozenset(["mul", "div", "true_divide", "remainder", "fmod", "floor_divide"])
"""f(0, number) = 0."""


@rule(_NAMES)
def elementwise(t: Tracker, node: Node) -> None:
    """Couple the dims that broadcast together; derive what removed slots hold from the operator."""
    couple(t, node, list(t.operands()))


@rule("type_as to.other view.dtype")
def as_type(t: Tracker, node: Node) -> None:
    """Another dtype, or the same bits under another dtype."""
    x = next(t.operands())
    if x.shape == node.result.shape:
        t.set(with_state(axis, max(axis_state(axis), State.CONSTANT)) for axis in t.axes(x))
    else:
        t.freeze_all(x, "bits under another dtype")


@rule("prelu")
def prelu(t: Tracker, node: Node) -> None:
    """[N, C, …] with one slope, or one a channel."""
    x, weight = t.operands()
    axes = list(t.axes(x))
    slopes = t.axes(weight)[0] if weight.shape else ()
    if slopes and len(axes) > 1:
        t.play(slopes, Role.SCALE)
        axes[1] = t.equate(axes[1], slopes, "slopes")
    t.set(axes)


@rule("rand_like randn_like bernoulli zeros_like ones_like full_like empty_like")
def like(t: Tracker, node: Node) -> None:
    """Numbers of another tensor's shape."""
    x = next(t.operands())
    if node.op.has(Trait.RANDOM):
        state = State.VARYING
    else:
        state = State.ZERO if node.op.base == "aten.zeros_like" else State.CONSTANT
    t.set(with_state(axis, state) for axis in t.axes(x))


@rule("__and__ __or__ __xor__ __iand__ __ior__ where")
def broadcasting(t: Tracker, node: Node) -> None:
    """Elementwise operators that PyTorch does not tag."""
    couple(t, node, list(t.operands()))


def couple(t: Tracker, node: Node, operands: Sequence[Value]) -> None:
    """Set the result to the broadcast of the operands."""
    shape = node.results[0].type.shape  # type: ignore[union-attr]
    arguments = node.arguments()
    mixes = not all(map(t.is_constant, operands))
    axes: list[Axis] = []
    for dim in range(len(shape)):
        places = [(v, t.axes(v)[len(v.shape) - len(shape) + dim]) for v in operands if len(v.shape) >= len(shape) - dim]
        present = [(v, axis) for v, axis in places if axis]
        axis: Axis = present[0][1] if present else ()
        if any(is_tracked(own) for _, own in present):
            if mixes:
                _note_roles(t, node, present)
            for _, other in present[1:]:
                axis = t.equate(axis, other, node.op.base)
            axis = _with_states(t, node, arguments, operands, present, axis)
        axes.append(axis)
    t.set(axes)


def _with_states(
    t: Tracker,
    node: Node,
    arguments: dict[str, Any],
    operands: Sequence[Value],
    present: Sequence[tuple[Value, Axis]],
    axis: Axis,
) -> Axis:
    here = {id(v) for v, _ in present}
    absent = [v for v in operands if id(v) not in here]
    numbers = sum(_is_number(t, v) for v in absent)
    by_operand = [(id(v), factor_states(own, axis)) for v, own in present]
    result = []
    for place, factor in enumerate(axis):
        states = {key: found[place] for key, found in by_operand}
        meeting = Meeting(node, arguments, states, numbers < len(absent), numbers > 0)
        result.append(factor.with_state(meeting.state()))
    return tuple(result)


def _note_roles(t: Tracker, node: Node, present: Sequence[tuple[Value, Axis]]) -> None:
    role = Role.SCALE if node.op.base in ("aten.mul", "aten.div") else Role.SHIFT
    for _, axis in present:
        t.play(axis, role)


@dataclass(frozen=True)
class Meeting:
    """The operands of a node at one dim, those with slots there by their id.

    states: what removed slots of them hold. live: a tensor is broadcast to them. numbers: a stored number is.
    """

    node: Node
    arguments: dict[str, Any]
    states: dict[int, State]
    live: bool
    numbers: bool

    def state(self) -> State:
        """What a removed slot of the result holds."""
        if State.NORMED not in self.states.values():
            return self._plain()
        weighted: dict[int, State] = {
            key: State.ZERO if state is State.NORMED else state for key, state in self.states.items()
        }
        if self._plain() is State.ZERO:
            return State.ZERO
        return State.NORMED if replace(self, states=weighted)._plain() is State.ZERO else State.VARYING

    def _plain(self) -> State:
        name = self.node.op.base.removeprefix("aten.")
        states = list(self.states.values())
        if name in INFINITE_AT_ZERO and min(states) is State.ZERO:
            return State.VARYING
        if self.node.op.has(Trait.RANDOM) and name not in KEEP_ZERO:
            return State.VARYING
        if name == "mul" and min(states) is State.ZERO:
            return State.ZERO
        if name in ("div", "true_divide"):
            return self._quotient()
        if name in ("where", "lerp", "masked_fill") and self._picks_zero(name):
            return State.ZERO
        if self.live:
            return State.VARYING
        if max(states) is State.ZERO and self._keeps_zero(name):
            return State.ZERO
        return max(*states, State.CONSTANT)

    def _quotient(self) -> State:
        numerator = self._state(self.arguments.get("self"))
        denominator = self._state(self.arguments.get("other"))
        if denominator is State.ZERO:
            return State.VARYING
        if numerator is State.ZERO:
            return State.ZERO
        return State.VARYING if self.live else max(*self.states.values(), State.CONSTANT)

    def _state(self, argument: Any) -> State | None:
        return self.states.get(id(argument)) if isinstance(argument, Value) else None

    def _picks_zero(self, name: str) -> bool:
        """A choice among zeros is zero, whatever makes it."""
        choices = {"where": ("self", "other"), "lerp": ("self", "end"), "masked_fill": ("self", "value")}[name]
        return all(
            self._state(a) is State.ZERO if isinstance(a, Value) else a == 0
            for a in (self.arguments.get(choice) for choice in choices)
        )

    def _keeps_zero(self, name: str) -> bool:
        arguments = self.arguments
        other = arguments.get("other")
        if name in ("add", "sub"):
            return not self.numbers and (isinstance(other, Value) or other == 0)
        if name in ZERO_AT_ZERO_AND_NUMBER:
            return not isinstance(other, Value) and isinstance(arguments.get("self"), Value)
        if name == "pow":
            exponent = arguments.get("exponent")
            return isinstance(arguments.get("self"), Value) and isinstance(exponent, int | float) and exponent > 0
        if name in ("clamp", "clip", "hardtanh", "clamp_min", "clamp_max"):
            low, high = (arguments.get(n, arguments.get(f"{n}_val")) for n in ("min", "max"))
            return _at_most(low, 0) and (high is None or _at_most(0, high))
        if name in ("maximum", "minimum", "where"):
            return not self.numbers
        return name in KEEP_ZERO


def _at_most(low: Any, high: Any) -> bool:
    return low is None or (not isinstance(low, Value) and not isinstance(high, Value) and low <= high)


def _is_number(t: Tracker, value: Value) -> bool:
    """True for a stored tensor of one element."""
    assert isinstance(value.type, TensorType)
    return t.is_constant(value) and all(d == 1 for d in value.type.shape)
