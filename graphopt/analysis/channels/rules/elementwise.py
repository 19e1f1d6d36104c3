"""Elementwise operators: equal indices of all operands live and die together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.analysis.channels.axes import Axis, State, axis_state, is_tracked, with_state
from graphopt.analysis.channels.rules.table import rule
from graphopt.analysis.channels.tracker import Role, Tracker
from graphopt.ir import Node, TensorType, Trait, Value

KEEP_ZERO = frozenset(
    [
        "relu",
        "gelu",
        "silu",
        "tanh",
        "neg",
        "positive",
        "abs",
        "absolute",
        "sqrt",
        "square",
        "sin",
        "sinh",
        "tan",
        "asin",
        "asinh",
        "atan",
        "atanh",
        "erf",
        "erfinv",
        "expm1",
        "log1p",
        "hardswish",
        "leaky_relu",
        "elu",
        "selu",
        "celu",
        "mish",
        "softshrink",
        "hardshrink",
        "relu6",
        "sign",
        "sgn",
        "floor",
        "ceil",
        "round",
        "trunc",
        "frac",
        "dropout",
        "alpha_dropout",
        "feature_dropout",
        "feature_alpha_dropout",
        "native_dropout",
        "_to_copy",
        "to",
        "deg2rad",
        "rad2deg",
        "nan_to_num",
        "detach",
        "clone",
        "contiguous",
        "alias",
        "lift_fresh_copy",
        "tanhshrink",
    ]
)
"""f(0) = 0."""

INFINITE_AT_ZERO = frozenset(["reciprocal", "rsqrt", "log", "log2", "log10", "logit", "lgamma", "digamma"])

ZERO_AT_ZERO_AND_NUMBER = frozenset(["mul", "div", "true_divide", "remainder", "fmod", "floor_divide"])
"""f(0, number) = 0."""


@rule(" ".join(sorted(KEEP_ZERO)))
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


def couple(t: Tracker, node: Node, operands: Sequence[Value]) -> None:
    """Set the result to the broadcast of the operands."""
    shape = node.results[0].type.shape  # type: ignore[union-attr]
    axes: list[Axis] = []
    for dim in range(len(shape)):
        meeting = _meet(t, node, operands, len(shape) - dim)
        axis: Axis = ()
        if meeting.present:
            own = [t.axes(v)[len(v.shape) - len(shape) + dim] for v in meeting.present]
            axis = own[0]
            if any(map(is_tracked, own)):
                _note_roles(t, node, operands, own)
                for other in own[1:]:
                    axis = t.equate(axis, other, node.op.base)
                axis = with_state(axis, meeting.state())
        axes.append(axis)
    t.set(axes)


def _note_roles(t: Tracker, node: Node, operands: Sequence[Value], axes: Sequence[Axis]) -> None:
    if all(map(t.is_constant, operands)):
        return
    role = Role.SCALE if node.op.base in ("aten.mul", "aten.div") else Role.SHIFT
    for axis in axes:
        t.play(axis, role)


@dataclass(frozen=True)
class Meeting:
    """The operands of a node at one dim. present: those with slots there. live: something else is broadcast to them.

    numbers: a stored number is. states: what removed slots of the present ones hold.
    """

    node: Node
    arguments: dict[str, Any]
    present: list[Value]
    states: dict[int, State]
    live: bool
    numbers: bool

    def state(self) -> State:
        """What a removed slot of the result holds."""
        name = self.node.op.base.removeprefix("aten.")
        if name in INFINITE_AT_ZERO or self.node.op.has(Trait.RANDOM):
            return State.VARYING
        states = list(self.states.values())
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


def _meet(t: Tracker, node: Node, operands: Sequence[Value], place: int) -> Meeting:
    """The operands at a dim counted from the right."""
    present = [v for v in operands if len(v.shape) >= place and t.axes(v)[len(v.shape) - place]]
    here = {id(v) for v in present}
    absent = [v for v in operands if id(v) not in here]
    numbers = [v for v in absent if _is_number(t, v)]
    states = {id(v): axis_state(t.axes(v)[len(v.shape) - place]) for v in present}
    return Meeting(node, node.arguments(), present, states, len(numbers) < len(absent), bool(numbers))


def _is_number(t: Tracker, value: Value) -> bool:
    """True for a stored tensor of one element."""
    assert isinstance(value.type, TensorType)
    return t.is_constant(value) and all(d == 1 for d in value.type.shape)
