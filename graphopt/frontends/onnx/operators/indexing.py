"""Gather, scatter, sort, and counting."""

from __future__ import annotations

from typing import Any

from graphopt.frontends.onnx.application import Application, Declined, tensor_type, translates
from graphopt.ir import DType, Value
from graphopt.ir.dim_ops import product
from graphopt.ir.dims import Dim


def _wrapped(a: Application, indices: Value, size: Dim) -> Value:
    """Indices of which the negative ones count from the end, as non-negative ones."""
    indices = a.cast(indices, DType.I64)
    if indices.constant is not None and not bool((indices.constant.tensor < 0).any()):
        return indices
    shifted = a.emit("aten.add.Scalar", indices, size)
    return a.emit("aten.where.self", a.emit("aten.lt.Scalar", indices, 0), shifted, indices)


@translates("Gather")
def gather(a: Application) -> Value:
    """Slices along an axis; the indices' dims take the place of that dim."""
    x, axis = a[0], a.attr("axis", 0)
    dims, chosen = tensor_type(x).shape, a.type(1).shape
    axis %= len(dims)
    indices = _wrapped(a, a[1], dims[axis])
    if not chosen:
        if indices.constant is not None:
            return a.emit("aten.select.int", x, axis, int(indices.constant.tensor))
        picked = a.emit("aten.index_select", x, axis, a.reshape(indices, (1,)))
        return a.emit("aten.squeeze.dim", picked, axis)
    if axis == 0 and len(dims) == 2 and len(chosen) > 1 and tensor_type(x).dtype.is_floating:
        return a.emit("aten.embedding", x, indices)
    flat = a.reshape(indices, (product(chosen),))
    return a.reshape(a.emit("aten.index_select", x, axis, flat), (*dims[:axis], *chosen, *dims[axis + 1 :]))


@translates("GatherElements")
def gather_elements(a: Application) -> Value:
    """The element at the index along one dim, the others kept."""
    x, axis = a[0], a.attr("axis", 0)
    axis %= tensor_type(x).rank
    return a.emit("aten.gather", x, axis, _wrapped(a, a[1], tensor_type(x).shape[axis]))


@translates("GatherND")
def gather_nd(a: Application) -> Value:
    """Slices at tuples of indices."""
    x, indices, batch = a[0], a[1], a.attr("batch_dims", 0)
    depth = tensor_type(indices).shape[-1]
    if not isinstance(depth, int):
        raise Declined("index tuples of unknown length")
    dims = tensor_type(x).shape
    parts = _columns(a, indices, depth)
    rank = tensor_type(indices).rank - 1
    lead: list[Any] = []
    for i in range(batch):
        steps = a.emit("aten.arange", dims[i], dtype=DType.I64)
        lead.append(a.reshape(steps, [dims[i] if j == i else 1 for j in range(rank)]))
    return a.emit("aten.index.Tensor", x, [*lead, *parts])


def _columns(a: Application, indices: Value, depth: int) -> list[Value]:
    """The indices of each dim; as in PyTorch, negative ones count from the end."""
    return [a.cast(a.emit("aten.select.int", indices, -1, i), DType.I64) for i in range(depth)]


REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@translates("ScatterElements", "Scatter")
def scatter_elements(a: Application) -> Value:
    """Write elements at indices along one dim."""
    x, axis, how = a[0], a.attr("axis", 0), a.attr("reduction", "none")
    axis %= tensor_type(x).rank
    indices = _wrapped(a, a[1], tensor_type(x).shape[axis])
    if how == "none":
        return a.emit("aten.scatter.src", x, axis, indices, a[2])
    return a.emit("aten.scatter_reduce.two", x, axis, indices, a[2], REDUCTIONS[how])


@translates("ScatterND")
def scatter_nd(a: Application) -> Value:
    """Write slices at tuples of indices."""
    x, indices, updates, how = a[0], a[1], a[2], a.attr("reduction", "none")
    depth = tensor_type(indices).shape[-1]
    if not isinstance(depth, int):
        raise Declined("index tuples of unknown length")
    dims = tensor_type(x).shape
    parts = _columns(a, indices, depth)
    if how in ("none", "add"):
        return a.emit("aten.index_put", x, parts, updates, how == "add")
    parts = [_wrapped(a, part, size) for part, size in zip(parts, dims)]
    # Rows are flattened, and the tuples of indices with them.
    rows, width = product(dims[:depth]), product(dims[depth:])
    position = parts[0]
    for i in range(1, depth):
        position = a.emit("aten.add.Tensor", a.emit("aten.mul.Scalar", position, dims[i]), parts[i])
    count = product(tensor_type(indices).shape[:-1])
    flat = a.emit("aten.reshape", x, (rows, width))
    where = a.emit("aten.expand", a.emit("aten.reshape", position, (count, 1)), (count, width))
    source = a.emit("aten.reshape", updates, (count, width))
    return a.emit("aten.reshape", a.emit("aten.scatter_reduce.two", flat, 0, where, source, REDUCTIONS[how]), dims)


@translates("TensorScatter")
def tensor_scatter(a: Application) -> Value:
    """Write a block of a cache from a position on, for each batch entry; circular mode wraps round."""
    cache, update = a[0], a[1]
    dims, new = tensor_type(cache).shape, tensor_type(update).shape
    axis = a.attr("axis", -2) % len(dims)
    steps = a.emit("aten.arange", new[axis], dtype=DType.I64)
    if a.has(2):
        steps = a.emit("aten.add.Tensor", a.emit("aten.unsqueeze", a.cast(a[2], DType.I64), 1), steps)
    else:
        steps = a.emit("aten.unsqueeze", steps, 0)
    if a.attr("mode", "linear") == "circular":
        steps = a.emit("aten.remainder.Scalar", steps, dims[axis])
    shape = [new[0] if i == 0 and a.has(2) else new[axis] if i == axis else 1 for i in range(len(dims))]
    index = a.emit("aten.expand", a.emit("aten.reshape", steps, shape), new)
    return a.emit("aten.scatter.src", cache, axis, index, update)


@translates("TopK")
def top_k(a: Application) -> Any:
    """The k largest or smallest along a dim."""
    k = a.attr("k") if a.attr("k") is not None else a.sizes(1)[0]
    axis, largest = a.attr("axis", -1), bool(a.attr("largest", 1))
    # Of equal elements ONNX takes the one with the lower index, which a stable sort does.
    values, indices = a.emit_all("aten.sort.stable", a[0], stable=True, dim=axis, descending=largest)
    return [a.emit("aten.narrow", v, axis, 0, k) if a.uses(i) else None for i, v in enumerate((values, indices))]
