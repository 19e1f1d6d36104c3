"""Matrix products of every rank, linear layers, attention."""

from __future__ import annotations

from graphopt.ir import TensorType, Value
from graphopt.ir.dims import Dim, known_equal
from graphopt.testing.builder import BOOL, F32, FLOATS, GraphBuilder, high, same_shape
from graphopt.testing.domain import Domain, symmetric
from graphopt.testing.samplers.table import register_sampler

MATRIX_BOUND = 8.0


def sums(b: GraphBuilder, x: Value, y: Value, count: Dim, *more: Value) -> Domain:
    """Sums of products, and further terms."""
    bound = b.domain(x).magnitude * b.domain(y).magnitude * high(count) + sum(b.domain(v).magnitude for v in more)
    return symmetric(bound)


def operand(b: GraphBuilder, ranks: tuple[int, int]) -> Value:
    return b.tensor(FLOATS, ranks, bound=MATRIX_BOUND, least=1)


def partner(b: GraphBuilder, x: Value, shape: tuple[Dim, ...]) -> Value:
    """A right-hand side: of the pool, a weight, or a transposed weight."""
    found = b.find((x.dtype,), where=lambda v: same_shape(v.shape, shape), bound=MATRIX_BOUND)
    if found is not None and b.flag():
        return found
    if len(shape) == 2 and b.chance(3):
        weight = b.weight(x.dtype, shape[1], shape[0])
        return b.emit("t", weight, domain=b.domain(weight))
    return b.weight(x.dtype, *shape)


@register_sampler("matmul", weight=5)
def matmul(b: GraphBuilder) -> None:
    """Ranks 1 to 4 on both sides: vectors, matrices, batches that broadcast."""
    x = operand(b, (1, 4))
    k = x.shape[-1]
    way = b.integer(0, 2)
    lead = b.broadcastable(x.shape[:-2]) if way == 2 else ()
    shape: tuple[Dim, ...] = (k,) if way == 1 else (*lead, k, b.dim())
    y = partner(b, x, shape)
    b.emit("matmul", x, y, domain=sums(b, x, y, k))


@register_sampler("mm", weight=2)
def mm(b: GraphBuilder) -> None:
    x = operand(b, (2, 2))
    y = partner(b, x, (x.shape[1], b.dim()))
    b.emit("mm", x, y, domain=sums(b, x, y, x.shape[1]))


@register_sampler("bmm")
def bmm(b: GraphBuilder) -> None:
    x = operand(b, (3, 3))
    y = partner(b, x, (x.shape[0], x.shape[2], b.dim()))
    b.emit("bmm", x, y, domain=sums(b, x, y, x.shape[2]))


@register_sampler("mv dot")
def vectors(b: GraphBuilder) -> None:
    rank = 2 if b.op == "mv" else 1
    x = operand(b, (rank, rank))
    y = partner(b, x, (x.shape[-1],))
    b.emit(b.op, x, y, domain=sums(b, x, y, x.shape[-1]))


@register_sampler("einsum")
def einsum(b: GraphBuilder) -> None:
    """Products that other operators write otherwise: transposed, batched, outer, traced."""
    x = operand(b, (2, 2))
    i, j = x.shape
    equation, shape = b.one(
        (("ij,jk->ik", (j, b.dim())), ("ij,kj->ik", (b.dim(), j)), ("ij,ij->i", (i, j)), ("ij,k->kij", (b.dim(),)))
    )
    y = b.like(TensorType(x.dtype, shape), bound=MATRIX_BOUND)
    b.emit("einsum", equation, [x, y], domain=sums(b, x, y, j))


@register_sampler("addmv")
def addmv(b: GraphBuilder) -> None:
    x = operand(b, (2, 2))
    y = partner(b, x, (x.shape[1],))
    term = b.leaf(TensorType(x.dtype, (x.shape[0],)))
    b.emit("addmv", term, x, y, beta=b.one((1, 2)), domain=sums(b, x, y, x.shape[1], term, term))


@register_sampler("outer")
def outer(b: GraphBuilder) -> None:
    x, y = operand(b, (1, 1)), operand(b, (1, 1))
    if y.dtype is not x.dtype:
        y = x
    b.emit("outer", x, y, domain=sums(b, x, y, 1))


@register_sampler("addmm", weight=2)
def addmm(b: GraphBuilder) -> None:
    x = operand(b, (2, 2))
    y = partner(b, x, (x.shape[1], b.dim()))
    bias = b.leaf(TensorType(x.dtype, b.broadcastable((x.shape[0], y.shape[1]))))
    beta, alpha = b.one((1, 1, 2, 0)), b.one((1, 1, 0.5))
    b.emit("addmm", bias, x, y, beta=beta, alpha=alpha, domain=sums(b, x, y, x.shape[1], bias, bias))


@register_sampler("baddbmm")
def baddbmm(b: GraphBuilder) -> None:
    x = operand(b, (3, 3))
    y = partner(b, x, (x.shape[0], x.shape[2], b.dim()))
    bias = b.leaf(TensorType(x.dtype, b.broadcastable((*x.shape[:2], y.shape[2]))))
    b.emit("baddbmm", bias, x, y, domain=sums(b, x, y, x.shape[2], bias))


@register_sampler("linear", weight=5)
def linear(b: GraphBuilder) -> None:
    """Now and then with another linear layer or a scaling behind it."""
    x = b.tensor(
        FLOATS, (1, 4), lambda v: isinstance(v.shape[-1], int), bound=MATRIX_BOUND, least=1, make=lambda: features(b)
    )
    x = dense(b, x)
    if b.chance(4):
        dense(b, b.within(x, MATRIX_BOUND))


def features(b: GraphBuilder) -> list[Dim]:
    return [*b.shape((0, 3), least=1), b.dim(static=True)]


def dense(b: GraphBuilder, x: Value) -> Value:
    """A linear layer, with or without a bias."""
    out = b.dim(static=True)
    weight = b.weight(x.dtype, out, x.shape[-1])
    bias = None if b.chance(3) else b.weight(x.dtype, out)
    known = sums(b, x, weight, x.shape[-1], *([] if bias is None else [bias]))
    return b.emit("linear", x, weight, bias, domain=known)


@register_sampler("scaled_dot_product_attention", weight=3)
def attention(b: GraphBuilder) -> None:
    """Over one, two or no leading dims; masked, causal, or neither. No row of a mask is empty."""
    lead = b.shape((1, 2), least=1)
    length, source, width, value_width = b.dim(), b.dim(), b.dim(static=True), b.dim(static=True)
    q, k, v = (
        b.like(TensorType(F32, (*lead, *s)), bound=8) for s in ((length, width), (source, width), (source, value_width))
    )
    way = b.integer(0, 3)
    mask = None
    if way == 1:
        mask = b.like(TensorType(F32, (*b.broadcastable(lead), length, source)), bound=8)
    elif way == 2:
        mask = b.emit("ones", (length, source), dtype=BOOL, domain=Domain(1.0, 1.0))
        mask = b.emit("tril", mask, domain=Domain(0.0, 1.0))
    causal = way == 3 and known_equal(length, source)
    scale = b.one((None, 0.5))
    b.emit(b.op, q, k, v, mask, 0.0, causal, scale=scale, domain=b.domain(v).rounded())
