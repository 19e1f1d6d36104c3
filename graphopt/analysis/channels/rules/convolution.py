"""Convolutions. With G groups the channels are dims (G, C/G) on both sides, and G is coupled across."""

from __future__ import annotations

from graphopt.analysis.channels.axes import Axis, State, axis_size, axis_state, varying, with_state
from graphopt.analysis.channels.rules.table import rule
from graphopt.analysis.channels.tracker import Role, Tracker
from graphopt.ir import Node, Value


@rule("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")
def convolution(t: Tracker, node: Node) -> None:
    """[N, C, …] with [O, C/G, …] ([C, O/G, …] if transposed) and [O] → [N, O, …]."""
    arguments = node.arguments()
    x, weight, groups = arguments["input"], arguments["weight"], arguments["groups"]
    spatial = len(weight.shape) - 2
    lead = len(x.shape) - spatial
    own, kernel = t.axes(x), t.axes(weight)
    for axis in kernel[2:]:
        t.freeze(axis, "spatial size of a kernel")
    for axis in (*own[: lead - 1], *own[lead:]):
        t.freeze(axis, "batch and spatial dims of a convolution")
    channels = own[lead - 1]
    if groups != 1 and channels:
        result = _grouped(t, node, channels, kernel, groups)
    else:
        out, inner = (kernel[1], kernel[0]) if "transpose" in node.op.base else (kernel[0], kernel[1])
        t.contract(channels, inner, node.op.base)
        t.play(out, Role.OUT)
        result = with_state(out, _made(axis_state(out)))
    result = _biased(t, result, arguments["bias"])
    shape = [t.opaque(d, "batch and spatial dims of a convolution") for d in node.result.shape]
    t.set([*shape[: lead - 1], result, *shape[lead:]])


def _made(state: State) -> State:
    """What a filter of zeros makes is zero; any other removed filter makes what varies."""
    return State.ZERO if state is State.ZERO else State.VARYING


def _biased(t: Tracker, axis: Axis, bias: Value | None) -> Axis:
    if bias is None:
        return axis
    own = t.axes(bias)[0]
    t.play(own, Role.SHIFT)
    return t.equate(axis, own, "bias")


def _grouped(t: Tracker, node: Node, channels: Axis, kernel: tuple[Axis, ...], groups: int) -> Axis:
    """Couple the groups of the input, of the weight and of the output."""
    name = f"{node.op.base} with {groups} groups"
    transposed = "transpose" in node.op.base
    group, inner = split_axis(t, channels, groups, name)
    t.freeze(varying(inner), f"{name}: its removed slots would not be constant{t.origin()}")
    rows, columns = split_axis(t, kernel[0], groups, name)
    # Rows of the weight are [G, O/G] of the output; if it is transposed, [G, C/G] of the input.
    weight_inner, out = (columns, kernel[1]) if transposed else (kernel[1], columns)
    t.play(weight_inner, Role.IN)
    t.play(kernel[0], Role.OUT)
    t.play(out, Role.OUT)
    if inner or weight_inner:
        t.equate(inner, weight_inner, name)
    zero = min(axis_state(group), axis_state(rows)) is State.ZERO
    group = with_state(t.equate(group, rows, name), State.ZERO if zero else State.VARYING)
    return (*group, *with_state(out, _made(axis_state(out))))


def split_axis(t: Tracker, axis: Axis, outer: int, text: str) -> tuple[Axis, Axis]:
    """A dim of static size as rows and columns."""
    size = axis_size(axis)
    assert isinstance(size, int)
    rows, columns = t.regrouper(f"{text}: parts that don't fit").reshape(axis, (outer, size // outer))
    return rows, columns
