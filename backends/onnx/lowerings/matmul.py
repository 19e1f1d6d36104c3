"""Matrix products."""

from __future__ import annotations

from typing import Any

import torch

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, lowers
from graphopt.backends.onnx.shaping import normal_axis, reshape, transpose, unsqueeze
from graphopt.ir import Value
from graphopt.ir.dims import product


def _weight_transposed(e: Emitter, weight: Tensor, value: Value | None) -> Tensor:
    """`weight` transposed: ahead of time if it is stored for this use alone, else by an operation that runtimes fold
    (a tied weight is not stored twice)."""
    if weight.data is not None and value is not None and all(user.op.name == "aten.linear" for user in value.users):
        return _stored_transpose(e, weight)
    return transpose(e, weight, [1, 0])


def _stored_transpose(e: Emitter, weight: Tensor) -> Tensor:
    """The transpose of a stored matrix; that of a transpose has its name."""
    derived = e.derived(weight, "transposed", torch.Tensor.t)
    if _is_transposed(weight) and weight.name.endswith("_t"):
        derived.name = weight.name.removesuffix("_t")
    return derived


def _is_transposed(weight: Tensor) -> bool:
    """True if the matrix is a view of its transpose, so that this one is written without a copy."""
    return weight.data is not None and not weight.data.is_contiguous() and weight.data.t().is_contiguous()


@lowers("aten.linear")
def _lower_linear(e: Emitter, a: Call) -> Tensor:
    """`x @ W.T + b`: one Gemm for a matrix; for more dims a MatMul by the transposed weight."""
    x, weight, bias = a.input, a.weight, a.bias
    if weight.rank == 1:
        y = e.op("MatMul", x, weight)
        return y if bias is None else e.op("Add", y, bias)
    if x.rank == 2 and x.dtype.is_floating:
        if _is_transposed(weight):
            return e.op("Gemm", x, _stored_transpose(e, weight), bias)
        return e.op("Gemm", x, weight, bias, transB=1)
    y = e.op("MatMul", x, _weight_transposed(e, weight, a.node.operands[1]), shape=a.out.shape)
    return y if bias is None else e.op("Add", y, bias)


@lowers("aten.matmul", "aten.mm", "aten.bmm", "aten.mv", "aten.dot")
def _lower_matmul(e: Emitter, a: Call) -> Tensor:
    other = a.mat2 if hasattr(a, "mat2") else a.vec if hasattr(a, "vec") else None
    if other is None:
        other = a.tensor if hasattr(a, "tensor") else a.other
    return e.op("MatMul", a.self, other)


@lowers("aten.addmm")
def _lower_addmm(e: Emitter, a: Call) -> Tensor:
    if a.out.dtype.is_floating:
        return e.op("Gemm", a.mat1, a.mat2, a.self, alpha=float(a.alpha), beta=float(a.beta))
    return _scaled_sum(e, e.op("MatMul", a.mat1, a.mat2), a.self, a.alpha, a.beta)


@lowers("aten.baddbmm", "aten.addbmm", "aten.addmv")
def _lower_baddbmm(e: Emitter, a: Call) -> Tensor:
    left, right = (a.mat, a.vec) if a.node.op.name == "aten.addmv" else (a.batch1, a.batch2)
    product = e.op("MatMul", left, right)
    if a.node.op.name == "aten.addbmm":
        product = e.op("ReduceSum", product, [0], keepdims=0)
    return _scaled_sum(e, product, a.self, a.alpha, a.beta)


def _scaled_sum(e: Emitter, product: Tensor, bias: Tensor, alpha: Any, beta: Any) -> Tensor:
    """`beta*bias + alpha*product`; with beta 0 the bias is not read, so that its NaNs don't count."""
    if alpha != 1:
        product = e.op("Mul", product, e.scalar(alpha, product.dtype))
    if beta == 0:
        return product
    if beta != 1:
        bias = e.op("Mul", bias, e.scalar(beta, bias.dtype))
    return e.op("Add", product, bias)


@lowers("aten.outer", "aten.ger")
def _lower_outer(e: Emitter, a: Call) -> Tensor:
    other = a.vec2
    dtype = a.out.dtype
    column = reshape(e, e.cast(a.self, dtype), (*a.self.dims, 1))
    return e.op("Mul", column, e.cast(other, dtype))


@lowers("aten.einsum")
def _lower_einsum(e: Emitter, a: Call) -> Tensor:
    return e.op("Einsum", *a.tensors, equation=a.equation.replace(" ", ""))


@lowers("aten.bilinear")
def _lower_bilinear(e: Emitter, a: Call) -> Tensor:
    y = e.op("Einsum", a.input1, a.weight, a.input2, equation="...i,oij,...j->...o")
    return y if a.bias is None else e.op("Add", y, a.bias)


@lowers("aten.linalg_cross", "aten.cross")
def _lower_cross(e: Emitter, a: Call) -> Tensor:
    """`(a × b)_i = a_{i+1} b_{i+2} - a_{i+2} b_{i+1}`, indices modulo 3."""
    dim = a.dim if a.dim is not None else next(i for i, d in enumerate(a.out.shape) if d == 3)
    ahead, behind = e.ints([1, 2, 0]), e.ints([2, 0, 1])
    turned = [e.op("Gather", t, i, axis=dim) for t in (a.self, a.other) for i in (ahead, behind)]
    return e.op("Sub", e.op("Mul", turned[0], turned[3]), e.op("Mul", turned[1], turned[2]))


@lowers("aten.inner")
def _lower_inner(e: Emitter, a: Call) -> Tensor:
    """Sums over the last dim of both."""
    if not a.self.rank or not a.other.rank:
        return e.op("Mul", a.self, a.other)
    flat = reshape(e, a.other, (product(a.other.dims[:-1]), a.other.dims[-1]))
    y = e.op("MatMul", a.self, transpose(e, flat, [1, 0]))
    y.shape = (*a.self.dims[:-1], flat.dims[0])
    return reshape(e, y, a.out.shape)


@lowers("aten.tensordot")
def _lower_tensordot(e: Emitter, a: Call) -> Tensor:
    """Sums over pairs of dims: moved together, they are one product of matrices."""
    summed = [[normal_axis(d, t.rank) for d in dims] for t, dims in ((a.self, a.dims_self), (a.other, a.dims_other))]
    kept = [[i for i in range(t.rank) if i not in s] for t, s in zip((a.self, a.other), summed)]
    depth = product([a.self.dims[i] for i in summed[0]])
    left = transpose(e, a.self, [*kept[0], *summed[0]])
    right = transpose(e, a.other, [*summed[1], *kept[1]])
    rows, columns = (product([t.dims[i] for i in k]) for t, k in zip((a.self, a.other), kept))
    y = e.op("MatMul", reshape(e, left, (rows, depth)), reshape(e, right, (depth, columns)), shape=(rows, columns))
    return reshape(e, y, a.out.shape)


@lowers("aten.addr")
def _lower_addr(e: Emitter, a: Call) -> Tensor:
    dtype = a.out.dtype
    product_ = e.op("Mul", unsqueeze(e, e.cast(a.vec1, dtype), [1]), e.cast(a.vec2, dtype))
    return _scaled_sum(e, product_, e.cast(a.self, dtype), a.alpha, a.beta)
