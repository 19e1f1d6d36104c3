"""Joining tensors."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, lowers
from graphopt.backends.onnx.shaping import concat, normal_axis, reshape, unsqueeze


@lowers("aten.cat", "aten.concat", "aten.concatenate")
def _lower_cat(e: Emitter, a: Call) -> Tensor:
    """PyTorch lets vectors of size 0 stand among tensors of any rank; they add nothing."""
    rank = len(a.out.shape)
    parts = [t for t in a.tensors if t.rank == rank and not (t.dims == (0,) and rank == 1 and len(a.tensors) > 1)]
    parts = parts or [a.tensors[0]]
    return concat(e, [e.cast(t, a.out.dtype) for t in parts], normal_axis(a.dim, rank))


@lowers("aten.stack")
def _lower_stack(e: Emitter, a: Call) -> Tensor:
    axis = a.dim % len(a.out.shape)
    return concat(e, [unsqueeze(e, e.cast(t, a.out.dtype), [axis]) for t in a.tensors], axis)


@lowers("aten.hstack", "aten.vstack", "aten.dstack", "aten.column_stack")
def _lower_stacks(e: Emitter, a: Call) -> Tensor:
    """Tensors of too few dims get more, as rows, columns or planes, and are joined along a fixed dim."""
    name = a.node.op.name
    tensors = [e.cast(t, a.out.dtype) for t in a.tensors]
    if name == "aten.column_stack":
        return concat(
            e, [reshape(e, t, (*t.dims, *(1,) * (2 - t.rank))) if t.rank else reshape(e, t, (1, 1)) for t in tensors], 1
        )
    if name == "aten.hstack":
        lifted = [t if t.rank else reshape(e, t, (1,)) for t in tensors]
        return concat(e, lifted, 0 if lifted[0].rank == 1 else 1)
    if name == "aten.vstack":
        return concat(e, [_as_rows(e, t) for t in tensors], 0)
    return concat(e, _as_planes(e, tensors), 2)


def _as_rows(e: Emitter, t: Tensor) -> Tensor:
    return t if t.rank >= 2 else reshape(e, t, (1, t.dims[0] if t.rank else 1))


def _as_planes(e: Emitter, tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t if t.rank >= 3 else reshape(e, _as_rows(e, t), (*_as_rows(e, t).dims, 1)) for t in tensors]
