"""View operators: for each, how writing to the view changes the tensor that it views.

With base x, view v = view(x) and a new value v', the inverse gives x' such that view(x') = v' and every element of x
that the view doesn't show keeps its value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from graphopt.errors import CaptureError
from graphopt.frontends.builder import Builder
from graphopt.ir import DType, Location, Op, TensorType, Type, Value
from graphopt.ir.dims import Dim, known_equal

Read = Callable[[], Value]
Arguments = Mapping[str, Any]
Inverse = Callable[["ViewStep", Builder, Read, Value], Value]


@dataclass(frozen=True, slots=True)
class ViewStep:
    """A view made by `op` from the operand called `parent`; `arguments` are all its arguments.

    position: which of the operands, if `parent` is a list. result: which of the results, if there are several.
    """

    builder: Builder
    op: Op
    parent: str
    arguments: Arguments
    base: TensorType
    types: tuple[Type, ...]
    location: Location
    result: int = 0
    position: int | None = None

    def forward(self, parent: Value) -> Value:
        """Apply the operator again."""
        return self.apply(self.builder.at(self.location), parent, self.types)

    def apply(self, builder: Builder, parent: Value, types: tuple[Type, ...]) -> Value:
        """View `parent`, a tensor of the same shape."""
        given: Any = parent
        if self.position is not None:
            operands = self.arguments[self.parent]
            given = (*operands[: self.position], parent, *operands[self.position + 1 :])
        return builder.call(self.op.name, (), {**self.arguments, self.parent: given}, types)[self.result]

    def inverse(self, parent: Read, value: Value) -> Value:
        """Write through the view."""
        rule = INVERSES.get(self.op.name, _scatter_by_index)
        return rule(self, self.builder, parent, value)

    @property
    def type(self) -> TensorType:
        """The view's type."""
        return self.types[self.result]  # type: ignore[return-value]

    def argument(self, name: str) -> Any:
        """One of the operator's other arguments, or its default."""
        if name in self.arguments:
            return self.arguments[name]
        return next(p.default for p in self.op.params if p.name == name)


@dataclass(frozen=True, slots=True)
class SameStep:
    """A tensor object that is its parent (`detach`, dropout in eval)."""

    def forward(self, parent: Value) -> Value:
        """The parent itself."""
        return parent

    def inverse(self, parent: Read, value: Value) -> Value:
        """The parent becomes the value."""
        return value


def _reshape_back(step: ViewStep, builder: Builder, parent: Read, value: Value) -> Value:
    return builder.one("aten.reshape", value, step.base.shape, type=step.base)


def _squeeze_back(step: ViewStep, builder: Builder, parent: Read, value: Value) -> Value:
    dim = step.arguments["dim"]
    if step.type.rank == step.base.rank:
        return value
    return builder.one("aten.unsqueeze", value, dim % step.base.rank, type=step.base)


def _unsqueeze_back(step: ViewStep, builder: Builder, parent: Read, value: Value) -> Value:
    return builder.one("aten.squeeze.dim", value, step.arguments["dim"] % step.type.rank, type=step.base)


def _permute_back(step: ViewStep, builder: Builder, parent: Read, value: Value) -> Value:
    order = [d % step.base.rank for d in step.arguments["dims"]]
    return builder.one("aten.permute", value, tuple(order.index(d) for d in range(len(order))), type=step.base)


def _same_op_back(*names: str) -> Inverse:
    """The operator that undoes itself, given the arguments called `names`."""

    def rule(step: ViewStep, builder: Builder, parent: Read, value: Value) -> Value:
        return builder.one(step.op.name, value, *(step.arguments[n] for n in names), type=step.base)

    return rule


def _move_back(step: ViewStep, builder: Builder, parent: Read, value: Value) -> Value:
    return builder.one(step.op.name, value, step.arguments["destination"], step.arguments["source"], type=step.base)


def _select_scatter(step: ViewStep, builder: Builder, parent: Read, value: Value) -> Value:
    return builder.one(
        "aten.select_scatter", parent(), value, step.argument("dim"), step.argument("index"), type=step.base
    )


def _slice_scatter(step: ViewStep, builder: Builder, parent: Read, value: Value) -> Value:
    if all(known_equal(a, b) for a, b in zip(step.type.shape, step.base.shape)):
        return value
    bounds = (step.argument(name) for name in ("dim", "start", "end", "step"))
    return builder.one("aten.slice_scatter", parent(), value, *bounds, type=step.base)


def _narrow_scatter(step: ViewStep, builder: Builder, parent: Read, value: Value) -> Value:
    dim, start, length = (step.arguments[name] for name in ("dim", "start", "length"))
    if isinstance(start, int) and start < 0:
        start = start + step.base.shape[dim]
    return builder.one("aten.slice_scatter", parent(), value, dim, start, start + length, 1, type=step.base)


def _diagonal_scatter(step: ViewStep, builder: Builder, parent: Read, value: Value) -> Value:
    rest = (step.argument(name) for name in ("offset", "dim1", "dim2"))
    return builder.one("aten.diagonal_scatter", parent(), value, *rest, type=step.base)


def _as_strided_scatter(step: ViewStep, builder: Builder, parent: Read, value: Value) -> Value:
    rest = (step.argument(name) for name in ("size", "stride", "storage_offset"))
    return builder.one("aten.as_strided_scatter", parent(), value, *rest, type=step.base)


def _expand_back(step: ViewStep, builder: Builder, parent: Read, value: Value) -> Value:
    lead = step.type.rank - step.base.rank
    shown: list[Dim] = [*[1] * lead, *step.base.shape]
    if not all(known_equal(a, b) for a, b in zip(step.type.shape, shown)):
        raise CaptureError(
            f"writing to an expanded tensor writes one element several times (from {step.location}); "
            "clone it before the in-place operation"
        )
    return _reshape_back(step, builder, parent, value)


def _bitcast_back(step: ViewStep, builder: Builder, parent: Read, value: Value) -> Value:
    return builder.one("aten.view.dtype", value, step.base.dtype, type=step.base)


def _view_as_real_back(step: ViewStep, builder: Builder, parent: Read, value: Value) -> Value:
    return builder.one("aten.view_as_complex", value, type=step.base)


def _view_as_complex_back(step: ViewStep, builder: Builder, parent: Read, value: Value) -> Value:
    return builder.one("aten.view_as_real", value, type=step.base)


def _real_back(step: ViewStep, builder: Builder, parent: Read, value: Value) -> Value:
    if not step.base.dtype.is_complex:
        return value
    imag = builder.one("aten.imag", parent(), type=step.type)
    return builder.one("aten.complex", value, imag, type=step.base)


def _imag_back(step: ViewStep, builder: Builder, parent: Read, value: Value) -> Value:
    real = builder.one("aten.real", parent(), type=step.type)
    return builder.one("aten.complex", real, value, type=step.base)


def _scatter_by_index(step: ViewStep, builder: Builder, parent: Read, value: Value) -> Value:
    """Any view that only selects elements: view the positions 0 … n-1 the same way, and put the values there."""
    if step.type.dtype is not step.base.dtype or step.position is not None:
        raise CaptureError(f"an in-place write through {step.op.name} is not supported (from {step.location})")
    count, long = step.base.numel, DType.I64
    device = step.base.device
    positions = builder.one("aten.arange", count, dtype=long, device=device, type=TensorType(long, (count,), device))
    positions = builder.one("aten.reshape", positions, step.base.shape, type=step.base.with_dtype(long))
    types = tuple(t.with_dtype(long) if isinstance(t, TensorType) else t for t in step.types)
    seen = step.apply(builder, positions, types)
    shown = step.type.numel
    flat = builder.one("aten.reshape", parent(), (count,), type=step.base.with_shape((count,)))
    index = builder.one("aten.reshape", seen, (shown,), type=TensorType(long, (shown,), device))
    values = builder.one("aten.reshape", value, (shown,), type=step.type.with_shape((shown,)))
    put = builder.one("aten.index_put", flat, (index,), values, False, type=step.base.with_shape((count,)))
    return builder.one("aten.reshape", put, step.base.shape, type=step.base)


INVERSES: dict[str, Inverse] = {
    "aten.reshape": _reshape_back,
    "aten.flatten.using_ints": _reshape_back,
    "aten.unflatten.int": _reshape_back,
    "aten.squeeze": _reshape_back,
    "aten.squeeze.dims": _reshape_back,
    "aten.ravel": _reshape_back,
    "aten.squeeze.dim": _squeeze_back,
    "aten.unsqueeze": _unsqueeze_back,
    "aten.permute": _permute_back,
    "aten.transpose.int": _same_op_back("dim0", "dim1"),
    "aten.swapaxes": _same_op_back("axis0", "axis1"),
    "aten.swapdims": _same_op_back("dim0", "dim1"),
    "aten.t": _same_op_back(),
    "aten.mT": _same_op_back(),
    "aten.mH": _same_op_back(),
    "aten.numpy_T": _same_op_back(),
    "aten.matrix_H": _same_op_back(),
    "aten.adjoint": _same_op_back(),
    "aten.conj": _same_op_back(),
    "aten._conj": _same_op_back(),
    "aten._neg_view": _same_op_back(),
    "aten.movedim.int": _move_back,
    "aten.movedim.intlist": _move_back,
    "aten.moveaxis.int": _move_back,
    "aten.moveaxis.intlist": _move_back,
    "aten.select.int": _select_scatter,
    "aten.slice.Tensor": _slice_scatter,
    "aten.narrow": _narrow_scatter,
    "aten.diagonal": _diagonal_scatter,
    "aten.as_strided": _as_strided_scatter,
    "aten.expand": _expand_back,
    "aten.broadcast_to": _expand_back,
    "aten.view.dtype": _bitcast_back,
    "aten.view_as_real": _view_as_real_back,
    "aten.view_as_complex": _view_as_complex_back,
    "aten.real": _real_back,
    "aten.imag": _imag_back,
}
"""The inverse of each view operator; any other goes by index."""
