"""Recurrent layers: LSTM, GRU and plain RNN, layer by layer, and their cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, Declined, lowers
from graphopt.backends.onnx.shaping import concat, reshape, slice_, squeeze, transpose, unsqueeze
from graphopt.ir import Value
from graphopt.ir.dims import Dim

# ONNX gate i is PyTorch's gate _ORDER[i].
_ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}


@lowers("aten.lstm.input")
def _lower_lstm(e: Emitter, a: Call) -> Sequence[Tensor]:
    return run_layers(e, a, "LSTM", a.hx)


@lowers("aten.gru.input")
def _lower_gru(e: Emitter, a: Call) -> Sequence[Tensor]:
    return run_layers(e, a, "GRU", (a.hx,), linear_before_reset=1)


@lowers("aten.rnn_tanh.input", "aten.rnn_relu.input")
def _lower_rnn(e: Emitter, a: Call) -> Sequence[Tensor]:
    activation = "Tanh" if "tanh" in a.node.op.name else "Relu"
    directions = 2 if a.bidirectional else 1
    return run_layers(e, a, "RNN", (a.hx,), activations=[activation] * directions)


def run_layers(e: Emitter, a: Call, op_type: str, states: Sequence[Tensor], **attributes: Any) -> list[Tensor]:
    """Run the layers one after another; return the output and the last states `[layers * directions, batch, hidden]`.

    ONNX wants time first, and returns `[time, directions, batch, hidden]`.
    """
    directions = 2 if a.bidirectional else 1
    per_layer = len(a.params) // (a.num_layers * directions)
    if per_layer != (4 if a.has_biases else 2):
        raise Declined("an LSTM with a projection")
    x = transpose(e, a.input, [1, 0, 2]) if a.batch_first else a.input
    given = [None if _is_zeros(v) else s for s, v in zip(states, a.node.operands[1:])]
    lasts: list[list[Tensor]] = [[] for _ in states]
    for layer in range(a.num_layers):
        start = layer * directions * per_layer
        weights = a.params[start : start + directions * per_layer]
        initial = [None if s is None else _layer_state(e, s, layer, directions, a.num_layers) for s in given]
        x, final = _layer(e, op_type, x, weights, initial, directions, attributes)
        for last, state in zip(lasts, final):
            last.append(state)
    x = transpose(e, x, [1, 0, 2]) if a.batch_first else x
    return [x, *(concat(e, last, 0) for last in lasts)]


def _is_zeros(state: Value | None) -> bool:
    """True for zeros that are made, not stored: what a layer starts from if nothing is given."""
    made = None if state is None else state.producer
    if made is None:
        return False
    return made.op.name == "aten.zeros" or (made.op.name == "aten.full" and made.attributes["fill_value"] == 0)


def _layer_state(e: Emitter, state: Tensor, layer: int, directions: int, layers: int) -> Tensor:
    if layers == 1:
        return state
    return slice_(e, state, 0, layer * directions, (layer + 1) * directions, size=directions)


def _layer(
    e: Emitter,
    op_type: str,
    x: Tensor,
    weights: Sequence[Tensor],
    initial: Sequence[Tensor | None],
    directions: int,
    attributes: dict[str, Any],
) -> tuple[Tensor, list[Tensor]]:
    count = len(weights) // directions
    sides = [weights[i * count : (i + 1) * count] for i in range(directions)]
    input_weights = _packed(e, op_type, [side[:1] for side in sides])
    hidden_weights = _packed(e, op_type, [side[1:2] for side in sides])
    bias = _packed(e, op_type, [side[2:] for side in sides]) if count == 4 else None
    time, batch, hidden = x.dims[0], x.dims[1], weights[1].dims[1]
    state_shape: tuple[Dim, ...] = (directions, batch, hidden)
    results = e.ops(
        op_type,
        x,
        input_weights,
        hidden_weights,
        bias,
        None,
        *initial,
        dtypes=(None,) * (1 + len(initial)),
        shapes=((time, directions, batch, hidden), *(state_shape for _ in initial)),
        hidden_size=hidden,
        direction="bidirectional" if directions == 2 else None,
        **attributes,
    )
    y = results[0]
    if directions == 1:
        return squeeze(e, y, [1]), list(results[1:])
    y = transpose(e, y, [0, 2, 1, 3])
    return reshape(e, y, (time, batch, hidden * directions)), list(results[1:])


def _packed(e: Emitter, op_type: str, sides: Sequence[Sequence[Tensor]]) -> Tensor:
    """The weights of each direction stacked, gates in ONNX's order; ahead of time if they are stored."""
    parts = [part for side in sides for part in side]
    if all(part.data is not None for part in parts):
        return e.once(("packed", *parts), lambda: _packed_ahead(e, op_type, sides))
    joined = [concat(e, [_ordered(e, op_type, part) for part in side], 0) for side in sides]
    return concat(e, [unsqueeze(e, part, [0]) for part in joined], 0)


def _packed_ahead(e: Emitter, op_type: str, sides: Sequence[Sequence[Tensor]]) -> Tensor:
    order = _ORDER[op_type]

    def ordered(part: Tensor) -> list[torch.Tensor]:
        assert part.data is not None
        gates = part.data.detach().chunk(len(order))
        return [gates[gate] for gate in order]

    rows = [torch.cat([gate for part in side for gate in ordered(part)]) for side in sides]
    return e.constant(torch.stack(rows), f"{sides[0][0].name}_packed")


def _ordered(e: Emitter, op_type: str, weight: Tensor) -> Tensor:
    """The gates of a weight or bias in ONNX's order."""
    order = _ORDER[op_type]
    if order == tuple(range(len(order))):
        return weight
    size = weight.dims[0] // len(order)
    shapes = [(size, *weight.dims[1:])] * len(order)
    gates = e.ops("Split", weight, dtypes=(None,) * len(order), shapes=shapes, axis=0, num_outputs=len(order))
    return concat(e, [gates[gate] for gate in order], 0)


def _projections(e: Emitter, a: Call, state: Tensor) -> tuple[Tensor, Tensor]:
    """The gates' pre-activations from the input and from the state."""
    pairs = ((a.input, a.w_ih, a.b_ih), (state, a.w_hh, a.b_hh))
    found = []
    for x, weight, bias in pairs:
        if x.rank == 2:
            found.append(e.op("Gemm", x, weight, bias, transB=1, shape=(x.dims[0], weight.dims[0])))
        else:
            y = e.op("MatMul", weight, x, shape=(weight.dims[0],))
            found.append(y if bias is None else e.op("Add", y, bias, shape=y.dims))
    return found[0], found[1]


def _gates(e: Emitter, x: Tensor, count: int) -> tuple[Tensor, ...]:
    shape = (*x.dims[:-1], x.dims[-1] // count)
    return e.ops("Split", x, dtypes=(None,) * count, shapes=(shape,) * count, axis=-1, num_outputs=count)


@lowers("aten.lstm_cell")
def _lower_lstm_cell(e: Emitter, a: Call) -> Sequence[Tensor]:
    hidden, cell = a.hx
    total = e.op("Add", *_projections(e, a, hidden), shape=(*hidden.dims[:-1], a.w_ih.dims[0]))
    i, f, g, o = _gates(e, total, 4)
    kept = e.op("Mul", e.op("Sigmoid", f), cell)
    new_cell = e.op("Add", kept, e.op("Mul", e.op("Sigmoid", i), e.op("Tanh", g)))
    return e.op("Mul", e.op("Sigmoid", o), e.op("Tanh", new_cell)), new_cell


@lowers("aten.gru_cell")
def _lower_gru_cell(e: Emitter, a: Call) -> Tensor:
    """`n + z * (h - n)` with `n = tanh(W_n x + r * (U_n h))`."""
    from_input, from_state = _projections(e, a, a.hx)
    r_in, z_in, n_in = _gates(e, from_input, 3)
    r_state, z_state, n_state = _gates(e, from_state, 3)
    r, z = e.op("Sigmoid", e.op("Add", r_in, r_state)), e.op("Sigmoid", e.op("Add", z_in, z_state))
    n = e.op("Tanh", e.op("Add", n_in, e.op("Mul", r, n_state)))
    return e.op("Add", n, e.op("Mul", z, e.op("Sub", a.hx, n)))


@lowers("aten.rnn_tanh_cell", "aten.rnn_relu_cell")
def _lower_rnn_cell(e: Emitter, a: Call) -> Tensor:
    activation = "Tanh" if "tanh" in a.node.op.name else "Relu"
    return e.op(activation, e.op("Add", *_projections(e, a, a.hx)))
