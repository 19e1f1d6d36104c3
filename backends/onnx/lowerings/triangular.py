"""Triangular systems: a Loop that solves for one row after the other."""

from __future__ import annotations

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, lowers
from graphopt.backends.onnx.shaping import counting, full, swap, unsqueeze
from graphopt.ir import DType
from graphopt.ir.dims import Dim


@lowers("aten.linalg_solve_triangular")
def _lower_solve_triangular(e: Emitter, a: Call) -> Tensor:
    """`A·X = B`, or `X·A = B` by way of `Aᵀ·Xᵀ = Bᵀ`."""
    wide = DType.F64 if a.out.dtype is DType.F64 else DType.F32
    given = e.cast(a.self, wide)
    matrix = e.op("Trilu", given, upper=int(a.upper), shape=given.shape)  # the other half may hold anything
    right = e.cast(a.B, wide)
    shape, upper = a.out.shape, a.upper
    if not a.left:
        matrix, right = swap(e, matrix, -2, -1), swap(e, right, -2, -1)
        shape, upper = (*shape[:-2], shape[-1], shape[-2]), not upper
    solution = _substituted(e, matrix, right, shape, upper, a.unitriangular)
    return e.cast(solution if a.left else swap(e, solution, -2, -1), a.out.dtype)


def _substituted(e: Emitter, matrix: Tensor, right: Tensor, shape: tuple[Dim, ...], upper: bool, unit: bool) -> Tensor:
    """Rows of the solution, which starts as zeros: `xᵢ = (bᵢ − aᵢ·X) / aᵢᵢ`. Rows not solved yet are zero in X."""
    from graphopt.backends.onnx.model import body_outputs

    rows = e.scalar(shape[-2], DType.I64)
    numbers = counting(e, shape[-2])
    start = full(e, shape, 0, matrix.dtype)
    with e.inside("row") as body:
        iteration, keep = Tensor(DType.I64, (), "iteration"), Tensor(DType.BOOL, (), "keep_going")
        solved = Tensor(matrix.dtype, shape, "solved")
        body.inputs = [iteration, keep, solved]
        index = e.op("Sub", e.op("Sub", rows, iteration), 1) if upper else iteration
        index = unsqueeze(e, index, [0])
        row = e.op("Gather", matrix, index, axis=-2)
        rest = e.op("Sub", e.op("Gather", right, index, axis=-2), e.op("MatMul", row, solved))
        if not unit:
            rest = e.op("Div", rest, e.op("Gather", row, index, axis=-1))
        here = unsqueeze(e, e.op("Equal", numbers, index, dtype=DType.BOOL), [1])
        body.outputs = body_outputs(e, [keep, e.op("Where", here, rest, solved, shape=shape)])
    return e.ops("Loop", rows, None, start, dtypes=(matrix.dtype,), shapes=(shape,), body=body)[0]
