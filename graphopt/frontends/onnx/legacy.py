"""Operators of opsets 1 to 6 as those of opset 7 on mean them, so that one rule covers both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from graphopt.errors import CaptureError
from graphopt.frontends.onnx.application import Application, Declined, tensor_type

Modernization = Callable[[Application], Application]

MODERN = 7

BROADCASTING = (
    "Add",
    "And",
    "Div",
    "Equal",
    "Greater",
    "Less",
    "Mul",
    "Or",
    "Pow",
    "Sub",
    "Xor",
)


def modernized(a: Application) -> Application:
    """Return a node of an old opset as a newer one would say it.

    Raises:
        Declined: no newer one can.
    """
    change = CHANGES.get(a.name)
    return a if change is None or a.version >= MODERN else change(a)


def _broadcast(a: Application) -> Application:
    """The second operand's dims stand below those of the first from `axis` on, by default below the last ones."""
    axis, rank = a.attr("axis"), a.type(1).rank
    if not a.attr("broadcast", 0) or axis is None or not rank:
        return a
    behind = a.type(0).rank - axis % a.type(0).rank - rank
    return replace(a, inputs=(a.inputs[0], a.reshape(a[1], (*a.type(1).shape, *[1] * behind))))


def _prelu(a: Application) -> Application:
    """A slope for each channel, which is dim 1."""
    slope, rank = a[1], a.type(0).rank
    if tensor_type(slope).rank != 1 or rank < 3:
        return a
    return replace(a, inputs=(a.inputs[0], a.reshape(slope, (*tensor_type(slope).shape, *[1] * (rank - 2)))))


def _reshape(a: Application) -> Application:
    """The shape was an attribute up to opset 4."""
    shape = a.attr("shape")
    return a if shape is None else replace(a, inputs=(a.inputs[0], a.constant(torch.tensor(shape, dtype=torch.int64))))


def _cast(a: Application) -> Application:
    """The type was a name up to opset 5."""
    from onnx import TensorProto

    name = a.attr("to")
    if not isinstance(name, str):
        return a
    try:
        return _with(a, to=TensorProto.DataType.Value(name))
    except ValueError:
        raise CaptureError(f"there is no type {name}") from None


def _tile(a: Application) -> Application:
    """One dim was repeated up to opset 5: a count and an axis were operands."""
    if not a.has(2):
        return a
    counts = [1] * a.type(0).rank
    counts[int(a.numbers(2)[0])] = int(a.numbers(1)[0])
    return replace(a, inputs=(a.inputs[0], a.constant(torch.tensor(counts))))


def _selu(a: Application) -> Application:
    """The defaults had fewer digits up to opset 5."""
    return a if a.version >= 6 else _with(a, **{"alpha": 1.6732, "gamma": 1.0507, **a.attributes})


def _batch_normalization(a: Application) -> Application:
    """Whether it is in training was an attribute up to opset 6."""
    if not a.attr("is_test", 0) and a.num_outputs > 1:
        raise Declined("the running statistics of opsets before 14")
    return _with(a, training_mode=1 - a.attr("is_test", 0))


CHANGES: Mapping[str, Modernization] = {
    **dict.fromkeys(BROADCASTING, _broadcast),
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "PRelu": _prelu,
    "Reshape": _reshape,
    "Selu": _selu,
    "Tile": _tile,
}


def _with(a: Application, **attributes: Any) -> Application:
    return replace(a, attributes={**a.attributes, **attributes})
