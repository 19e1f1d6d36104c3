"""Values of ONNX graphs in Python.

Tensors are torch tensors, narrow elements stored as `DType.storage` says; strings are NumPy arrays of objects. A
sequence is a list, an absent optional None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from graphopt.errors import GraphOptError
from graphopt.ir import DType, OptionalType, SequenceType, TensorType, Type, UnrankedType, from_torch
from graphopt.ir.dims import Expr
from graphopt.ir.storage import byte_view
from graphopt.ops.onnx_dtypes import FROM_ONNX_CODE, ONNX_CODES

if TYPE_CHECKING:
    import onnx

_STRING_KINDS = "OUST"
"""Kinds of NumPy dtypes that hold strings."""


def to_numpy(value: Any, type_: Type | None = None) -> Any:
    """Return a value as ONNX's Python libraries take it. `type_` is needed for narrow elements, which look wider."""
    if isinstance(value, list | tuple):
        element = type_.element if isinstance(type_, SequenceType | OptionalType) else None
        return [to_numpy(item, element) for item in value]
    if isinstance(value, torch.Tensor):
        while isinstance(type_, OptionalType):
            type_ = type_.element
        return _array(value, type_.dtype if isinstance(type_, TensorType) else from_torch(value.dtype))
    return value


def _array(tensor: torch.Tensor, dtype: DType) -> np.ndarray:
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if tensor.dtype in _NUMPY_LACKS:
        bits: np.ndarray = byte_view(tensor).numpy()
        array = bits.view(_numpy_dtype(from_torch(tensor.dtype))).reshape(tuple(tensor.shape))
    else:
        array = tensor.numpy()
    return array.astype(_numpy_dtype(dtype)) if _is_narrow(dtype) else array


_NUMPY_LACKS = frozenset(
    dtype.torch
    for dtype in (DType.BF16, DType.F8E4M3FN, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ, DType.F8E8M0)
)


def _is_narrow(dtype: DType) -> bool:
    return dtype is not DType.STRING and dtype.bits < 8


def _numpy_dtype(dtype: DType) -> np.dtype:
    from onnx import helper

    found: np.dtype = helper.tensor_dtype_to_np_dtype(ONNX_CODES[dtype])
    return found


def from_numpy(value: Any) -> Any:
    """Return what a library gave as the IR has it."""
    if isinstance(value, list | tuple):
        return [from_numpy(item) for item in value]
    if value is None:
        return None
    array = np.asarray(value)
    if array.dtype.kind in _STRING_KINDS:
        return array.astype(object)
    dtype = FROM_ONNX_CODE[element_code(array)]
    if _is_narrow(dtype):
        array = array.astype(_numpy_dtype(from_torch(dtype.storage)))
    if dtype.storage not in _NUMPY_LACKS:
        own = np.require(array, dtype=array.dtype.name, requirements=["C", "W"])  # one of NumPy's names for a type
        return torch.from_numpy(own.reshape(array.shape))
    tensor = torch.empty(array.shape, dtype=dtype.storage)
    byte_view(tensor).copy_(torch.from_numpy(np.ascontiguousarray(array).reshape(-1).view(np.uint8)))
    return tensor


def element_code(array: np.ndarray) -> int:
    """The ONNX data type code of an array's elements."""
    from onnx import TensorProto, helper

    if array.dtype.kind in _STRING_KINDS:
        return int(TensorProto.STRING)
    try:
        return int(helper.np_dtype_to_tensor_dtype(array.dtype))
    except (KeyError, ValueError):
        raise GraphOptError(f"ONNX has no element type for arrays of {array.dtype}") from None


# Types


def type_to_proto(type_: Type, dim: Callable[[Expr], str] | None = None) -> onnx.TypeProto:
    """Return the ONNX type of an IR type.

    dim: names a dim that is no number, "" where it stays open; without it, shapes are left out.
    """
    from onnx import TypeProto

    proto = TypeProto()
    if isinstance(type_, TensorType):
        proto.tensor_type.elem_type = ONNX_CODES[type_.dtype]
        if dim is not None:
            proto.tensor_type.shape.SetInParent()
            for size in type_.shape:
                entry = proto.tensor_type.shape.dim.add()
                if isinstance(size, int):
                    entry.dim_value = size
                elif name := dim(size):
                    entry.dim_param = name
    elif isinstance(type_, UnrankedType):
        proto.tensor_type.elem_type = ONNX_CODES[type_.dtype]
    elif isinstance(type_, SequenceType):
        proto.sequence_type.elem_type.CopyFrom(type_to_proto(type_.element, dim))
    elif isinstance(type_, OptionalType):
        proto.optional_type.elem_type.CopyFrom(type_to_proto(type_.element, dim))
    else:
        raise GraphOptError(f"ONNX has no type for {type_!r}")
    return proto


def type_of_array(value: Any) -> onnx.TypeProto:
    """The ONNX type, without shapes, of an array or a list of arrays."""
    from onnx import TypeProto

    proto = TypeProto()
    if isinstance(value, list):
        proto.sequence_type.elem_type.CopyFrom(type_of_array(value[0]))
    else:
        proto.tensor_type.elem_type = element_code(np.asarray(value))
    return proto


def told_by_value(type_: Type) -> bool:
    """True if a value tells its ONNX type. A sequence may be empty, an optional absent; narrow elements look wider."""
    return isinstance(type_, TensorType | UnrankedType) and not _is_narrow(type_.dtype)


def kind_text(type_: Type) -> str:
    """A type without its shape.

    >>> kind_text(SequenceType(TensorType(DType.F32, (2, 3))))
    'seq<f32>'
    """
    if isinstance(type_, TensorType | UnrankedType):
        return type_.dtype.value
    if isinstance(type_, SequenceType):
        return f"seq<{kind_text(type_.element)}>"
    if isinstance(type_, OptionalType):
        return f"optional<{kind_text(type_.element)}>"
    raise GraphOptError(f"ONNX has no type for {type_!r}")


def kind_from_text(text: str) -> Type:
    """A type, its shapes empty, from `kind_text`."""
    outer, _, inner = text.partition("<")
    if not inner:
        return TensorType(DType(text), ())
    element = kind_from_text(inner.removesuffix(">"))
    return SequenceType(element) if outer == "seq" else OptionalType(element)
