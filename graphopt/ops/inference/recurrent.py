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
    (projections, mixed dtypes). Shapes are checked first: PyTorch, with fake tensors too, reads past the end of states
    and weights that are too small."""
    directions = 2 if bidirectional else 1
    if len(x.shape) != 3 or any(len(s.shape) != 3 for s in states):
        return None
    layers = num_layers * directions
    each = 4 if has_biases else 2
    if len(params) not in (layers * each, layers * (each + 1)):
        raise Mismatch(f"there are {len(params)} weights for {layers} layers")
    for state in states:
        if state.shape[0] != layers:
            raise Mismatch(f"the state has {state.shape[0]} layers, the weights have {layers}")
        require_equal(state.shape[1], x.shape[0 if batch_first else 1], "the state's batch is not the input's")
    if len(params) != layers * each:
        return None
    if any(len(p.shape) != (2 if i % each < 2 else 1) for i, p in enumerate(params)):
        raise Mismatch("input and hidden weights are matrices, biases are vectors")
    width = params[1].shape[-1]
    expected = _weight_shapes(gates, x.shape[2], width, has_biases, num_layers, directions)
    for weight, shape in zip(params, expected, strict=True):
        for found, wanted in zip(weight.shape, shape, strict=True):
            require_equal(found, wanted, "a weight does not fit the input and the gates")
    if any(d == 0 for d in x.shape):
        return None
    if not x.dtype.is_floating or any(t.dtype is not x.dtype for t in (*states, *params)):
        return None
    for state in states:
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
