"""Normalizations: scale and shift are coupled to the channels; statistics over a pruned dim need care."""

from __future__ import annotations

from dataclasses import replace

from graphopt.analysis.channels.axes import Axis, State, axis_state, is_tracked, not_zero, with_state
from graphopt.analysis.channels.rules.table import rule
from graphopt.analysis.channels.tracker import Role, Tracker
from graphopt.ir import Node, Value


@rule("batch_norm instance_norm")
def batch_norm(t: Tracker, node: Node) -> None:
    """[N, C, …] with weight, bias and running statistics [C]."""
    arguments = node.arguments()
    x = arguments["input"]
    axes = list(t.axes(x))
    state = axis_state(axes[1])
    if node.op.base == "aten.batch_norm" and arguments["training"] is not True:
        state = max(state, State.CONSTANT)
    axis = axes[1]
    for name, role in (("weight", Role.SCALE), ("bias", Role.SHIFT)):
        axis = _attach(t, axis, arguments[name], role)
    for name in ("running_mean", "running_var"):
        axis = _attach(t, axis, arguments[name], Role.SLICE)
    axes[1] = with_state(axis, _affine(t, state, arguments["weight"], arguments["bias"]))
    standardizes = t.is_constant(x) and _takes_statistics(node)
    for dim in (0, *range(2, len(axes))):
        if not is_tracked(axes[dim]):
            continue
        if standardizes and dim:
            axes[dim] = _standardized(t, x, dim)
        else:
            t.freeze(axes[dim], f"{node.op.base} takes statistics over it")
    t.set(axes)


def _takes_statistics(node: Node) -> bool:
    """True if mean and variance are those of the operand."""
    arguments = node.arguments()
    return node.op.base == "aten.batch_norm" and (arguments["training"] is True or arguments["running_mean"] is None)


def _standardized(t: Tracker, weight: Value, dim: int) -> Axis:
    """A dim of a stored weight, over which its rows are standardized (weight standardization). Where it is zero, the
    statistics of the full width are known; what comes out there is not zero."""
    axis = t.axes(weight)[dim]
    t.play(axis, Role.NORMALIZED)
    t.care("batch_norm", weight, dim)
    return with_state(axis, State.VARYING)


def _affine(t: Tracker, state: State, weight: Value | None, bias: Value | None, dim: int = 0) -> State:
    """What x · weight + bias holds where x holds `state`."""
    if weight is not None:
        scale = axis_state(t.axes(weight)[dim])
        state = State.ZERO if scale is State.ZERO else max(state, scale)
    return state if bias is None else max(state, axis_state(t.axes(bias)[dim]))


def _attach(t: Tracker, axis: Axis, value: Value | None, role: Role) -> Axis:
    if value is None:
        return axis
    t.play(t.axes(value)[0], role)
    return t.equate(axis, t.axes(value)[0], role.value)


@rule("layer_norm rms_norm")
def layer_norm(t: Tracker, node: Node) -> None:
    """Statistics over the last dims, which are those of weight and bias."""
    arguments = node.arguments()
    x, weight, bias = arguments["input"], arguments["weight"], arguments.get("bias")
    kind = node.op.base.removeprefix("aten.")
    axes = list(t.axes(x))
    first = len(axes) - len(arguments["normalized_shape"])
    for dim in range(len(axes)):
        if dim < first:
            keeps = axis_state(axes[dim]) is State.ZERO and bias is None
            axes[dim] = with_state(axes[dim], State.ZERO if keeps else State.VARYING)
            continue
        t.care(kind, x, dim)
        state = State.NORMED if kind == "layer_norm" or axis_state(axes[dim]) is not State.ZERO else State.ZERO
        t.freeze(not_zero(axes[dim]), f"{kind}: its removed slots would not be zero in the statistics{t.origin()}")
        for value, role in ((weight, Role.SCALE), (bias, Role.SHIFT)):
            if value is not None:
                own = t.axes(value)[dim - first]
                t.play(own, role)
                axes[dim] = t.equate(axes[dim], own, f"{kind} {role.value}")
        axes[dim] = with_state(axes[dim], _affine(t, state, weight, bias, dim - first))
    t.set(axes)


@rule("group_norm")
def group_norm(t: Tracker, node: Node) -> None:
    """[N, C, …] with statistics over C/G and what follows; the channels are dims (G, C/G)."""
    arguments = node.arguments()
    x, groups = arguments["input"], arguments["num_groups"]
    axes = list(t.axes(x))
    size = x.shape[1]
    axis = axes[1]
    if is_tracked(axis) and groups > 1:
        split = t.regrouper("groups of group_norm").reshape(axis, (groups, size // groups))
        axis = (*split[0], *split[1])
    if is_tracked(axis):
        t.care("group_norm", x, 1)
    t.freeze(not_zero(axis), f"group_norm: its removed slots would not be zero in the statistics{t.origin()}")
    for name, role in (("weight", Role.SCALE), ("bias", Role.SHIFT)):
        axis = _attach(t, axis, arguments[name], role)
    axes[1] = with_state(axis, _affine(t, State.NORMED, arguments["weight"], arguments["bias"]))
    for dim in (0, *range(2, len(axes))):
        t.freeze(axes[dim], "group_norm takes statistics over it")
    t.set(axes)


@rule("_weight_norm")
def weight_norm(t: Tracker, node: Node) -> None:
    """g · v / |v|, with a norm for each slot k of one dim of v, over all others; or one norm, if the dim is -1.

    g_k = 0 makes the slot zero, so v_k stays as it is: the norm of a row of zeros would be no number. Zeros along the
    other dims leave the norm to what stays: a sliced v has the norms of the masked one.
    """
    arguments = node.arguments()
    v, g = arguments["v"], arguments["g"]
    if not (t.is_constant(v) and t.is_constant(g)):
        for value in (v, g):
            t.freeze_all(value, "weight norm of what is computed")
        t.opaque_result(0, "weight norm of what is computed")
        return
    scales = t.axes(g)
    axes: list[Axis] = []
    for dim, axis in enumerate(t.axes(v)):
        if dim != arguments["dim"]:
            t.play(axis, Role.NORMALIZED)
            axes.append(axis)
            continue
        t.play(axis, Role.SLICE)
        joint = t.equate(axis, scales[dim], "scale of weight norm")
        sources = tuple(s for factor in scales[dim] for s in factor.sources)
        axes.append(tuple([replace(f, state=axis_state(scales[dim]), sources=sources) for f in joint]))
    t.set(axes)
