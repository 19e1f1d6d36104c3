"""The interface of an ONNX graph: types of its inputs, names of dims, and the calling convention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch.utils import _pytree as pytree

from graphopt.errors import CaptureError
from graphopt.frontends.onnx.opaque_types import Dims, type_from_proto
from graphopt.frontends.onnx.tensors import dtype_of
from graphopt.ir import TensorType, Type, UnrankedType, symbol
from graphopt.ir.dims import Dim
from graphopt.ir.signature import Signature, Slot

if TYPE_CHECKING:
    import onnx


def input_type(info: onnx.ValueInfoProto, rank: int | None = None) -> Type:
    """The type of an input. Dims without a name get one after the input.

    rank: of a tensor, where the file does not say it.

    Raises:
        CaptureError: a type that is no tensor, sequence or optional.
    """
    what = f"input {info.name!r}"
    if info.type.WhichOneof("value") in ("sequence_type", "optional_type"):
        return type_from_proto(info.type, _ElementDims(info.name), what)
    if info.type.WhichOneof("value") != "tensor_type":
        raise CaptureError(f"{what} is no tensor, but {info.type.WhichOneof('value') or 'of no type'}")
    tensor = info.type.tensor_type
    dtype = dtype_of(tensor.elem_type, what)
    if tensor.HasField("shape"):
        return TensorType(dtype, tuple([_dim(d, f"{info.name}_{i}") for i, d in enumerate(tensor.shape.dim)]))
    if rank is None:
        return UnrankedType(dtype)
    return TensorType(dtype, tuple([symbol(symbol_name(f"{info.name}_{i}")) for i in range(rank)]))


class _ElementDims(Dims):
    """Names the dims of an input's elements."""

    def __init__(self, name: str) -> None:
        super().__init__(frozenset())
        self._name = name

    def dim(self, proto: Any) -> Dim:
        """The dim as the file gives it."""
        self.fresh += 1
        return _dim(proto, f"{self._name}_{self.fresh - 1}")


def _dim(proto: Any, fresh: str) -> Dim:
    """A size: a number, a symbol of the file's name for it, or a fresh one."""
    kind = proto.WhichOneof("value")
    if kind == "dim_value" and proto.dim_value >= 0:
        return int(proto.dim_value)
    name = proto.dim_param if kind == "dim_param" else ""
    # Some exporters call every dim "?", so that says nothing.
    return symbol(symbol_name(name if any(map(str.isalnum, name)) else fresh))


def symbol_name(name: str) -> str:
    """A dim's name as an identifier."""
    text = "".join(c if c.isalnum() or c == "_" else "_" for c in name)
    return text if text[:1].isalpha() or text[:1] == "_" else f"d_{text}"


def signature(inputs: Sequence[str], proto: onnx.GraphProto) -> Signature:
    """Tensors in the file's order, also by name; one output is returned by itself, several as a tuple."""
    names = tuple(inputs)
    args = tuple(range(len(names)))
    outputs: Any = 0 if len(proto.output) == 1 else tuple(range(len(proto.output)))
    return Signature(
        pytree.tree_structure((args, {})),
        pytree.tree_structure(outputs),
        tuple(Slot(i) for i in range(len(names))),
        tuple(Slot(i) for i in range(len(proto.output))),
        names,
        names,
    )
