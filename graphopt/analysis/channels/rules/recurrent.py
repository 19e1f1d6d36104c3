"""Recurrent layers: all layers and directions share one hidden width, and their units go together."""

from __future__ import annotations

from graphopt.analysis.channels.axes import Axis, State, axis_state
from graphopt.analysis.channels.rules.table import rule
from graphopt.analysis.channels.tracker import Role, Tracker
from graphopt.ir import Node, Value

_GATES = {"aten.lstm": 4, "aten.gru": 3, "aten.rnn_tanh": 1, "aten.rnn_relu": 1}
_CELL_GATES = {"aten.lstm_cell": 4, "aten.gru_cell": 3, "aten.rnn_tanh_cell": 1, "aten.rnn_relu_cell": 1}


@rule("lstm.input gru.input rnn_tanh.input rnn_relu.input")
def recurrent(t: Tracker, node: Node) -> None:
    """[…, I] and states [layers, N, H], with weights (gates, H) x I and (gates, H) x H → […, (directions, H)]."""
    arguments = node.arguments()
    x, params, states = arguments["input"], arguments["params"], arguments["hx"]
    states = states if isinstance(states, tuple) else (states,)
    directions = 2 if arguments["bidirectional"] else 1
    each = 4 if arguments["has_biases"] else 2
    width = states[0].shape[-1]
    if len(params) != each * directions * arguments["num_layers"] or params[1].shape[-1] != width:
        _barrier(t, node)
        return
    hidden = _hidden(t, states)
    gates = t.opaque(_GATES[node.op.base], "gates")
    both = t.opaque(directions, "directions")
    axes = t.axes(x)
    for axis in axes[:-1]:
        t.freeze(axis, "batch and time of a recurrent layer")
    inputs = axes[-1]
    for layer in range(arguments["num_layers"]):
        for direction in range(directions):
            start = (layer * directions + direction) * each
            hidden = _cell(t, params[start : start + each], inputs, hidden, gates)
        inputs = (*both, *hidden)
    lead = [t.opaque(d, "batch and time of a recurrent layer") for d in x.shape[:-1]]
    t.set([*lead, (*both, *hidden)])
    for index, state in enumerate(states, 1):
        t.set([*[t.opaque(d, "layers and batch") for d in state.shape[:-1]], hidden], index)


@rule("lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell")
def cell(t: Tracker, node: Node) -> None:
    """[N, I] and states [N, H], with weights (gates, H) x I and (gates, H) x H → [N, H] each."""
    arguments = node.arguments()
    states = arguments["hx"]
    hidden = _hidden(t, states if isinstance(states, tuple) else (states,))
    *batch, inputs = t.axes(arguments["input"])
    for axis in batch:
        t.freeze(axis, "batch of a recurrent layer")
    gates = t.opaque(_CELL_GATES[node.op.base], "gates")
    params = tuple(v for v in (arguments[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh")) if v is not None)
    hidden = _cell(t, params, inputs, hidden, gates)
    for index, result in enumerate(node.results):
        t.set([*[t.opaque(d, "batch of a recurrent layer") for d in result.shape[:-1]], hidden], index)


def _hidden(t: Tracker, states: tuple[Value, ...]) -> Axis:
    """The hidden width: the states start from zero where a unit is removed."""
    hidden: Axis = t.axes(states[0])[-1]
    for state in states:
        own = t.axes(state)
        for axis in own[:-1]:
            t.freeze(axis, "layers and batch of a state")
        if axis_state(own[-1]) is not State.ZERO:
            t.freeze(own[-1], "a state that does not start from zero")
        t.play(own[-1], Role.SHIFT)
        hidden = t.equate(hidden, own[-1], "states of a recurrent layer")
    return hidden


def _cell(t: Tracker, params: tuple[Value, ...], inputs: Axis, hidden: Axis, gates: Axis) -> Axis:
    """Couple one layer's weights in one direction; return the hidden width."""
    own = [t.axes(p) for p in params]
    t.contract(inputs, own[0][1], "input of a recurrent layer")
    t.play(own[1][1], Role.IN)
    hidden = t.equate(hidden, own[1][1], "recurrence")
    for param, axes in zip(params, own):
        t.play(axes[0], Role.OUT if len(param.shape) > 1 else Role.SHIFT)
        t.equate(axes[0], (*gates, *hidden), "gates of a recurrent layer")
    return hidden


def _barrier(t: Tracker, node: Node) -> None:
    for value in t.operands():
        t.freeze_all(value, "a recurrent layer with projections")
