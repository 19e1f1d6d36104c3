"""Operators that rearrange dims: product structure is kept, split and merged."""

from __future__ import annotations

import numpy as np

from graphopt.analysis.channels.axes import Axis, is_static, is_tracked
from graphopt.analysis.channels.rules.joining import take
from graphopt.analysis.channels.rules.table import rule
from graphopt.analysis.channels.tracker import Tracker
from graphopt.ir import Node, TensorType


@rule("reshape view _unsafe_view flatten unflatten view_as reshape_as")
def reshape(t: Tracker, node: Node) -> None:
    """The factors of all dims, regrouped."""
    axes = t.axes(node.operands[0])  # type: ignore[arg-type]
    factors = [f for axis in axes for f in axis]
    t.set(t.regrouper(f"{node.op.base} into parts that don't fit").reshape(factors, node.result.shape))


@rule("permute")
def permute(t: Tracker, node: Node) -> None:
    """Dims in another order."""
    axes = t.axes(node.operands[0])  # type: ignore[arg-type]
    t.set([axes[d] for d in node.attr("dims")])


@rule("transpose swapaxes swapdims")
def transpose(t: Tracker, node: Node) -> None:
    """Two dims exchanged."""
    axes = list(t.axes(node.operands[0]))  # type: ignore[arg-type]
    first, second = (node.attr(name) for name in [p.name for p in node.op.attribute_params][:2])
    if axes:
        axes[first], axes[second] = axes[second], axes[first]
    t.set(axes)


@rule("t numpy_T mT")
def reverse(t: Tracker, node: Node) -> None:
    """All dims in reverse."""
    axes = list(t.axes(node.operands[0]))  # type: ignore[arg-type]
    t.set(axes[:-2] + axes[-2:][::-1] if node.op.base == "aten.mT" else axes[::-1])


@rule("squeeze")
def squeeze(t: Tracker, node: Node) -> None:
    """Dims of size 1 dropped."""
    x = node.operands[0]
    assert x is not None
    axes = t.axes(x)
    dropped = node.attributes.get("dim")
    if dropped is None:
        kept = [d for d in range(len(axes)) if x.shape[d] != 1]
    else:
        dims = {d % len(axes) for d in (dropped if isinstance(dropped, tuple) else (dropped,))} if axes else set()
        kept = [d for d in range(len(axes)) if d not in dims or x.shape[d] != 1]
    t.set([axes[d] for d in kept])


@rule("unsqueeze")
def unsqueeze(t: Tracker, node: Node) -> None:
    """A new dim of size 1."""
    axes = list(t.axes(node.operands[0]))  # type: ignore[arg-type]
    axes.insert(node.attr("dim") % (len(axes) + 1), ())
    t.set(axes)


@rule("slice")
def slice_(t: Tracker, node: Node) -> None:
    """A range of one dim."""
    x = node.operands[0]
    assert x is not None
    axes = list(t.axes(x))
    dim = node.attr("dim") % len(axes)
    size = x.shape[dim]
    if node.result.shape[dim] == size:
        t.set(axes)
        return
    bounds = node.attr("start"), node.attr("end"), node.attr("step")
    if isinstance(size, int) and is_static(axes[dim]) and all(b is None or isinstance(b, int) for b in bounds):
        axes[dim] = take(t, axes[dim], np.arange(size)[slice(*bounds)], "slice")
    else:
        t.freeze(axes[dim], "slice with symbolic bounds")
        axes[dim] = t.opaque(node.result.shape[dim], "slice with symbolic bounds")
    t.set(axes)


@rule("split split_with_sizes chunk unbind tensor_split")
def split(t: Tracker, node: Node) -> None:
    """Consecutive ranges of one dim."""
    x = node.operands[0]
    assert x is not None
    dim = node.attr("dim") % len(x.shape)
    unbinds = node.op.base == "aten.unbind"
    start = 0
    for index, result in enumerate(node.results):
        axes = list(t.axes(x))
        size = 1 if unbinds else result.shape[dim]
        part: Axis
        if not is_tracked(axes[dim]):
            part = t.opaque(size, "part of a dim that is not removable")
        elif not isinstance(size, int) or not is_static(axes[dim]):
            t.freeze(axes[dim], "split into symbolic sizes")
            part = t.opaque(size, "split into symbolic sizes")
        else:
            part = take(t, axes[dim], np.arange(start, start + size), node.op.base)
            start += size
        axes[dim : dim + 1] = [] if unbinds else [part]
        t.set(axes, index)


@rule("select")
def select(t: Tracker, node: Node) -> None:
    """One slot of a dim: it must stay."""
    axes = list(t.axes(node.operands[0]))  # type: ignore[arg-type]
    dim = node.attr("dim") % len(axes)
    index = node.attr("index")
    if is_tracked(axes[dim]):
        if isinstance(index, int) and is_static(axes[dim]):
            take(t, axes[dim], np.array([index]), "select")
        else:
            t.freeze(axes[dim], "select at a symbolic index")
    del axes[dim]
    t.set(axes)


@rule("expand broadcast_to expand_as")
def expand(t: Tracker, node: Node) -> None:
    """Copies along new dims and dims of size 1: these stay as they are."""
    x = node.operands[0]
    assert x is not None
    own = t.axes(x)
    shape = node.result.shape
    offset = len(shape) - len(own)
    axes = []
    for dim, size in enumerate(shape):
        axis = own[dim - offset] if dim >= offset else ()
        axes.append(axis if axis else t.opaque(size, "expanded dim"))
    t.set(axes)


_ = TensorType
