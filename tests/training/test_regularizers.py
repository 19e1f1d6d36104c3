"""Regularizers against sums by hand over the slices that are coupled."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphopt
from graphopt.analysis.channels import ChannelAnalysis
from graphopt.errors import GraphOptError
from graphopt.regularizers import batch_norm_l1, group_lasso, growing, l1


class Residual(nn.Module):
    """stem and conv2 share their channels; conv1's are its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.conv1 = nn.Conv2d(4, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.conv2 = nn.Conv2d(3, 4, 1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv2(F.relu(self.norm(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


X = torch.randn(8, 1, 5, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(8) % 2


def model() -> Residual:
    torch.manual_seed(0)
    net = Residual()
    with torch.no_grad():
        net.norm.weight.uniform_(0.5, 2)
    return net.eval()


def compiled(net: nn.Module) -> graphopt.CompiledModel:
    return graphopt.compile(net, (X,), target="fx", dynamic_shapes="batch", passes="none")


def coupled(net: Residual) -> list[list[Tensor]]:
    """All slices of each channel: those of the sum, then those of conv1."""
    outer = [
        [layer.weight[k] for layer in (net.stem, net.conv2)]
        + [net.stem.bias[k], net.conv2.bias[k], net.conv1.weight[:, k], net.fc.weight[:, k]]
        for k in range(4)
    ]
    inner = [
        [net.conv1.weight[k], net.conv1.bias[k], net.norm.weight[k], net.norm.bias[k], net.conv2.weight[:, k]]
        for k in range(3)
    ]
    return [[torch.cat([part.flatten() for part in parts]) for parts in group] for group in (outer, inner)]


def test_sums_by_hand() -> None:
    net = model()
    small = compiled(net)
    groups = coupled(net)
    lasso = sum(len(channel) ** 0.5 * channel.norm() for group in groups for channel in group)
    torch.testing.assert_close(group_lasso(0.1)(small), 0.1 * lasso)
    torch.testing.assert_close(batch_norm_l1(0.5)(small), 0.5 * net.norm.weight.abs().sum())
    weights = [net.stem, net.conv1, net.conv2, net.fc]
    torch.testing.assert_close(l1(2.0)(small), 2.0 * sum(layer.weight.abs().sum() for layer in weights))
    torch.testing.assert_close(l1(1.0, "fc.*")(small), net.fc.weight.abs().sum())
    terms = []
    for group in groups:
        squares = torch.stack([channel.square().sum() for channel in group])
        factors = 2 ** (4 * (squares.max() - squares) / (squares.max() - squares.min()))
        terms.append((factors.detach() * squares).sum())
    torch.testing.assert_close(growing(0.1)(small), 0.1 * sum(terms))


def test_gradients_and_plain_modules() -> None:
    net = model()
    source = graphopt.trace(net, (X,))
    for regularizer in (group_lasso(0.1, source), growing(0.1, ChannelAnalysis(source)), batch_norm_l1(0.1, source)):
        net.zero_grad()
        value = regularizer(net)
        value.backward()
        torch.testing.assert_close(value, regularizer(compiled(net)))
        assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
        assert net.norm.weight.grad is not None
    with pytest.raises(GraphOptError, match=r"source=graphopt.trace"):
        group_lasso(0.1)(net)
    with pytest.raises(GraphOptError, match="parameter of the model"):
        group_lasso(0.1, source)(nn.Linear(2, 2))
    with pytest.raises(GraphOptError, match="nothing to regularize"):
        group_lasso(0.1, graphopt.trace(nn.ReLU(), (X,)))(nn.ReLU())


@pytest.mark.parametrize("make", [group_lasso, growing], ids=["group lasso", "growing"])
def test_training_with_one_makes_channels_small(make: object) -> None:
    small = compiled(model())
    regularizer = make(1e-2)  # type: ignore[operator]
    before = float(regularizer(small))
    history = graphopt.finetune(small, [(X, Y)], F.cross_entropy, epochs=40, lr=0.02, regularizers=[regularizer])
    assert float(group_lasso(1e-2)(small)) < float(group_lasso(1e-2)(compiled(model())))
    assert history.losses[-1] < history.losses[0] and before > 0


def test_l1_then_threshold() -> None:
    """Weights that L1 made small go without a loss that shows."""
    torch.manual_seed(0)
    x = torch.randn(256, 12)
    y = x[:, :3] @ torch.tensor([[1.0], [-2.0], [3.0]])
    net = nn.Linear(12, 1)
    graphopt.finetune(net, [(x, y)], F.mse_loss, epochs=400, lr=0.05, regularizers=[l1(1e-2)])
    pruned = graphopt.compile(net, (x,), target="fx", passes="prune-weights{threshold=0.1}", on_failure="raise")
    assert (pruned.state_dict()["weight"] != 0).flatten().tolist() == [True] * 3 + [False] * 9
    with torch.no_grad():
        assert F.mse_loss(pruned(x), y) < 0.05
