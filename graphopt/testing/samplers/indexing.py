"""Look-ups and scatters, with indices that are inputs, constants, or computed."""

from __future__ import annotations

from graphopt.ir import ConstantKind, DType, TensorType, Value
from graphopt.ir.dims import Dim
from graphopt.testing.builder import ANY, FLOATS, I32, I64, INTEGERS, GraphBuilder, elements, high, low
from graphopt.testing.domain import Domain
from graphopt.testing.samplers.table import register_sampler


def indices(
    b: GraphBuilder,
    size: Dim,
    shape: tuple[Dim, ...] | None = None,
    dtypes: tuple[DType, ...] = (I64,),
    *,
    unique: bool = False,
) -> Value:
    """Integers in [0, size): a value known to fit, a constant, or an input brought into range."""
    most = low(size) - 1
    assert most >= 0
    wanted = None if shape is None else (lambda v: v.shape == shape)
    found = None if unique else b.find(dtypes, (0, 3), wanted, exact=True)
    if found is not None and b.domain(found).within(0, most) and b.flag():
        return found
    made = b.shape((0, 2), least=1) if shape is None else shape
    type_ = TensorType(b.one(dtypes), made)
    if all(isinstance(d, int) for d in made) and b.flag():
        return b.stored(type_, Domain(0.0, float(most)), kind=ConstantKind.CONSTANT, uniform=False)
    leaf = b.leaf(type_)
    if b.domain(leaf).within(0, most):
        return leaf
    if b.flag():
        return b.clamp(leaf, 0, most)
    return b.emit("remainder.Scalar", leaf, most + 1, domain=Domain(0.0, float(most)))


@register_sampler("embedding", weight=2)
def embedding(b: GraphBuilder) -> None:
    table = b.weight(b.dtype(FLOATS), b.one((4, 5, 8)), b.dim(static=True))
    b.emit("embedding", table, indices(b, table.shape[0], dtypes=INTEGERS), domain=b.domain(table))


@register_sampler("index_select", weight=2)
def index_select(b: GraphBuilder) -> None:
    x = b.tensor(ANY, (1, 4), least=1)
    axis = b.integer(0, len(x.shape) - 1)
    picked = indices(b, x.shape[axis], (b.dim(),), (I64, I32))
    b.emit("index_select", x, axis, picked, domain=b.domain(x))


@register_sampler("take_along_dim")
@register_sampler("gather", weight=2)
def gather(b: GraphBuilder) -> None:
    x = b.tensor(ANY, (1, 3), least=1)
    axis = b.integer(0, len(x.shape) - 1)
    shape = (*x.shape[:axis], b.dim(), *x.shape[axis + 1 :])
    picked = indices(b, x.shape[axis], shape)
    b.emit(b.op, x, *((picked, axis) if b.op == "take_along_dim" else (axis, picked)), domain=b.domain(x))


@register_sampler("_unsafe_index.Tensor")
@register_sampler("index.Tensor", weight=2)
def index(b: GraphBuilder) -> None:
    """Indexed dims side by side, apart, or behind dims that are kept."""
    x = b.tensor(ANY, (1, 4), least=1)
    shape = b.shape((0, 1), least=1)
    picked: list[Value | None] = []
    for axis in range(b.integer(1, len(x.shape))):
        keep = b.chance(3) and axis > 0
        picked.append(None if keep else indices(b, x.shape[axis], shape))
    b.emit(b.op, x, picked, domain=b.domain(x))


@register_sampler("index_put")
def index_put(b: GraphBuilder) -> None:
    """Of one value, so that the order of writing does not matter."""
    x = b.tensor(FLOATS, (1, 3), least=1)
    value = b.like(TensorType(x.dtype, ()))
    picked = indices(b, x.shape[0], b.shape((0, 1), least=1))
    b.emit("index_put", x, [picked], value, False, domain=b.domain(x).union(b.domain(value)))


@register_sampler("scatter.value scatter_add")
def scatter(b: GraphBuilder) -> None:
    x = b.tensor(FLOATS, (1, 3), least=1)
    axis = b.integer(0, len(x.shape) - 1)
    picked = indices(b, x.shape[axis], x.shape)
    if b.op == "scatter.value":
        b.emit(b.op, x, axis, picked, 1, domain=b.domain(x).union(Domain(1.0, 1.0)))
        return
    source = b.like(TensorType(x.dtype, x.shape), bound=16)
    known = b.domain(x).combine(b.domain(source).scaled(elements(x.shape)), lambda p, q: p + q, exact=False)
    b.emit(b.op, x, axis, picked, source, domain=known)


@register_sampler("index_add index_fill.int_Scalar")
def change_rows(b: GraphBuilder) -> None:
    """Rows added to, perhaps several times, or set to a number."""
    x = b.tensor(FLOATS, (1, 3), least=1)
    axis = b.integer(0, len(x.shape) - 1)
    count = b.dim(static=True)
    picked = indices(b, x.shape[axis], (count,))
    if b.op == "index_fill.int_Scalar":
        b.emit(b.op, x, axis, picked, 1.0, domain=b.domain(x).union(Domain(1.0, 1.0)))
        return
    rows = b.like(TensorType(x.dtype, (*x.shape[:axis], count, *x.shape[axis + 1 :])), bound=8)
    bound = b.domain(x).magnitude + b.domain(rows).magnitude * high(count)
    b.emit(b.op, x, axis, picked, rows, domain=Domain(-bound, bound, False))


@register_sampler("nonzero masked_select")
def where_true(b: GraphBuilder) -> None:
    """How many rows come out depends on the numbers, so they are summed at once."""
    x = b.tensor(FLOATS, (1, 3), exact=True)
    if b.op == "nonzero":
        rows = b.emit("nonzero", x, domain=Domain(0.0, 16.0))
        count = elements(x.shape)
    else:
        mask = b.emit("gt.Scalar", x, 0, domain=Domain(0.0, 1.0))
        rows = b.emit("masked_select", x, mask, domain=b.domain(x))
        count = elements(x.shape)
    b.drop(rows)
    known = Domain(min(0.0, b.domain(rows).low * count), b.domain(rows).high * count, b.op == "nonzero")
    b.emit("sum.dim_IntList", rows, (0,), domain=known)


@register_sampler("one_hot")
def one_hot(b: GraphBuilder) -> None:
    x = indices(b, 4, dtypes=(I64,))
    b.emit("one_hot", x, b.one((4, 5)), domain=Domain(0.0, 1.0))
