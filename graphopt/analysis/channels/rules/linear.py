"""Matrix products: a contracted dim is coupled on both sides, the others pass through."""

from __future__ import annotations

from graphopt.analysis.channels.axes import (
    Axis,
    State,
    axis_state,
    factor_states,
    not_zero,
    with_state,
    zero_if_any,
    zero_or_varying,
)
from graphopt.analysis.channels.rules.table import rule
from graphopt.analysis.channels.tracker import Role, Tracker
from graphopt.ir import Node, Value


@rule("linear")
def linear(t: Tracker, node: Node) -> None:
    """[…, I] x [O, I] + [O] → […, O]."""
    arguments = node.arguments()
    x, weight, bias = arguments["input"], arguments["weight"], arguments["bias"]
    w_axes = t.axes(weight)
    if len(w_axes) == 1:
        product(t, node, t.axes(x), w_axes, x, weight, bias)
        return
    product(t, node, t.axes(x), (w_axes[1], w_axes[0]), x, weight, bias)


@rule("matmul mm bmm mv dot vdot")
def matmul(t: Tracker, node: Node) -> None:
    """[…, M, K] x […, K, N] → […, M, N], vectors included."""
    a, b = list(t.operands())[:2]
    product(t, node, t.axes(a), t.axes(b), a, b)


@rule("addmm baddbmm addmv addbmm")
def add_matmul(t: Tracker, node: Node) -> None:
    """beta·C + alpha·(A x B)."""
    c, a, b = list(t.operands())[:3]
    if node.op.base == "aten.addbmm":
        for axis in (t.axes(a)[0], t.axes(b)[0]):
            t.freeze(axis, "batch that addbmm sums")
        product(t, node, t.axes(a)[1:], t.axes(b)[1:], a, b, c)
        return
    product(t, node, t.axes(a), t.axes(b), a, b, c)


@rule("transformers.grouped_mm_fallback")
def experts(t: Tracker, node: Node) -> None:
    """[S, K] x [E, K, N] → [S, N]: each row by the matrix of its expert."""
    x, weight, ends = t.operands()
    t.freeze_all(ends, "numbers of rows of each expert")
    for axis in (t.axes(x)[0], t.axes(weight)[0]):
        t.freeze(axis, "rows and experts that data choose")
    inner, (_, weights_inner, columns) = t.axes(x)[1], t.axes(weight)
    t.freeze(not_zero(inner), f"{node.op.base}: its removed slots would not be zero{t.origin()}")
    t.play(weights_inner, Role.IN)
    t.equate(inner, weights_inner, node.op.base)
    t.set([t.opaque(x.shape[0], "rows that data choose"), _through(t, columns, weight)])


def product(
    t: Tracker,
    node: Node,
    a: tuple[Axis, ...],
    b: tuple[Axis, ...],
    left: Value,
    right: Value,
    added: Value | None = None,
) -> None:
    """Set the result of a product of two values, plus a summand."""
    name = node.op.base
    a_inner, b_inner = a[-1], b[-2] if len(b) > 1 else b[0]
    _contract(t, name, a_inner, b_inner, left, right)
    rows = a[-2:-1] if len(a) > 1 else ()
    columns = b[-1:] if len(b) > 1 else ()
    batch = _batch(t, name, a[:-2], b[:-2], left, right)
    result = [*batch, *[_through(t, axis, left) for axis in rows], *[_through(t, axis, right) for axis in columns]]
    if added is not None:
        result = _add(t, result, added)
    t.set(result)


def _contract(t: Tracker, name: str, a: Axis, b: Axis, left: Value, right: Value) -> None:
    """A dim that is summed over. What multiplies a stored tensor may hold any constant, which folds into a bias.

    A weight times a buffer, as for the norm of spectral normalization, is a number about the weight.
    """
    if t.is_constant(left) and t.is_constant(right) and not (t.is_parameter(a) and t.is_parameter(b)):
        for axis in (a, b):
            t.play(axis, Role.NORMALIZED)
        t.equate(a, b, name)
    elif t.is_constant(right):
        t.play(a, Role.OUT)
        t.contract(a, b, name)
    elif t.is_constant(left):
        t.contract(b, a, name)
    else:
        contract_activations(t, name, a, b)


def contract_activations(t: Tracker, name: str, a: Axis, b: Axis) -> None:
    """A dim of two computed values that is summed over: one of them must hold zeros where slots go."""
    joint = t.equate(a, b, name)
    for factor, x, y in zip(joint, factor_states(a, joint), factor_states(b, joint)):
        if min(x, y) is not State.ZERO:
            t.freeze((factor,), f"{name}: its removed slots would not be zero on either side{t.origin()}")


def _through(t: Tracker, axis: Axis, value: Value) -> Axis:
    """A dim of one operand that the product keeps: zero stays zero, anything else varies along the other operand."""
    t.play(axis, Role.OUT)
    return zero_or_varying(axis)


def _batch(t: Tracker, name: str, a: tuple[Axis, ...], b: tuple[Axis, ...], left: Value, right: Value) -> list[Axis]:
    rank = max(len(a), len(b))
    a, b = ((),) * (rank - len(a)) + a, ((),) * (rank - len(b)) + b
    result: list[Axis] = []
    for x, y in zip(a, b):
        for axis in (x, y):
            t.play(axis, Role.OUT)
        axis = t.equate(x, y, f"batch of {name}") if x and y else x or y
        result.append(zero_if_any(axis, [own for own in (x, y) if own]))
    return result


def _add(t: Tracker, axes: list[Axis], added: Value) -> list[Axis]:
    """Add a bias, broadcast from the right."""
    own = t.axes(added)
    constant = t.is_constant(added)
    offset = len(axes) - len(own)
    result = []
    for dim, axis in enumerate(axes):
        extra = own[dim - offset] if dim >= offset else ()
        if extra:
            state = max(axis_state(axis), axis_state(extra))
            if constant:
                t.play(extra, Role.SHIFT)
            axis = with_state(t.equate(axis, extra, "bias") if axis else extra, state)
        else:
            axis = with_state(axis, State.VARYING)
        result.append(axis)
    return result
