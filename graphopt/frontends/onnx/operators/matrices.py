"""Products of matrices and tensors."""

from __future__ import annotations

from graphopt.frontends.onnx.application import Application, tensor_type, translates
from graphopt.ir import Value


@translates("MatMul")
def matmul(a: Application) -> Value:
    """As `numpy.matmul`."""
    return a.emit("aten.matmul", a[0], a[1])


@translates("Gemm")
def gemm(a: Application) -> Value:
    """α·A·B + β·C, with A and B transposed if asked."""
    x = a.emit("aten.t", a[0]) if a.attr("transA", 0) else a[0]
    alpha, beta = a.attr("alpha", 1.0), a.attr("beta", 1.0)
    bias = a.get(2)
    columns = tensor_type(a[1]).shape[0 if a.attr("transB", 0) else 1]
    floating = tensor_type(x).dtype.is_floating
    if alpha == 1 and bias is None and a.attr("transB", 0):
        return a.emit("aten.linear", x, a[1], None)
    if alpha == beta == 1 and floating and bias is not None and tensor_type(bias).shape == (columns,):
        return a.emit("aten.linear", x, a[1] if a.attr("transB", 0) else a.emit("aten.t", a[1]), bias)
    weight = a.emit("aten.t", a[1]) if a.attr("transB", 0) else a[1]
    if bias is not None and floating and (alpha != 1 or beta != 1):
        return a.emit("aten.addmm", bias, x, weight, beta=beta, alpha=alpha)
    product = _scaled(a, a.emit("aten.matmul", x, weight), alpha)
    return product if bias is None else a.emit("aten.add.Tensor", product, _scaled(a, bias, beta))


def _scaled(a: Application, value: Value, factor: float) -> Value:
    if factor == 1:
        return value
    if tensor_type(value).dtype.is_integer:
        return a.cast(a.emit("aten.mul.Scalar", value, factor), tensor_type(value).dtype)
    return a.emit("aten.mul.Scalar", value, factor)


@translates("Einsum")
def einsum(a: Application) -> Value:
    """Sums of products by letters."""
    return a.emit("aten.einsum", a.attr("equation").replace(" ", ""), a.values())


@translates("Det")
def det(a: Application) -> Value:
    """The determinant of each matrix."""
    return a.emit("aten.linalg_det", a[0])
