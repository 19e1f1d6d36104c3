"""Operators that write to their arguments, made functional.

`y = x.add_(1)` becomes a value `x' = add(x, 1)`, which is written through x's view to the memory that x shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from graphopt.errors import CaptureError, TypeInferenceError
from graphopt.frontends.torch_export.aliases import view_of
from graphopt.frontends.torch_export.arguments import bind_numbers
from graphopt.frontends.torch_export.importer import FALLBACKS, HANDLERS, Importer
from graphopt.frontends.torch_export.overloads import Overload, describe, functional_overload
from graphopt.frontends.torch_export.storage import Storage, TensorRef, View
from graphopt.ir import TensorType, Type, Value, infer_types
from graphopt.ir.bind import bind
from graphopt.ir.dims import shapes_known_equal

IMPLICIT_WRITES = {"_has_compatible_shallow_copy_type"}
"""Operators that stand for a write which their schemas don't declare."""


def write(importer: Importer, ref: TensorRef, value: Value) -> None:
    """Make `value` the contents of a tensor, in the tensor's dtype and shape."""
    ref.view.write(importer.builder.expand(importer.builder.cast(value, ref.type), ref.type))


def import_mutation(importer: Importer, node: fx.Node, overload: Overload) -> Any:
    """Import an operator that writes to some of its arguments, through its functional counterpart."""
    functional = functional_overload(overload.torch_op)
    if functional is None:
        return _functionalized(importer, node, overload)
    named = _named(importer, node, overload)
    rest: Sequence[Value] = ()
    for part in _parts(overload, named):
        rest = _run_and_write(importer, node, overload, functional, part)
    return _returned(overload, named, rest, importer)


def _parts(overload: Overload, named: dict[str, Any]) -> list[dict[str, Any]]:
    """One call, or one for each element of the lists if these share memory: then the elements are written in turn."""
    lists = [named[name] for name in overload.mutated if isinstance(named[name], list)]
    storages = [ref.view.storage for ref in _flat(lists)]
    if len(set(map(id, storages))) == len(storages):
        return [named]
    length = len(lists[0])
    return [
        {name: [v[i]] if isinstance(v, list) and len(v) == length else v for name, v in named.items()}
        for i in range(length)
    ]


def _run_and_write(
    importer: Importer, node: fx.Node, overload: Overload, functional: OpOverload, named: dict[str, Any]
) -> Sequence[Value]:
    """Emit the functional operator, write its results to what the overload mutates, and return the other results."""
    targets = _flat([named[name] for name in overload.mutated])
    given = _renamed(overload, functional, named)
    results = _call(importer, describe(functional), given, [t.type for t in targets], node.name)
    differentiable = any(ref.differentiable for ref in importer.refs(node))
    is_out = any(a.is_out for a in overload.torch_op._schema.arguments)
    for target, value in zip(targets, results):
        if is_out and not shapes_known_equal(target.type.shape, value.type.shape):  # type: ignore[union-attr]
            storage = _resize(target, importer.builder.cast(value, target.type))
            importer.context.place(node.meta.get("val"), storage)
        else:
            write(importer, target, value)
        target.differentiable = target.differentiable or differentiable
    return results[len(targets) :]


def _named(importer: Importer, node: fx.Node, overload: Overload) -> dict[str, Any]:
    """The arguments by name, as what they stand for."""
    named = dict(zip((a.name for a in overload.torch_op._schema.arguments), map(importer.lookup, node.args)))
    named.update((name, importer.lookup(value)) for name, value in node.kwargs.items())
    return named


def _renamed(overload: Overload, functional: OpOverload, named: dict[str, Any]) -> dict[str, Any]:
    """The arguments under the functional overload's names (`self` may be `input` there), outputs left out."""
    own = [a.name for a in overload.torch_op._schema.arguments if not a.is_out]
    names = zip(own, (a.name for a in functional._schema.arguments))
    return {new: named[old] for old, new in names if old in named}


def _call(
    importer: Importer, functional: Overload, named: dict[str, Any], fallback: Sequence[Type], name: str
) -> Sequence[Value]:
    kwargs = {name: importer.argument(value) for name, value in named.items()}
    operands, attributes = bind(functional.op, (), kwargs)
    functional, operands, attributes = bind_numbers(importer.builder, functional, operands, attributes)
    attributes = importer.context.settled(functional, attributes, importer.builder.location)
    types: Sequence[Type]
    try:
        types = infer_types(functional.op, operands, attributes)
    except TypeInferenceError:
        types = fallback
    return importer.builder.append(functional.op, operands, attributes, types, [name])


def _returned(overload: Overload, named: dict[str, Any], rest: Sequence[Value], importer: Importer) -> Any:
    fresh = iter(rest)
    results = [named[alias] if alias is not None else importer.context.root(next(fresh)) for alias in overload.aliases]
    return results[0] if len(results) == 1 else results or None


def _resize(target: TensorRef, cast: Value) -> Storage:
    """`out=` with another shape: PyTorch resizes the tensor, which then no longer shares its old contents."""
    storage = Storage()
    target.view = View(storage, cast.type, cast)  # type: ignore[arg-type]
    return storage


def _flat(items: Sequence[Any]) -> list[TensorRef]:
    return [ref for item in items for ref in (item if isinstance(item, list) else [item]) if ref is not None]


def _functionalized(importer: Importer, node: fx.Node, overload: Overload) -> Any:
    """An operator without a functional counterpart runs on copies, which are its further results."""
    named = _named(importer, node, overload)
    name = f"functionalized.{overload.op.name}"
    kwargs = {key: importer.argument(value) for key, value in named.items()}
    traced = node.meta.get("val")
    traced_results = list(traced) if isinstance(traced, list | tuple) else [] if traced is None else [traced]
    fresh = [
        importer.context.symbols.type_of(value)
        for value, alias in zip(traced_results, overload.aliases)
        if alias is None
    ]
    targets = _flat([named[key] for key in overload.mutated])
    values = importer.builder.call(name, (), kwargs, [*fresh, *(t.type for t in targets)])
    for target, value in zip(targets, values[len(fresh) :]):
        write(importer, target, value)
    return _returned(overload, named, values[: len(fresh)], importer)


def _copy(importer: Importer, node: fx.Node, overload: Overload) -> Any:
    """`copy_(x, y)`: x becomes y, in x's dtype, device and shape."""
    ref, source = importer.lookup(node.args[0]), importer.argument(node.args[1])
    if not isinstance(source, Value):
        source = importer.builder.scalar(source, ref.type.dtype.torch)
    write(importer, ref, source)
    ref.differentiable = any(r.differentiable for r in importer.refs(node))
    return ref


def _fill(importer: Importer, node: fx.Node, overload: Overload) -> Any:
    """`fill_(x, v)` and `zero_(x)`: x becomes a constant tensor."""
    ref = importer.lookup(node.args[0])
    number = importer.argument(node.args[1]) if len(node.args) > 1 else 0
    if isinstance(number, Value):
        write(importer, ref, number)
        return ref
    type_ = ref.type
    dtype = {"dtype": type_.dtype, "device": type_.device}
    ref.view.write(importer.builder.one("aten.full", type_.shape, number, type=type_, **dtype))
    return ref


def _move_view(importer: Importer, node: fx.Node, overload: Overload) -> Any:
    """`t_`, `unsqueeze_`, …: the tensor object becomes another view of the same memory."""
    functional = functional_overload(overload.torch_op)
    assert functional is not None
    found = describe(functional)
    ref = importer.lookup(node.args[0])
    parent = ref.view
    bound = bind(found.op, importer.arguments(node.args), importer.keywords(node))
    types = [importer.context.symbols.type_of(node.meta["val"])]
    (value,) = importer.builder.append(found.op, *bound, types)
    ref.view = view_of(importer, found, value, bound, parent)
    return ref


def _same(importer: Importer, node: fx.Node, overload: Overload) -> Any:
    """`detach_` and `requires_grad_`: nothing but gradients changes."""
    ref = importer.lookup(node.args[0])
    ref.differentiable = False
    return ref


def _set(importer: Importer, node: fx.Node, overload: Overload) -> Any:
    """`x.data = y`: x becomes another way to see y's memory."""
    if overload.torch_op is not torch.ops.aten.set_.source_Tensor:
        raise CaptureError(f"{overload.op.name} rebinds a tensor's memory and cannot be captured; assign instead")
    return _rebind(importer, node, overload)


def _rebind(importer: Importer, node: fx.Node, overload: Overload) -> Any:
    """`x.data = y` leaves only a compatibility check in the trace; x becomes another way to see y's memory."""
    ref, source = importer.lookup(node.args[0]), importer.lookup(node.args[1])
    if ref.view.value.producer is None and ref.view.parent is None:
        raise CaptureError(
            "the model assigns to .data of an input, parameter or buffer; write to it with .copy_() instead"
        )
    ref.view = source.view
    return ref


def _resize_in_place(importer: Importer, node: fx.Node, overload: Overload) -> Any:
    ref = importer.lookup(node.args[0])
    shape = importer.context.symbols.type_of(node.meta["val"])
    if not (isinstance(shape, TensorType) and shapes_known_equal(shape.shape, ref.type.shape)):
        raise CaptureError(f"{overload.op.name} to another shape leaves elements undefined; make a new tensor instead")
    return ref


FALLBACKS.append(import_mutation)
HANDLERS.update({"aten.copy_": _copy, "aten.fill_": _fill, "aten.zero_": _fill})
HANDLERS.update({f"aten.{name}": _same for name in ("detach_", "requires_grad_")})
HANDLERS.update({f"aten.{name}": _resize_in_place for name in ("resize_", "resize_as_")})
HANDLERS.update({"aten.set_": _set, "aten._has_compatible_shallow_copy_type": _rebind})
HANDLERS.update(
    {
        f"aten.{name}": _move_view
        for name in ("t_", "transpose_", "squeeze_", "unsqueeze_", "swapaxes_", "swapdims_", "as_strided_")
    }
)
