"""Factors through what has no weights: f(t x) = t f(x) for t > 0, and operators that only move elements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.analysis.channels.atoms import Ids
from graphopt.ir import Dim, Node, TensorType, Value
from graphopt.ir.dims import known_equal, product
from graphopt.passes.rules.permutes import PERMUTES, permutation
from graphopt.passes.rules.reshapes import RESHAPES, is_reshape
from graphopt.passes.scaling.tracker import Tracker, barrier, rank_of, rule

_SPATIAL = {"1d": 1, "2d": 2, "3d": 3}


@rule("relu leaky_relu neg abs dropout feature_dropout contiguous clone alias detach positive lift_fresh_copy")
def pointwise(t: Tracker, node: Node) -> None:
    """One operand, elementwise; dropout is a product with a mask."""
    t.set(node.result, t.labels(_first(node)))


@rule("to _to_copy")
def cast(t: Tracker, node: Node) -> None:
    """A cast that loses nothing of a float."""
    source, target = _first(node).type, node.result.type
    if not (isinstance(source, TensorType) and isinstance(target, TensorType)):
        barrier(t, node)
    elif not (source.dtype.is_floating and target.dtype.is_floating) or target.dtype.bits < source.dtype.bits:
        barrier(t, node, "it is rounded to another type")
    else:
        t.set(node.result, t.labels(_first(node)))


@rule("prelu")
def prelu(t: Tracker, node: Node) -> None:
    """Slopes are numbers of their own."""
    x, slope = node.operands
    assert x is not None and slope is not None
    t.freeze(t.labels(slope), "prelu reads it as a slope")
    t.set(node.result, t.labels(x))


@rule("relu6 hardtanh clamp")
def clip(t: Tracker, node: Node) -> None:
    """min(max(x, a), b): homogeneous for a = 0 and no b; else where clips are made to follow (see `clips`)."""
    low, high = clip_bounds(node)
    whole = low in (0.0, None) and high in (0.0, None)
    if node.op.name not in ("aten.relu6", "aten.hardtanh", "aten.clamp") or not (whole or t.clips):
        barrier(t, node, f"{node.op.base} clips at fixed numbers")
        return
    if not whole:
        if (low or 0) > 0 or (high or 0) < 0:
            barrier(t, node, f"{node.op.base} clips what is zero")
            return
        t.clipped.append(node)
    t.set(node.result, t.labels(_first(node)))


def clip_bounds(node: Node) -> tuple[float | None, float | None]:
    """The bounds of a clip by numbers."""
    base = node.op.base.partition(".")[2]
    if base == "relu6":
        return 0.0, 6.0
    low, high = ("min_val", "max_val") if base == "hardtanh" else ("min", "max")
    return node.attributes.get(low), node.attributes.get(high)


@rule("add sub rsub maximum minimum")
def joint(t: Tracker, node: Node) -> None:
    """Homogeneous in all operands together, which then have one factor. A stored summand is scaled."""
    number = node.attributes.get("other", 0)
    if number != 0 or not rank_of(node.result):
        barrier(t, node, f"{node.op.base} with a number")
        return
    moving = [v for v in node.inputs if v.constant is None]
    if not moving:
        barrier(t, node)
        return
    labels = t.labels(moving[0])
    for value in moving[1:]:
        labels = t.equate(labels, t.labels(value))
    for value in node.inputs:
        if value.constant is not None:
            t.shift(value, labels)
    t.set(node.result, labels)


@rule("mul div")
def factor(t: Tracker, node: Node) -> None:
    """x · c: of two computed values, the one that keeps its scale anyway; a stored vector takes factors itself."""
    if node.attributes.get("rounding_mode") is not None:
        barrier(t, node)
        return
    operands = list(node.inputs)
    if len(operands) == 1:
        t.set(node.result, t.labels(operands[0])) if operands[0].constant is None else barrier(t, node)
        return
    x, other = operands
    if x.constant is not None and node.op.base == "aten.mul":
        x, other = other, x
    if x.constant is not None:
        barrier(t, node)
    elif other.constant is not None:
        _diagonal(t, node, x, other) if node.op.base == "aten.mul" else _passed(t, node, x)
    else:
        if node.op.base == "aten.mul" and t.is_still(t.labels(x)):
            x, other = other, x
        t.freeze(t.labels(other), f"{node.op.base} multiplies another activation by it")
        _passed(t, node, x)


def _passed(t: Tracker, node: Node, x: Value) -> None:
    t.set(node.result, t.labels(x))


def _diagonal(t: Tracker, node: Node, x: Value, vector: Value) -> None:
    """y = c ⊙ x: a layer whose weight is a diagonal, if c is one number a channel."""
    dims = [dim for dim, size in enumerate(vector.shape) if size != 1]
    labels = t.labels(x)
    if len(dims) != 1 or labels.ndim < len(vector.shape) or labels.ndim != rank_of(node.result):
        _passed(t, node, x)
        return
    size, axis = int(vector.shape[dims[0]]), dims[0] - len(vector.shape)
    if not known_equal(x.shape[axis], size):
        _passed(t, node, x)
        return
    shape = [size if dim == dims[0] else 1 for dim in range(len(vector.shape))]
    source = np.broadcast_to(t.along(labels, axis), (size,)).reshape(shape)
    target = t.fresh(*shape)
    t.claim(vector, "diagonal", **{"out": (target, 1), "in": (source, -1)})
    t.set(node.result, target)


@rule(
    "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d max_pool2d_with_indices "
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d "
    "upsample_trilinear3d upsample_bicubic2d"
)
def pool(t: Tracker, node: Node) -> None:
    """The factors do not differ along the spatial dims. Indices of maxima stay what they are."""
    labels = t.labels(_first(node))
    spatial = next(count for key, count in _SPATIAL.items() if key in node.op.base)
    for dim in range(labels.ndim - spatial, labels.ndim):
        labels = t.uniform(labels, dim)
    t.set(node.results[0], labels)


@rule("mean sum amax amin")
def reduction(t: Tracker, node: Node) -> None:
    """The factors do not differ along the dims that are reduced."""
    labels = t.labels(_first(node))
    dims = node.attributes.get("dim")
    dims = range(labels.ndim) if dims is None or dims == () else [dims] if isinstance(dims, int) else dims
    reduced = {dim % max(labels.ndim, 1) for dim in dims}
    for dim in reduced:
        labels = t.uniform(labels, dim)
    if rank_of(node.result) != labels.ndim:
        labels = labels.reshape([size for dim, size in enumerate(labels.shape) if dim not in reduced])
    t.set(node.result, labels)


@rule("constant_pad_nd pad")
def pad(t: Tracker, node: Node) -> None:
    """Zeros around, or elements again; the factors do not differ along the dims that are padded."""
    if node.attributes.get("mode", "constant") == "constant" and node.attributes.get("value") not in (None, 0):
        barrier(t, node, "it is padded with numbers other than 0")
        return
    labels = t.labels(_first(node))
    for dim in range(labels.ndim - len(node.attr("pad")) // 2, labels.ndim):
        labels = t.uniform(labels, dim)
    t.set(node.result, labels)


# Moving elements


@rule(" ".join(base.partition(".")[2] for base in sorted(PERMUTES)))
def permute(t: Tracker, node: Node) -> None:
    """The dims of the labels move along."""
    axes = permutation(node)
    if axes is None:
        barrier(t, node)
    else:
        t.set(node.result, t.labels(_first(node)).transpose(axes))


@rule(" ".join(base.partition(".")[2] for base in sorted(RESHAPES)))
def reshape(t: Tracker, node: Node) -> None:
    """Labels are expanded over the dims that are merged or split, and reshaped with them."""
    source = _first(node)
    labels = reshaped(t.labels(source), source.shape, node.result.shape) if is_reshape(node) else None
    if labels is None:
        barrier(t, node, f"{node.op.base} mixes channels with dims of unknown size")
    else:
        t.set(node.result, labels)


def reshaped(labels: Ids, old: Sequence[Dim], new: Sequence[Dim]) -> Ids | None:
    """The labels of a reshaped value, or None if they vary over dims of unknown size that are merged or split.

    >>> reshaped(np.array([[[5]], [[6]]]), [2, 1, 2], [4]).tolist()
    [5, 5, 6, 6]
    """
    wide, target = list(labels.shape), [1] * len(new)
    for before, after in _blocks(list(old), list(new)):
        if all(labels.shape[dim] == 1 for dim in before):
            continue
        if not all(isinstance(size, int) for size in (*[old[dim] for dim in before], *[new[dim] for dim in after])):
            return None
        for dim in before:
            wide[dim] = int(old[dim])  # type: ignore[arg-type]
        for dim in after:
            target[dim] = int(new[dim])  # type: ignore[arg-type]
    return np.broadcast_to(labels, wide).reshape(target)


def _blocks(old: list[Dim], new: list[Dim]) -> list[tuple[list[int], list[int]]]:
    """The dims of both shapes that have the same elements: as few at a time as is known."""
    blocks: list[tuple[list[int], list[int]]] = []
    start = 0
    while start < min(len(old), len(new)) and known_equal(old[start], new[start]):
        blocks.append(([start], [start]))
        start += 1
    i, j = len(old), len(new)
    while i > start and j > start:
        first, second = i - 1, j - 1
        while not known_equal(a := product(old[first:i]), b := product(new[second:j])):
            grown = isinstance(a, int) and isinstance(b, int) and (first if a < b else second) > start
            if not grown:
                first, second = start, start
                break
            first, second = (first - 1, second) if a < b else (first, second - 1)  # type: ignore[operator]
        blocks.append((list(range(first, i)), list(range(second, j))))
        i, j = first, second
    if i > start or j > start:
        blocks.append((list(range(start, i)), list(range(start, j))))
    return blocks


@rule("expand broadcast_to expand_as")
def expand(t: Tracker, node: Node) -> None:
    """New dims hold copies."""
    t.set(node.result, t.labels(_first(node)))


@rule("cat")
def cat(t: Tracker, node: Node) -> None:
    """Parts side by side keep their own factors, if their sizes are known."""
    parts = [v for v in node.inputs if rank_of(v) == rank_of(node.result)]
    dim = node.attr("dim") % rank_of(node.result)
    for value in parts:
        if value.constant is not None:
            barrier(t, node, "cat joins it with stored numbers")
            return
    labels = [t.labels(value) for value in parts]
    if not all(isinstance(value.shape[dim], int) for value in parts):
        whole = t.uniform(labels[0], dim)
        for part in labels[1:]:
            whole = t.uniform(t.equate(whole, part), dim)
        t.set(node.result, whole)
        return
    shape = [max(part.shape[d] for part in labels) for d in range(labels[0].ndim)]
    wide = []
    for value, part in zip(parts, labels):
        shape[dim] = int(value.shape[dim])
        wide.append(np.broadcast_to(part, shape))
    t.set(node.result, np.concatenate(wide, dim))


@rule("split split_with_sizes chunk unbind tensor_split")
def split(t: Tracker, node: Node) -> None:
    """Each part keeps its factors."""
    labels = t.labels(_first(node))
    dim = node.attr("dim") % labels.ndim
    unbinds = node.op.base == "aten.unbind"
    start = 0
    for result in node.results:
        size = 1 if unbinds else result.shape[dim]
        part = labels
        if labels.shape[dim] > 1:
            if not isinstance(size, int):
                part = t.uniform(labels, dim)
            else:
                part = labels.take(range(start, start + size), dim)
                start += size
        t.set(result, part.squeeze(dim) if unbinds else part)


@rule("slice")
def slice_(t: Tracker, node: Node) -> None:
    """A range of one dim."""
    labels = t.labels(_first(node))
    dim = node.attr("dim") % labels.ndim
    bounds = [node.attr(name) for name in ("start", "end", "step")]
    if labels.shape[dim] > 1:
        if all(bound is None or isinstance(bound, int) for bound in bounds):
            labels = labels.take(np.arange(labels.shape[dim])[slice(*bounds)], dim)
        else:
            labels = t.uniform(labels, dim)
    t.set(node.result, labels)


@rule("select")
def select(t: Tracker, node: Node) -> None:
    """One slot of a dim."""
    labels = t.labels(_first(node))
    dim, index = node.attr("dim") % labels.ndim, node.attr("index")
    if labels.shape[dim] > 1 and isinstance(index, int):
        labels = labels.take([index], dim)
    t.set(node.result, t.uniform(labels, dim).squeeze(dim))


def _first(node: Node) -> Value:
    value = node.operands[0]
    assert value is not None
    return value
