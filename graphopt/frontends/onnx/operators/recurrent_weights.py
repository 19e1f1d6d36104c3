"""Weights of recurrent layers as PyTorch takes them: one set a direction, gates in its order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from graphopt.frontends.onnx.application import Application, Declined, tensor_type
from graphopt.ir import Constant, TensorType, Value

ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""PyTorch's gate i is ONNX's gate ORDER[i]."""

SUFFIXES = ("", "_reverse")


def weights(a: Application, direction: int) -> list[Value]:
    """Return the weights of input and state of a direction, and their biases, if there are any."""
    order, end = ORDER[a.name], "l0" + SUFFIXES[direction]
    found = [_rearranged(a, a[index], direction, end, order) for index in (1, 2)]
    if a.has(3):
        count = len(order)
        of_state = tuple(count + gate for gate in order)
        for chosen, start in ((order, "ih_"), (of_state, "hh_")):
            found.append(_rearranged(a, a[3], direction, start + end, chosen, 2 * count))
    return found


def _rearranged(
    a: Application, value: Value, direction: int, suffix: str, chosen: Sequence[int], parts: int | None = None
) -> Value:
    """Of one direction, some of the equal parts in another order. A stored tensor is stored anew."""
    parts = len(chosen) if parts is None else parts
    rows = tensor_type(value).shape[1]
    if not isinstance(rows, int):
        raise Declined("the hidden size is not known before the model runs")
    size = rows // parts
    if value.constant is not None:
        return derived(a, value, suffix, lambda t: torch.cat([t[direction].split(size)[gate] for gate in chosen]))
    one = a.emit("aten.select.int", value, 0, direction)
    gates = [a.emit("aten.slice.Tensor", one, 0, gate * size, (gate + 1) * size) for gate in chosen]
    return gates[0] if len(gates) == 1 else a.emit("aten.cat", gates, 0)


def derived(a: Application, value: Value, suffix: str, function: Callable[[torch.Tensor], torch.Tensor]) -> Value:
    """Store what is made of a stored tensor: a parameter of a parameter, under a name of its own."""
    constant = value.constant
    assert constant is not None
    tensor = function(constant.tensor.detach()).contiguous()
    name = f"{value.name}_{suffix}"
    known = a.builder.graph.constants.get(name)
    if known is not None and known.constant is not None and _same(known.constant.tensor, tensor):
        return known
    names = tuple([f"{n}_{suffix}" for n in constant.names])
    type_ = TensorType(tensor_type(value).dtype, tuple(tensor.shape))
    kept = Constant(tensor, constant.kind, names, constant.requires_grad)
    a.reader.replaced.add(value)
    return a.builder.graph.add_constant(name, type_, kept)


def _same(x: torch.Tensor, y: torch.Tensor) -> bool:
    return x.dtype == y.dtype and x.shape == y.shape and torch.equal(x, y)
