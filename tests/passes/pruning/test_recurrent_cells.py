"""Cells of recurrent layers, stepped through by hand: the hidden width shrinks in all steps at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt.analysis import graph_cost
from graphopt.analysis.channels import ChannelAnalysis
from tests.passes.pruning.oracle import prune, settle, worst_error

Cell = Callable[..., nn.Module]
CELLS = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn": nn.RNNCell}


class Stepped(nn.Module):
    """Two cells, one on the other, over three steps."""

    def __init__(self, cell: Cell, bias: bool, start: float = 0.0) -> None:
        super().__init__()
        self.start = start
        self.embed, self.head = nn.Linear(4, 8), nn.Linear(10, 3)
        self.low, self.high = cell(8, 12, bias=bias), cell(12, 10, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        states = [x.new_zeros(x.shape[0], width) + self.start for width in (12, 10)]
        if isinstance(self.low, nn.LSTMCell):
            pairs = [(state, state) for state in states]
            for i in range(3):
                pairs[0] = self.low(self.embed(x[:, i]).relu(), pairs[0])
                pairs[1] = self.high(pairs[0][0], pairs[1])
            return self.head(pairs[1][0])
        for i in range(3):
            states[0] = self.low(self.embed(x[:, i]).relu(), states[0])
            states[1] = self.high(states[0], states[1])
        return self.head(states[1])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", CELLS)
def test_pruned_is_masked(kind: str, bias: bool) -> None:
    net = settle(Stepped(CELLS[kind], bias), 0)
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    result = prune(net, (x,), seed=1, dynamic="batch")
    assert not result.report.refused
    assert result.graph.constants["low.weight_hh"].shape[1] < 12 and result.graph.constants["embed.weight"].shape[0] < 8
    assert worst_error(result, (x.tile(2, 1, 1),)) < 1e-12


def test_states_that_do_not_start_from_zero_stay() -> None:
    net = settle(Stepped(nn.GRUCell, True, start=1.0), 0)
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    result = prune(net, (x,), seed=1)
    assert result.graph.constants["low.weight_hh"].shape == (36, 12)
    assert worst_error(result, (x,)) < 1e-12
    assert "does not start" in ChannelAnalysis(graphopt.trace(net, (x,))).explain("low.weight_hh")


def test_multiply_adds_of_cells_are_those_of_a_layer() -> None:
    x, states = torch.ones(2, 4), torch.zeros(2, 6)
    cell = graph_cost(graphopt.trace(nn.GRUCell(4, 6), (x, states)))
    assert cell.macs == 2 * (18 * 4 + 18 * 6)


def test_single_weights_of_cells_are_pruned() -> None:
    net, x = Stepped(nn.LSTMCell, True).eval(), torch.randn(2, 3, 4)
    sparse = graphopt.compile(net, (x,), target="fx", passes="prune-weights{sparsity=0.75}").finalize()
    assert (sparse.state_dict()["low.weight_hh"] == 0).float().mean() == 0.75
    net.load_state_dict(sparse.state_dict())
    torch.testing.assert_close(sparse(x), net(x))
