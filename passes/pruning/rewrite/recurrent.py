"""LSTM, GRU and plain recurrent layers.

The gates of a unit whose weights and biases are zero are σ(0) and tanh(0) = 0, so the unit stays 0 if it starts there:
c' = σ(0)·c + σ(0)·tanh(0) = 0, h' = σ(0)·tanh(c') = 0; for a GRU h' = (1 − σ(0))·tanh(0) + σ(0)·h = 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from graphopt.ir import Node, Value
from graphopt.passes.pruning.rewrite.contractions import first_operand, nonzero
from graphopt.passes.pruning.rewrite.dead import Dead, unknown, where_known
from graphopt.passes.pruning.rewrite.scope import Refusal, Scope, size
from graphopt.passes.pruning.rewrite.table import Treatment, treats

INITIAL = "it does not start at zero"
CELL_PARAMETERS = ("w_ih", "w_hh", "b_ih", "b_hh")


@treats("lstm.input gru.input rnn_tanh.input rnn_relu.input lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell")
class Recurrent(Treatment):
    """Results: the sequence of hidden states [T, N, D·H], and the last states [L·D, N, H]; of a cell, states [N, H]."""

    def dead(self, node: Node, operands: Sequence[Dead | None], scope: Scope) -> Sequence[Dead]:
        """Units that go stay zero; `refusals` sees to it that they are zero at the start."""
        results = []
        for value in node.results:
            axis = len(value.shape) - 1
            removed = scope.removed(value, axis)
            if not len(removed):
                results.append(unknown(value))
                continue
            known = torch.zeros(size(value, axis), dtype=torch.bool)
            known[torch.from_numpy(removed)] = True
            results.append(where_known(value, torch.zeros_like(known, dtype=torch.float64), known))
        return results

    def refusals(self, node: Node, scope: Scope) -> Iterator[Refusal]:
        """Input features must be zero, and so must initial states; all weights of a unit must be zero."""
        for parameter in parameters(node):
            removed = scope.removed(parameter, 0)
            if len(removed) and not scope.is_zeroed(parameter, 0):
                yield Refusal(parameter, 0, removed, node, "its gates would not be zero")
        value = first_operand(node)
        for axis in scope.axes(value):
            numbers, refused = scope.entering(node, value, axis)
            yield from refused
            yield from nonzero(node, value, axis, numbers, "a recurrent layer takes no constant but zero")
        for state in states(node):
            for axis in scope.axes(state):
                numbers, refused = scope.entering(node, state, axis)
                for found in refused:
                    yield Refusal(state, axis, found.slots, node, INITIAL)
                yield from nonzero(node, state, axis, numbers, INITIAL)


def parameters(node: Node) -> list[Value]:
    """The weights and biases of all layers and directions."""
    arguments = node.arguments()
    given = arguments["params"] if "params" in arguments else [arguments[name] for name in CELL_PARAMETERS]
    return [v for v in given if v is not None]


def states(node: Node) -> list[Value]:
    """The initial states."""
    given = node.arguments()["hx"]
    return [v for v in (given if isinstance(given, tuple) else (given,)) if v is not None]
