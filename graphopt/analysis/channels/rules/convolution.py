"""Convolutions. With G groups the channels are dims (G, C/G) on both sides, and G is coupled across."""

from __future__ import annotations

from graphopt.analysis.channels.axes import Axis, Factor, State, axis_state, is_tracked, opaque
from graphopt.analysis.channels.rules.table import rule
from graphopt.analysis.channels.tracker import Role, Tracker
from graphopt.ir import Node


@rule("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")
def convolution(t: Tracker, node: Node) -> None:
    """[N, C, …] with [O, C/G, …] ([C, O/G, …] if transposed) and [O] → [N, O, …]."""
    arguments = node.arguments()
    x, weight, bias, groups = arguments["input"], arguments["weight"], arguments["bias"], arguments["groups"]
    transposed = "transpose" in node.op.base
    spatial = len(weight.shape) - 2
    x_axes, w_axes = t.axes(x), t.axes(weight)
    batched = len(x_axes) == spatial + 2
    channel = 1 if batched else 0
    channels = x_axes[channel]
    for axis in w_axes[2:]:
        t.freeze(axis, "spatial size of a kernel")
    for axis in x_axes[channel + 1 :]:
        t.freeze(axis, "spatial dim of a convolution")
    out, inner = (w_axes[1], w_axes[0]) if transposed else (w_axes[0], w_axes[1])
    if groups == 1:
        t.contract(channels, inner, node.op.base)
        result = t.produce(out)
    else:
        result = _grouped(t, node, channels, out, inner, groups, transposed)
    if bias is not None:
        t.play(t.axes(bias)[0], Role.SHIFT)
        result = t.equate(result, t.axes(bias)[0], "bias")
        result = t.produce(result, Role.OUT)
    axes: list[Axis] = [
        result,
        *[t.opaque(d, "spatial dim of a convolution") for d in node.result.shape[channel + 1 :]],
    ]
    if batched:
        batch = x_axes[0]
        if is_tracked(batch):
            t.freeze(batch, "batch of a convolution")
        axes.insert(0, t.opaque(node.result.shape[0], "batch of a convolution"))
    t.set(axes)


def _grouped(t: Tracker, node: Node, channels: Axis, out: Axis, inner: Axis, groups: int, transposed: bool) -> Axis:
    """Couple the groups of the input, of the weight and of the output."""
    regroup = t.regrouper("groups of a convolution")
    name = f"{node.op.base} with {groups} groups"
    size = int(node.operands[0].shape[-len(node.operands[1].shape) + 1])  # type: ignore[union-attr]
    group_axis, rest = _split(regroup, channels, groups, size // groups)
    if transposed:
        # weight [C, O/G, …]: its first dim is (G, C/G), the output is (G, O/G)
        w_group, w_rest = _split(regroup, inner, groups, size // groups)
        if axis_state(group_axis) is State.VARYING or axis_state(rest) is State.VARYING:
            t.freeze(channels, f"{name}: its removed slots would not be constant")
        t.play(inner, Role.IN)
        t.equate(rest, w_rest, name)
        grouped = t.equate(group_axis, w_group, name)
        return (*_zero(grouped), *t.produce(out))
    produced = t.produce(out)
    o_group, o_rest = _split(regroup, produced, groups, _static(produced) // groups)
    if axis_state(rest) is State.VARYING:
        t.freeze(rest, f"{name}: its removed slots would not be constant")
    t.play(inner, Role.IN)
    t.equate(rest, inner, name)
    grouped = t.equate(group_axis, o_group, name)
    return (*_zero(grouped), *o_rest)


def _zero(axis: Axis) -> Axis:
    from graphopt.analysis.channels.axes import with_state

    return with_state(axis, State.ZERO)


def _static(axis: Axis) -> int:
    from graphopt.analysis.channels.axes import axis_size

    size = axis_size(axis)
    assert isinstance(size, int)
    return size


def _split(regroup, axis: Axis, outer: int, inner: int) -> tuple[Axis, Axis]:  # type: ignore[no-untyped-def]
    if axis == ():
        return (), ()
    first, second = regroup.reshape(axis, (outer, inner))
    return first, second


_ = (Factor, opaque)
