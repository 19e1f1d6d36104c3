"""Elementwise operators: equal indices of all operands live and die together."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.analysis.channels.axes import Axis, State, axis_state, is_tracked, with_state
from graphopt.analysis.channels.rules.table import rule
from graphopt.analysis.channels.tracker import Role, Tracker
from graphopt.ir import Node, TensorType, Value

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
        "_to_copy",
        "to",
        "prelu",
        "deg2rad",
        "rad2deg",
        "nan_to_num",
        "detach",
        "clone",
        "contiguous",
        "alias",
        "detach_",
        "lift_fresh_copy",
        "sinc_",
        "tanhshrink",
        "rrelu",
    ]
)
"""f(0) = 0."""

ZERO_WITH_NUMBER = frozenset(["mul", "div", "true_divide", "remainder", "fmod", "floor_divide"])
"""f(0, number) = 0."""


@rule(" ".join(sorted(KEEP_ZERO)))
def elementwise(t: Tracker, node: Node) -> None:
    """Couple the dims that broadcast together; derive what removed slots hold from the operator."""
    operands = list(t.operands())
    shape = node.results[0].type.shape  # type: ignore[union-attr]
    axes: list[Axis] = []
    for dim in range(len(shape)):
        present = _present(t, operands, len(shape), dim)
        axis: Axis = ()
        if present:
            tracked = any(is_tracked(t.axes(v)[d]) for v, d in present)
            state = _state(t, node, operands, present) if tracked else State.ZERO
            if tracked:
                _note_roles(t, node, operands, present)
            axis = t.axes(present[0][0])[present[0][1]]
            for value, d in present[1:]:
                axis = t.equate(axis, t.axes(value)[d], node.op.base)
            if not all(t.is_constant(v) for v in operands) or state is not State.ZERO:
                axis = with_state(axis, state)
        axes.append(axis)
    t.set(axes)


def _present(t: Tracker, operands: Sequence[Value], rank: int, dim: int) -> list[tuple[Value, int]]:
    """The operands that have slots in a dim of the result (they are not broadcast there), with their own dim."""
    found = []
    for value in operands:
        own = dim - rank + len(value.shape)
        if own >= 0 and t.axes(value)[own]:
            found.append((value, own))
    return found


def _note_roles(t: Tracker, node: Node, operands: Sequence[Value], present: Sequence[tuple[Value, int]]) -> None:
    if all(t.is_constant(v) for v in operands):
        return
    role = Role.SCALE if node.op.base in ("aten.mul", "aten.div") else Role.SHIFT
    for value, dim in present:
        t.play(t.axes(value)[dim], role)


def _state(t: Tracker, node: Node, operands: Sequence[Value], present: Sequence[tuple[Value, int]]) -> State:
    """What a removed slot of a dim holds, where `present` are the operands with slots in that dim."""
    states = [axis_state(t.axes(v)[d]) for v, d in present]
    name = node.op.base.removeprefix("aten.")
    inside = {id(v) for v, _ in present}
    live = any(id(v) not in inside and not _is_number(t, v) for v in operands)
    worst = max(states)
    if name == "mul" and min(states) is State.ZERO:
        return State.ZERO
    if name in ("div", "true_divide") and id(operands[0]) in inside and states[0] is State.ZERO:
        return State.ZERO if len(states) == 1 or min(states[1:]) is not State.ZERO else State.VARYING
    if live:
        if name in ("where", "lerp", "masked_fill") and _selects_zero(node, present, states):
            return State.ZERO
        return State.VARYING
    if worst is State.ZERO and _keeps_zero(node, name, len(operands)):
        return State.ZERO
    return max(worst, State.CONSTANT)


def _is_number(t: Tracker, value: Value) -> bool:
    """True for a stored tensor of one element."""
    assert isinstance(value.type, TensorType)
    return t.is_constant(value) and all(d == 1 for d in value.type.shape)


def _keeps_zero(node: Node, name: str, operands: int) -> bool:
    if name in ("add", "sub") and node.attributes.get("other") is None:
        return True
    if name in ZERO_WITH_NUMBER and operands == 1:
        return node.op.name.endswith(("Scalar", "Scalar_mode"))
    if name == "pow" and operands == 1:
        exponent = node.attributes.get("exponent")
        return isinstance(exponent, int | float) and exponent > 0 and "self" not in node.attributes
    if name in ("clamp", "clip", "hardtanh", "clamp_min", "clamp_max") and operands == 1:
        low = node.attributes.get("min", node.attributes.get("min_val"))
        high = node.attributes.get("max", node.attributes.get("max_val"))
        return (low is None or low <= 0) and (high is None or high >= 0)
    return name in KEEP_ZERO or (name in ("where", "maximum", "minimum", "lerp") and operands > 1)


def _selects_zero(node: Node, present: Sequence[tuple[Value, int]], states: Sequence[State]) -> bool:
    """Selections by a mask that is broadcast: zero if all that is selected from is."""
    branches = [v for v in node.inputs if isinstance(v.type, TensorType)]
    name = node.op.base.removeprefix("aten.")
    if name == "masked_fill":
        return states[0] is State.ZERO and node.attributes.get("value") == 0
    wanted = branches[1:] if name == "where" else branches[:2]
    inside = {id(v) for v, _ in present}
    numbers = [node.attributes.get(key) for key in ("self", "other") if key in node.attributes]
    return max(states) is State.ZERO and all(id(v) in inside for v in wanted) and all(number == 0 for number in numbers)
