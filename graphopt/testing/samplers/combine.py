"""Parts of tensors, and tensors put together."""

from __future__ import annotations

from typing import Any

from graphopt.ir import TensorType, Value
from graphopt.ir.dims import Dim
from graphopt.testing.builder import ANY, MAX_ELEMENTS, NUMBERS, GraphBuilder, elements, low, same_shape
from graphopt.testing.domain import symmetric
from graphopt.testing.samplers.table import register_sampler


def parts(b: GraphBuilder, op: str, x: Value, *args: Any) -> None:
    """Emit an operator that takes `x` apart."""
    b.emit(op, x, *args, domain=b.domain(x))


def static_axis(b: GraphBuilder, x: Value, least: int = 1) -> int | None:
    """A dim of known size, or None."""
    axes = [a for a, d in enumerate(x.shape) if isinstance(d, int) and d >= least]
    return b.one(axes) if axes else None


@register_sampler("slice.Tensor", weight=4)
def slice_(b: GraphBuilder) -> None:
    """Also slices that keep everything, or nothing."""
    x = b.tensor(ANY, (1, 4))
    axis = b.axis(len(x.shape))
    size = x.shape[axis]
    start: Dim | None = b.one((None, 0, 1, -1, -2))
    end: Dim | None = b.one((2**63 - 1, None, 2, -1, 1, size, 100))
    parts(b, "slice.Tensor", x, axis, start, end, b.one((1, 1, 2)))


@register_sampler("select.int", weight=2)
def select(b: GraphBuilder) -> None:
    x = b.tensor(ANY, (1, 4), least=1)
    parts(b, "select.int", x, b.axis(len(x.shape)), b.one((0, -1)))


@register_sampler("narrow")
def narrow(b: GraphBuilder) -> None:
    x = b.tensor(ANY, (1, 4))
    axis = b.axis(len(x.shape))
    start = b.integer(0, min(low(x.shape[axis]), 1))
    parts(b, "narrow", x, axis, start, b.integer(0, low(x.shape[axis]) - start))


@register_sampler("unsafe_split.Tensor tensor_split.sections")
@register_sampler("split.Tensor chunk", weight=2)
def split(b: GraphBuilder) -> None:
    x = b.tensor(ANY, (1, 4))
    axis = static_axis(b, x)
    if axis is not None:
        parts(b, b.op, x, b.integer(1, 3), axis - len(x.shape) if b.flag() else axis)


@register_sampler("split_with_sizes", weight=2)
def split_with_sizes(b: GraphBuilder) -> None:
    x = b.tensor(ANY, (1, 4))
    axis = b.integer(0, len(x.shape) - 1)
    first = b.integer(0, low(x.shape[axis]))
    parts(b, "split_with_sizes", x, (first, x.shape[axis] - first), axis)


@register_sampler("unbind.int")
def unbind(b: GraphBuilder) -> None:
    x = b.tensor(ANY, (1, 4))
    axis = static_axis(b, x)
    if axis is not None:
        parts(b, "unbind.int", x, axis)


@register_sampler("cat", weight=4)
def cat(b: GraphBuilder) -> None:
    """Now and then of one tensor twice, of a single tensor, or of different dtypes."""
    x = b.tensor(ANY, (1, 4))
    axis = b.integer(0, len(x.shape) - 1)
    pieces = [x]
    for _ in range(b.integer(0, 2)):
        pieces.insert(b.integer(0, len(pieces)), x if b.chance(4) else joinable(b, x, axis))
    total = sum(elements(p.shape) for p in pieces)
    if total <= MAX_ELEMENTS:
        known = b.domain(x).union(*(b.domain(p) for p in pieces))
        b.emit("cat", pieces, axis - len(x.shape) if b.flag() else axis, domain=known)


def joinable(b: GraphBuilder, x: Value, axis: int) -> Value:
    """A tensor that differs from `x` in the size along an axis at most."""

    def others(v: Value) -> tuple[Dim, ...]:
        return (*v.shape[:axis], *v.shape[axis + 1 :])

    dtypes = ANY if b.chance(8) else (x.dtype,)
    rank = len(x.shape)
    found = b.find(dtypes, (rank, rank), lambda v: same_shape(others(v), others(x)))
    if found is not None and not b.chance(3):
        return found
    return b.leaf(TensorType(b.dtype(dtypes), (*x.shape[:axis], b.dim(0), *x.shape[axis + 1 :])))


@register_sampler("hstack vstack dstack column_stack")
def stack_of_images(b: GraphBuilder) -> None:
    x = b.tensor(ANY, (1, 3), least=1)
    y = b.like(TensorType(x.dtype, x.shape))
    b.emit(b.op, [x, y], domain=b.domain(x).union(b.domain(y)))


@register_sampler("slice_scatter select_scatter")
def scatter_part(b: GraphBuilder) -> None:
    """Write one part of a tensor anew."""
    x = b.tensor(ANY, (1, 3), least=1)
    axis = b.integer(0, len(x.shape) - 1)
    others = (*x.shape[:axis], *x.shape[axis + 1 :])
    if b.op == "select_scatter":
        part = b.like(TensorType(x.dtype, others))
        b.emit(b.op, x, part, axis, b.one((0, -1)), domain=b.domain(x).union(b.domain(part)))
    else:
        part = b.like(TensorType(x.dtype, (*x.shape[:axis], 1, *x.shape[axis + 1 :])))
        b.emit(b.op, x, part, axis, 0, 1, domain=b.domain(x).union(b.domain(part)))


@register_sampler("diff")
def diff(b: GraphBuilder) -> None:
    x = b.tensor(NUMBERS, (1, 3), least=1)
    bound = 2 * b.domain(x).magnitude
    b.emit("diff", x, 1, b.axis(len(x.shape)), domain=symmetric(bound, exact=x.dtype.is_integer))


@register_sampler("stack", weight=2)
def stack(b: GraphBuilder) -> None:
    x = b.tensor(ANY, (0, 3))
    others = (x if b.chance(4) else b.like(TensorType(x.dtype, x.shape)) for _ in range(b.integer(0, 2)))
    pieces = [x, *others]
    known = b.domain(x).union(*(b.domain(p) for p in pieces))
    b.emit("stack", pieces, b.axis(len(x.shape) + 1), domain=known)


@register_sampler("call-again", weight=4)
def again(b: GraphBuilder) -> None:
    """A call that is there already, perhaps with its operands the other way round."""
    nodes = [n for n in b.graph if len(n.results) == 1 and n.op.is_removable and not n.regions]
    if not nodes:
        return
    node = b.one(nodes[-4:])
    b.repeat(node)
