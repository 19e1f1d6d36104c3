"""What follows the module's training mode, what was frozen, and gradients that the model stops."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphopt.frontends import capture
from graphopt.ir import Graph, verify
from tests.frontends.running import run, same


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm1d(4)
        self.second = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.rnn = nn.GRU(4, 4, num_layers=2, dropout=0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(self.drop(self.second(self.first(x))))[0]


def training(graph: Graph) -> dict[str, object]:
    found: dict[str, object] = {}
    for node in graph:
        for name in ("training", "train", "use_input_stats"):
            if name in node.attributes:
                found[node.location.scope] = node.attributes[name]
    return found


def test_a_model_in_eval_follows() -> None:
    graph = capture(Net().eval(), (torch.randn(3, 4),))
    assert training(graph) == {"first": "follow", "second": "follow", "drop": "follow", "rnn": "follow"}


def test_a_model_in_train_is_traced_in_eval() -> None:
    model = Net().train()
    graph = capture(model, (torch.randn(3, 4),))
    assert set(training(graph).values()) == {"follow"}
    assert all(m.training for m in model.modules())
    x = torch.randn(5, 4)
    graph = capture(model, (x,))
    same(run(graph, (x,))[0], model.eval()(x), 1e-6)


def test_a_submodule_in_eval_is_frozen() -> None:
    model = Net().train()
    model.second.eval()
    graph = capture(model, (torch.randn(3, 4),))
    assert training(graph) == {"first": "follow", "second": False, "drop": "follow", "rnn": "follow"}


def test_a_submodule_left_in_train_trains() -> None:
    model = Net().eval()
    model.first.train()
    x = torch.randn(6, 4)
    graph = capture(model, (x,))
    verify(graph)
    assert {node.op.name for node in graph} >= {"aten._native_batch_norm_legit_functional"}
    result, updates = run(graph, (x,))
    same(result, model(x), 1e-6)
    assert set(updates) == {"first.running_mean", "first.running_var", "first.num_batches_tracked"}
    same(updates, {name: model.get_buffer(name) for name in updates}, 1e-6)


def test_literal_dropout_stays_active() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, 0.5)

    (node,) = capture(function, (torch.ones(3),))
    assert node.attributes["train"] is True


def test_batch_statistics_without_running_ones() -> None:
    model = nn.BatchNorm1d(4, track_running_stats=False).eval()
    x = torch.randn(5, 4)
    graph = capture(model, (x,))
    same(run(graph, (x,))[0], model(x), 1e-6)
    assert not graph.mutations


def test_instance_norm_with_running_statistics_follows() -> None:
    model = nn.InstanceNorm1d(4, track_running_stats=True).eval()
    x = torch.randn(2, 4, 5)
    graph = capture(model, (x,))
    assert training(graph) == {"": "follow"}
    same(run(graph, (x,))[0], model(x), 1e-6)


def test_stopped_gradients_stay() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                a = self.w * 2
            b = (self.w * 3).detach()
            c = x.detach() * self.w
            with torch.no_grad():
                d = x * 4
            return a + b + c + d

    graph = capture(Model(), (torch.ones(3),))
    assert [node.op.name for node in graph].count("aten.detach") == 2
    same(run(graph, (torch.ones(3),))[0], torch.full((3,), 10.0))


def test_views_of_several_results_are_written_without_gradients() -> None:
    linear = nn.Linear(4, 4)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = linear

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            y.chunk(2, 1)[0].add_(1)
            return y

    x = torch.randn(3, 4)
    with torch.no_grad():
        expected = Model()(x)
    same(run(capture(Model(), (x,)), (x,))[0], expected, 1e-6)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_capture_in_any_gradient_mode(context: type) -> None:
    model = Net().eval()
    with context():
        x = torch.randn(3, 4)
        graph = capture(model, (x,))
    same(run(graph, (torch.ones(3, 4),))[0], model(torch.ones(3, 4)), 1e-6)


def test_autocast_becomes_casts() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.conv = nn.Conv1d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                a = self.linear(x)
                b = a.softmax(-1)
                c = torch.cat([a, x])
                d = nn.functional.layer_norm(a, (4,))
                e = torch.einsum("ij,jk->ik", x, x)
                e += 1
                f = nn.functional.scaled_dot_product_attention(x[None], x[None], x[None])
                g = self.conv(x[None]).relu()
                h = torch.addmm(x, x, x)
                i = torch.nn.functional.mse_loss(a, x)
                with torch.autocast("cpu", enabled=False):
                    k = x @ x
            return a, b, c, d, e, f, g, h, i, k + a

    model = Model().eval()
    x = torch.randn(4, 4)
    graph = capture(model, (x,))
    verify(graph)
    same(run(graph, (x,))[0], tuple(t.detach() for t in model(x)), 1e-5)
