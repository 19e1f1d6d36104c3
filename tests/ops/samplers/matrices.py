"""Samplers: Matrix products and attention."""

from __future__ import annotations

from graphopt.ir import DType, TensorType
from tests.ops.calls import FEW, Draw, Drawn, sampler


@sampler("mm")
def mm(d: Draw) -> Drawn:
    n, k, m = d.dim(), d.dim(), d.dim()
    dtype = d.dtype()
    return [TensorType(dtype, (n, k)), TensorType(dtype, (k, m))], {}


@sampler("bmm")
def bmm(d: Draw) -> Drawn:
    z, n, k, m = d.dim(), d.dim(), d.dim(), d.dim()
    dtype = d.dtype(FEW)
    return [TensorType(dtype, (z, n, k)), TensorType(dtype, (z, k, m))], {}


@sampler("linalg_solve_triangular")
def solve_triangular(d: Draw) -> Drawn:
    n, m, dtype, left = d.dim(), d.dim(), d.dtype(FEW), d.flag()
    lead = d.shape(0, 2)
    a, b = TensorType(dtype, (*lead, n, n)), TensorType(dtype, (*lead, n, m) if left else (*lead, m, n))
    return [a, b], {"upper": d.flag(), "left": left, "unitriangular": d.flag()}


@sampler("_grouped_mm")
def grouped_mm(d: Draw) -> Drawn:
    groups, n, k, m = d.integer(1, 3), d.dim(), 8 * d.dim(), 8 * d.dim()
    dtype = d.one((DType.F32, DType.BF16))
    a, b = d.one((((n, k), (groups, k, m)), ((groups, n, k), (k, m)), ((n, k), (k, m))))
    return [TensorType(dtype, a), TensorType(dtype, b), TensorType(DType.I32, (groups,)), None], {}


@sampler("dot vdot")
def dot(d: Draw) -> Drawn:
    n, dtype = d.dim(), d.dtype(FEW)
    return [TensorType(dtype, (n,)), TensorType(dtype, (n,))], {}


@sampler("mv")
def mv(d: Draw) -> Drawn:
    n, k, dtype = d.dim(), d.dim(), d.dtype(FEW)
    return [TensorType(dtype, (n, k)), TensorType(dtype, (k,))], {}


@sampler("bilinear")
def bilinear(d: Draw) -> Drawn:
    i, j, o, dtype, lead = d.dim(), d.dim(), d.dim(), d.dtype(FEW), d.shape(0, 2)
    bias = TensorType(dtype, (o,)) if d.flag() else None
    return [TensorType(dtype, (*lead, i)), TensorType(dtype, (*lead, j)), TensorType(dtype, (o, i, j)), bias], {}


@sampler("outer ger")
def outer(d: Draw) -> Drawn:
    dtype = d.dtype(FEW)
    return [TensorType(dtype, (d.dim(),)), TensorType(dtype, (d.dim(),))], {}


@sampler("matmul")
def matmul(d: Draw) -> Drawn:
    k, dtype, lead = d.dim(), d.dtype(FEW), d.shape(0, 2)
    left = d.one(((k,), (d.dim(), k), (*d.broadcastable(lead), d.dim(), k)))
    right = d.one(((k,), (k, d.dim()), (*d.broadcastable(lead), k, d.dim())))
    return [TensorType(dtype, left), TensorType(dtype, right)], {}


@sampler("addmm")
def addmm(d: Draw) -> Drawn:
    (a, b), _ = mm(d)
    assert a is not None and b is not None
    return [TensorType(a.dtype, d.broadcastable((a.shape[0], b.shape[1]))), a, b], {}


@sampler("baddbmm")
def baddbmm(d: Draw) -> Drawn:
    (a, b), _ = bmm(d)
    assert a is not None and b is not None
    return [TensorType(a.dtype, d.broadcastable((*a.shape[:2], b.shape[2]))), a, b], {}


@sampler("addmv")
def addmv(d: Draw) -> Drawn:
    (a, b), _ = mv(d)
    assert a is not None and b is not None
    return [TensorType(a.dtype, d.broadcastable(a.shape[:1])), a, b], {}


@sampler("linear")
def linear(d: Draw) -> Drawn:
    dtype, k, m = d.dtype(FEW), d.dim(), d.dim()
    return [
        TensorType(dtype, (*d.shape(0, 3), k)),
        TensorType(dtype, (m, k)),
        d.optional(TensorType(dtype, (m,))),
    ], {}


@sampler("scaled_dot_product_attention")
def attention(d: Draw) -> Drawn:
    dtype, lead = d.dtype(FEW), d.shape(1, 2)
    length, source, e, v = d.dim(), d.dim(), d.dim(), d.dim()
    mask = d.optional(TensorType(d.one((DType.BOOL, dtype)), d.broadcastable((*lead, length, source))))
    shapes = ((*lead, length, e), (*lead, source, e), (*lead, source, v))
    return [*[TensorType(dtype, s) for s in shapes], mask], {"is_causal": mask is None and d.flag()}


@sampler("einsum")
def einsum(d: Draw) -> Drawn:
    explicit = ("ij,jk->ik", "bij,bjk->bik", "bhid,bhjd->bhij", "i,j->ij", "ij->ji", "ij,ij->", "ii->i")
    equation = d.one((*explicit, "ij,jk", "...i,ij->...j"))
    sizes = {letter: d.dim() for letter in "abhdijk."}
    dtype = d.dtype(FEW)
    terms = equation.partition("->")[0].replace("...", ".").split(",")
    return [TensorType(dtype, tuple(sizes[c] for c in term)) for term in terms], {"equation": equation}
