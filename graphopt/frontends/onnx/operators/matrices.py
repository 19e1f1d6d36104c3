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
    if alpha == 1 and a.attr("transB", 0) and (bias is None or (beta == 1 and tensor_type(bias).rank == 1)):
        rows = tensor_type(a[1]).shape[0]
        if bias is None or tensor_type(bias).shape == (rows,):
            return a.emit("aten.linear", x, a[1], bias)
    weight = a.emit("aten.t", a[1]) if a.attr("transB", 0) else a[1]
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
