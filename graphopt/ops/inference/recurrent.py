"""Recurrent layers over padded sequences. PyTorch's fakes cannot run them with symbolic sizes."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir import TensorType
from graphopt.ir.dims import Dim
from graphopt.ops.inference.shapes import require_equal
from graphopt.ops.inference.table import Mismatch, Result, rule


def _recurrent(
    gates: int,
    x: TensorType,
    states: Sequence[TensorType],
    params: Sequence[TensorType],
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> Result:
    """The output sequence, directions·width wide, and the last states; None for what only fakes decide
    (projections, odd weights, mixed dtypes)."""
    directions = 2 if bidirectional else 1
    if len(x.shape) != 3 or len(params) < 2 or any(len(s.shape) != 3 for s in states):
        return None
    width = params[1].shape[-1]
    if [p.shape for p in params] != _weight_shapes(gates, x.shape[2], width, has_biases, num_layers, directions):
        return None
    if any(d == 0 for d in x.shape):
        return None
    if not x.dtype.is_floating or any(t.dtype is not x.dtype for t in (*states, *params)):
        return None
    for state in states:
        if state.shape[0] != num_layers * directions:
            raise Mismatch(f"the state has {state.shape[0]} layers, the weights have {num_layers * directions}")
        require_equal(state.shape[1], x.shape[0 if batch_first else 1], "the state's batch is not the input's")
        require_equal(state.shape[2], width, "the state's width is not the weights'")
    return (x.with_shape((*x.shape[:2], directions * width)), *states)


def _weight_shapes(
    gates: int, features: Dim, width: Dim, has_biases: bool, num_layers: int, directions: int
) -> list[tuple[Dim, ...]]:
    """For each layer and direction: input weight, hidden weight, and their biases."""
    shapes: list[tuple[Dim, ...]] = []
    for layer in range(num_layers):
        inputs = features if layer == 0 else directions * width
        weights: list[tuple[Dim, ...]] = [(gates * width, inputs), (gates * width, width)]
        shapes += (weights + [(gates * width,)] * (2 if has_biases else 0)) * directions
    return shapes


@rule("lstm.input")
def lstm(
    x: TensorType,
    hx: Sequence[TensorType],
    params: Sequence[TensorType],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: object,
    bidirectional: bool,
    batch_first: bool,
) -> Result:
    """Four gates; hidden and cell state."""
    if len(hx) != 2:
        return None
    return _recurrent(4, x, hx, params, has_biases, num_layers, bidirectional, batch_first)


@rule("gru.input")
def gru(
    x: TensorType,
    hx: TensorType,
    params: Sequence[TensorType],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: object,
    bidirectional: bool,
    batch_first: bool,
) -> Result:
    """Three gates; hidden state."""
    return _recurrent(3, x, (hx,), params, has_biases, num_layers, bidirectional, batch_first)


@rule("rnn_tanh.input rnn_relu.input")
def rnn(
    x: TensorType,
    hx: TensorType,
    params: Sequence[TensorType],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: object,
    bidirectional: bool,
    batch_first: bool,
) -> Result:
    """One gate; hidden state."""
    return _recurrent(1, x, (hx,), params, has_biases, num_layers, bidirectional, batch_first)
