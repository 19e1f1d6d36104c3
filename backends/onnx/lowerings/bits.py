"""The same bits read as another type."""

from __future__ import annotations

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, Declined, lowers
from graphopt.ops.onnx_dtypes import ONNX_CODES

SINCE = 26
"""The opset that has `BitCast`."""


@lowers("aten.view.dtype")
def _lower_view_dtype(e: Emitter, a: Call) -> Tensor:
    if a.dtype.bits != a.self.dtype.bits:
        raise Declined("a type of another width")
    if a.dtype is a.self.dtype:
        return e.op("Identity", a.self, shape=a.self.dims)
    if e.opset < SINCE:
        raise Declined(f"bits as another type need opset {SINCE}")
    return e.op("BitCast", a.self, dtype=a.dtype, shape=a.self.dims, to=ONNX_CODES[a.dtype])
