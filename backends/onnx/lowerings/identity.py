"""Operators that change nothing but, at most, the element type."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, lowers
from graphopt.backends.onnx.shaping import expand, full


@lowers(
    "aten.alias",
    "aten.detach",
    "aten.detach_copy",
    "aten.clone",
    "aten.contiguous",
    "aten.lift_fresh",
    "aten.lift",
    "aten.lift_fresh_copy",
    "aten.positive",
    "aten.resolve_conj",
    "aten.resolve_neg",
    "aten.alias_copy",
)
def _lower_identity(e: Emitter, a: Call) -> Tensor:
    return a.self


@lowers("aten.dropout", "aten.feature_dropout", "aten.alpha_dropout", "aten.feature_alpha_dropout")
def _lower_dropout(e: Emitter, a: Call) -> Tensor:
    """An emitted graph evaluates: nothing is dropped."""
    x: Tensor = a.input
    return x


@lowers("aten.native_dropout")
def _lower_native_dropout(e: Emitter, a: Call) -> Sequence[Tensor]:
    return a.input, full(e, a.input.dims, True, a.types[1].dtype)  # type: ignore[union-attr]


@lowers(
    "aten.to.dtype",
    "aten.to.device",
    "aten.to.dtype_layout",
    "aten.to.other",
    "aten._to_copy",
    "aten.type_as",
    "prims.convert_element_type",
)
def _lower_to(e: Emitter, a: Call) -> Tensor:
    x = a.a if a.node.op.name.startswith("prims") else a.self
    return e.cast(x, a.out.dtype)


@lowers("aten.copy")
def _lower_copy(e: Emitter, a: Call) -> Tensor:
    return expand(e, e.cast(a.src, a.out.dtype), a.out.shape)


@lowers("aten.fill.Scalar", "aten.fill.Tensor")
def _lower_fill(e: Emitter, a: Call) -> Tensor:
    if isinstance(a.value, Tensor):
        return expand(e, e.cast(a.value, a.out.dtype), a.out.shape)
    return full(e, a.out.shape, a.value, a.out.dtype)


@lowers("aten.zero")
def _lower_zero(e: Emitter, a: Call) -> Tensor:
    return full(e, a.out.shape, 0, a.out.dtype)


@lowers(
    "aten._assert_async",
    "aten._assert_async.msg",
    "aten._assert_tensor_metadata",
)
def _lower_assertion(e: Emitter, a: Call) -> Sequence[Tensor]:
    """Checked at capture; ONNX has no assertions."""
    return ()
