"""Operators that enter the IR in one normal form, or not at all."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from graphopt.frontends.torch_export.aliases import view_of
from graphopt.frontends.torch_export.importer import HANDLERS, Importer
from graphopt.frontends.torch_export.overloads import Overload, describe
from graphopt.frontends.torch_export.storage import TensorRef, View
from graphopt.frontends.torch_export.views import INVERSES, SameStep
from graphopt.ir import DType, TensorType, Value, from_torch
from graphopt.ops import attribute_from_torch

_aten = torch.ops.aten

DROPPED = [
    "_assert_tensor_metadata",
    "_assert_scalar",
    "_assert_async",
    "_functional_assert_scalar",
    "_functional_assert_async",
    "sym_constrain_range",
    "sym_constrain_range_for_size",
    "_functional_sym_constrain_range",
    "_functional_sym_constrain_range_for_size",
    "_make_dep_token",
]
"""Assertions: what they say of sizes is in the symbols' ranges."""


def _nothing(importer: Importer, node: fx.Node, overload: Overload) -> Any:
    return None


def _detach(importer: Importer, node: fx.Node, overload: Overload) -> Any:
    """`detach` is the identity, unless it stops the gradient of a parameter: then it stays, for training."""
    ref = importer.lookup(node.args[0])
    if not ref.differentiable:
        return TensorRef(ref.view)
    return stop_gradient(importer, ref)


def stop_gradient(importer: Importer, ref: TensorRef) -> TensorRef:
    """Return a tensor that shares memory with `ref`, without its gradient."""
    overload = describe(_aten.detach.default)
    value = importer.builder.one("aten.detach", ref.read(), type=ref.type)
    bound = ([ref.view.value], value.producer.attributes)  # type: ignore[union-attr]
    return TensorRef(view_of(importer, overload, value, bound, ref.view))


def _alias(importer: Importer, node: fx.Node, overload: Overload) -> Any:
    ref = importer.lookup(node.args[0])
    return TensorRef(ref.view, ref.differentiable)


def _lift_fresh_copy(importer: Importer, node: fx.Node, overload: Overload) -> Any:
    """A constant of the source text (`torch.tensor(…)`): fresh memory with the stored value."""
    ref = importer.lookup(node.args[0])
    return importer.context.root(ref.read(), node.meta["val"])


def _dropout(importer: Importer, node: fx.Node, overload: Overload) -> Any:
    """Dropout that drops nothing returns its input, though the trace shows a copy."""
    args = importer.arguments(node.args)
    result = importer.emit(node, overload, args, {})
    probability, train = args[1:]
    if (train and probability) or not importer.context.tracking:
        return result
    parent = importer.lookup(node.args[0]).view
    importer.context.place(node.meta["val"], parent.storage)
    view = View(parent.storage, parent.type, result.read(), parent, SameStep())
    return TensorRef(view, result.differentiable)


def _reshape(importer: Importer, node: fx.Node, overload: Overload) -> Any:
    """`view` says that memory need not move. The IR's types know no strides, so it is a reshape."""
    if overload.torch_op is _aten.view.dtype:
        return importer.emit(node, overload, importer.arguments(node.args), importer.keywords(node))
    args = importer.arguments([*node.args, *node.kwargs.values()])
    if overload.base in ("view_as", "reshape_as"):
        args[1] = importer.context.symbols.type_of(node.meta["val"]).shape  # type: ignore[union-attr]
    refs = [importer.lookup(node.args[0])]
    return importer.emit(node, describe(_aten.reshape.default), args[:2], {}, refs=refs)


def _contiguous(importer: Importer, node: fx.Node, overload: Overload) -> Any:
    """`contiguous` of a tensor that is so already is the tensor itself."""
    (source, *_) = node.args
    assert isinstance(source, fx.Node)
    if importer.context.same_memory(node, source):
        return importer.lookup(source)
    return importer.emit(node, overload, importer.arguments(node.args), importer.keywords(node))


def _expand_as(importer: Importer, node: fx.Node, overload: Overload) -> Any:
    shape = importer.context.symbols.type_of(node.meta["val"]).shape  # type: ignore[union-attr]
    args = [importer.argument(node.args[0]), shape]
    return importer.emit(node, describe(_aten.expand.default), args, {}, refs=[importer.lookup(node.args[0])])


def _to(importer: Importer, node: fx.Node, overload: Overload) -> Any:
    """`to`, `type_as`, `_to_copy`: one `_to_copy` that names what changes; nothing if nothing does."""
    ref = importer.lookup(node.args[0])
    type_: TensorType = importer.context.symbols.type_of(node.meta["val"])  # type: ignore[assignment]
    named = dict(zip((a.name for a in overload.torch_op._schema.arguments), node.args)) | dict(node.kwargs)
    memory_format = named.get("memory_format")
    if memory_format in (torch.preserve_format, None):
        memory_format = None
    changes: dict[str, Any] = {}
    if type_.dtype is not ref.type.dtype:
        changes["dtype"] = type_.dtype
    if type_.device != ref.type.device:
        changes["device"] = type_.device
    copies = overload.base == "_to_copy" or named.get("copy") is True
    if memory_format is not None:
        changes["memory_format"] = attribute_from_torch(memory_format)
    if not changes and not copies:
        return ref
    args = [ref.read()]
    if not changes:
        return importer.emit(node, describe(_aten.clone.default), args, {}, refs=[ref])
    return importer.emit(node, describe(_aten._to_copy.default), args, changes, refs=[ref])


def _factory(importer: Importer, node: fx.Node, overload: Overload) -> Any:
    """Tensor factories name their dtype, which else depends on the process's default."""
    kwargs = importer.keywords(node)
    value = node.meta["val"]
    if kwargs.get("dtype") is None and isinstance(value, torch.Tensor):
        kwargs["dtype"] = from_torch(value.dtype)
    kwargs.pop("pin_memory", None)
    if kwargs.get("layout") == "strided":
        kwargs.pop("layout")
    args = importer.arguments(node.args)
    if overload.base == "full" and isinstance(args[1], Value):
        type_: TensorType = importer.context.symbols.type_of(value)  # type: ignore[assignment]
        filled = importer.builder.expand(importer.builder.cast(args[1], type_), type_)
        return importer.context.root(filled, value)
    return importer.emit(node, overload, args, kwargs)


def _batch_norm(importer: Importer, node: fx.Node, overload: Overload) -> Any:
    """Batch norm in training updates its running statistics, which its schema doesn't say: made explicit."""
    args = importer.arguments(node.args)
    running = [importer.lookup(argument) for argument in node.args[3:5]]
    if args[5] is not True or running[0] is None:
        return importer.emit(node, overload, args, {})
    names = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
    output, _, _, mean, variance = importer.builder.call(
        "aten._native_batch_norm_legit_functional", (), dict(zip(names, args))
    )
    running[0].view.write(mean)
    running[1].view.write(variance)
    differentiable = any(r.differentiable for r in importer.refs(node))
    return importer.context.root(output, node.meta["val"], differentiable)


def _item(importer: Importer, node: fx.Node, overload: Overload) -> Any:
    """`item()`: an integer binds a symbol; a float or bool stays a 0-dim tensor."""
    value = node.meta["val"]
    ref = importer.lookup(node.args[0])
    if isinstance(value, torch.SymInt):
        importer.builder.call("aten.item", [ref.read()], {}, [importer.context.symbols.type_of(value)], [node.name])
        return importer.context.symbols.dim(value)
    if not isinstance(value, torch.SymFloat | torch.SymBool):
        return value
    wanted = TensorType(DType.F64 if isinstance(value, torch.SymFloat) else DType.BOOL, (), ref.type.device)
    flat = ref.read()
    if ref.type.rank:
        flat = importer.builder.one("aten.reshape", flat, (), type=ref.type.with_shape(()))
    number = importer.builder.cast(flat, wanted)
    importer.context.numbers[value.node.expr] = number
    return importer.context.root(number)


def _clone_of_alias(step: Any, builder: Any, parent: Any, value: Any) -> Any:
    return value


INVERSES["aten.detach"] = _clone_of_alias

HANDLERS.update({f"aten.{name}": _nothing for name in DROPPED})
HANDLERS.update({f"aten.{name}": _alias for name in ("alias", "lift", "lift_fresh", "requires_grad_")})
HANDLERS.update({f"aten.{name}": _reshape for name in ("view", "_unsafe_view", "view_as", "reshape_as")})
HANDLERS.update({f"aten.{name}": _to for name in ("to", "_to_copy", "type_as")})
HANDLERS.update({f"aten.{name}": _item for name in ("item", "_local_scalar_dense")})
FACTORIES = """zeros ones full empty rand randn randint randperm arange linspace logspace eye scalar_tensor""".split()  # noqa: SIM905
HANDLERS.update({f"aten.{name}": _factory for name in FACTORIES})
HANDLERS.update(
    {
        "aten.detach": _detach,
        "aten.contiguous": _contiguous,
        "aten.dropout": _dropout,
        "aten.lift_fresh_copy": _lift_fresh_copy,
        "aten.expand_as": _expand_as,
        "aten.batch_norm": _batch_norm,
    }
)
