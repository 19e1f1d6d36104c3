"""Which memory the result of an operator is: new, or that of one of its operands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from graphopt.errors import CaptureError
from graphopt.frontends.torch_export.overloads import Overload
from graphopt.frontends.torch_export.storage import Storage, TensorRef, View
from graphopt.frontends.torch_export.views import SameStep, ViewStep
from graphopt.ir import Attributes, TensorType, Value
from graphopt.ir.dims import Dim
from graphopt.ops import registry

if TYPE_CHECKING:
    from graphopt.frontends.torch_export.importer import Importer

_SPLITS = {"split", "split_with_sizes", "chunk", "tensor_split", "hsplit", "vsplit", "dsplit"}


def result_view(
    importer: Importer,
    node: fx.Node,
    overload: Overload,
    value: Value,
    traced: torch.Tensor,
    bound: tuple[list[Any], Attributes],
    refs: Sequence[TensorRef],
) -> View:
    """Return the view that a result is: of an operand whose memory it shares, or of new memory.

    What shares memory is read from the traced tensors, so operators that sometimes copy (`reshape`, `contiguous`,
    dropout in eval) are told apart from case to case.
    """
    type_: TensorType = value.type  # type: ignore[assignment]
    context = importer.context
    if not context.tracking:
        return View(Storage(), type_, value)
    seen = context.with_memory(node, traced, value.index)
    parent = next((r.view for r in refs if context.shares(seen, r.view)), None)
    if parent is None:
        return context.root(value, traced).view
    context.place(traced, parent.storage)
    return view_of(importer, overload, value, bound, parent)


def view_of(
    importer: Importer, overload: Overload, value: Value, bound: tuple[list[Any], Attributes], parent: View
) -> View:
    """Return `value`, a result of `overload`, as a view of `parent`, one of its operands."""
    type_: TensorType = value.type  # type: ignore[assignment]
    if type_ == parent.type and overload.base in _SAME:
        return View(parent.storage, type_, value, parent, SameStep())
    return View(parent.storage, type_, value, parent, _step(importer, overload, value, bound, parent))


_SAME = {"feature_dropout", "alpha_dropout", "alias", "pad", "type_as", "expand", "slice"}
"""Operators that, where result and operand share memory and type, are the identity."""


def _step(
    importer: Importer, overload: Overload, value: Value, bound: tuple[list[Any], Attributes], parent: View
) -> ViewStep:
    arguments = overload.op.bind_names(*bound)
    assert value.producer is not None
    types = tuple(r.type for r in value.producer.results)
    simpler = _simpler(overload.base, arguments, parent.type, types, value.index)
    if simpler is not None:
        name, given = simpler
        op, types = registry.get(name), (value.type,)
        return ViewStep(importer.builder, op, "self", given, parent.type, types, importer.builder.location)
    name, position = _parent_position(arguments, parent)
    location = importer.builder.location
    return ViewStep(importer.builder, overload.op, name, arguments, parent.type, types, location, value.index, position)


def _parent_position(arguments: dict[str, Any], parent: View) -> tuple[str, int | None]:
    for name, argument in arguments.items():
        if argument is parent.value:
            return name, None
        if isinstance(argument, tuple):
            for position, item in enumerate(argument):
                if item is parent.value:
                    return name, position
    raise CaptureError("a view whose base is not among its operands")


def _simpler(
    base: str, arguments: dict[str, Any], parent: TensorType, types: Sequence[Any], index: int
) -> tuple[str, dict[str, Any]] | None:
    """One result of a split is a slice, one of an unbind a select: regenerating it need not split again."""
    if base == "unbind":
        return "aten.select.int", {"dim": arguments["dim"], "index": index}
    if base == "broadcast_tensors":
        return "aten.expand", {"size": types[index].shape}
    if base not in _SPLITS:
        return None
    rank = parent.rank
    dim = {"vsplit": 0, "dsplit": 2, "hsplit": 1 if rank > 1 else 0}.get(base, arguments.get("dim", 0)) % rank
    start: Dim = 0
    for type_ in types[:index]:
        start = start + type_.shape[dim]
    return "aten.slice.Tensor", {"dim": dim, "start": start, "end": start + types[index].shape[dim], "step": 1}
