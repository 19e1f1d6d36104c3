"""The table of kernel types against what ONNX Runtime itself registers."""

from __future__ import annotations

import onnxruntime.capi.onnxruntime_pybind11_state as ort
import pytest

from graphopt.backends.onnx.kernels import _NO_F64, INTEGER_KERNELS, compute_dtype
from graphopt.backends.onnx.model import DEFAULT_OPSET
from graphopt.ir import DType

_NAMES = {
    "bool": DType.BOOL, "int8": DType.I8, "int16": DType.I16, "int32": DType.I32, "int64": DType.I64,
    "uint8": DType.U8, "uint16": DType.U16, "uint32": DType.U32, "uint64": DType.U64, "double": DType.F64,
}  # fmt: skip


def registered(op_type: str) -> set[DType]:
    """The types of the first type variable over all kernels of the operator."""
    found: set[DType] = set()
    for kernel in ort.get_all_opkernel_def():
        low, high = kernel.version_range
        if kernel.op_name != op_type or kernel.domain or kernel.provider != "CPUExecutionProvider":
            continue
        if low <= DEFAULT_OPSET <= high:
            constraints = kernel.type_constraints
            name = next(iter(n for n in ("T", "T1", "V") if n in constraints), None)
            for text in constraints[name] if name else ():
                dtype = _NAMES.get(text.removeprefix("tensor(").removesuffix(")"))
                if dtype is not None:
                    found.add(dtype)
    return found


@pytest.mark.parametrize("op_type", sorted(INTEGER_KERNELS))
def test_listed_types_have_kernels(op_type: str) -> None:
    assert INTEGER_KERNELS[op_type] <= registered(op_type)


@pytest.mark.parametrize("op_type", sorted(_NO_F64))
def test_operators_without_f64_have_none(op_type: str) -> None:
    assert DType.F64 not in registered(op_type)


def test_widening_loses_nothing() -> None:
    for op_type in INTEGER_KERNELS:
        for dtype in (DType.BOOL, DType.I8, DType.U8, DType.I16, DType.U16, DType.I32, DType.U32):
            wide = compute_dtype(op_type, dtype)
            assert wide is dtype or wide.bits > dtype.bits or dtype is DType.BOOL
