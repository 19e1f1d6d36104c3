"""`torch.cond` and `while_loop` as regions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch._higher_order_ops.while_loop import while_loop

from graphopt.errors import CaptureError
from graphopt.frontends import capture
from graphopt.ops import parse
from tests.frontends.running import captured, run, same


def check_at(graph: Any, function: Any, *calls: tuple[Any, ...]) -> None:
    for args in calls:
        same(run(graph, args)[0], function(*args), 1e-6)


def test_branches() -> None:
    def function(x: torch.Tensor, y: torch.Tensor) -> Any:
        return torch.cond(x.sum() > 0, lambda x, y: (x + y, y * 2), lambda x, y: (x - y, x.clone()), (x, y))

    graph = captured(function, torch.ones(3), torch.ones(3))
    assert [node.op.name for node in graph] == ["aten.sum", "aten.gt.Scalar", "higher_order.cond"]
    check_at(graph, function, (torch.ones(3), torch.randn(3)), (-torch.ones(3), torch.randn(3)))


def test_branches_with_parameters_writes_and_nesting() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            def inner(x: torch.Tensor) -> torch.Tensor:
                y = self.left(x)
                y.add_(1)
                return y

            def outer(x: torch.Tensor) -> torch.Tensor:
                return torch.cond(x.max() > 2, inner, lambda x: self.right(x), (x,))

            return torch.cond(x.sum() > 0, outer, lambda x: x * 2, (x,))

    model = Model().eval()
    graph = capture(model, (torch.ones(2, 3),))
    for x in (torch.ones(2, 3), torch.ones(2, 3) * 3, -torch.ones(2, 3)):
        same(run(graph, (x,))[0], model(x).detach(), 1e-6)


def test_branch_on_a_size() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.shape[0] > 4, lambda x: x + 1, lambda x: x * x.shape[0], (x,))

    graph = captured(function, torch.ones(3), dynamic_shapes="batch")
    check_at(graph, function, (torch.ones(3),), (torch.ones(8),))


def test_static_predicate_is_decided() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.shape[0] > 4, lambda x: x + 1, lambda x: x * 2, (x,))

    graph = captured(function, torch.ones(3))
    assert [node.op.name for node in graph] == ["aten.mul.Scalar"]


def test_loop_over_tensors() -> None:
    def function(n: torch.Tensor, x: torch.Tensor, step: torch.Tensor) -> Any:
        return while_loop(lambda i, x: i < 5, lambda i, x: (i + 1, x * 2 + step), (n, x))

    graph = captured(function, torch.tensor(0), torch.ones(3), torch.ones(3))
    check_at(graph, function, *((torch.tensor(k), torch.randn(3), torch.randn(3)) for k in (0, 3, 9)))


def test_loop_over_a_number_and_sizes() -> None:
    def function(x: torch.Tensor) -> Any:
        return while_loop(lambda i, x: i < x.shape[0], lambda i, x: (i + 1, x * 2 + i), (0, x))

    graph = captured(function, torch.ones(3), dynamic_shapes="batch")
    check_at(graph, function, (torch.ones(2),), (torch.ones(6),))


def test_regions_print_and_parse() -> None:
    def function(x: torch.Tensor) -> Any:
        return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x.sin(), (x,))

    graph = captured(function, torch.ones(3), dynamic_shapes="batch")
    again = parse(str(graph))
    assert str(again) == str(graph)


def test_other_higher_order_operators_are_refused_by_name() -> None:
    from torch._higher_order_ops.scan import scan

    def function(x: torch.Tensor) -> Any:
        return scan(lambda carry, x: (carry + x, carry * x), torch.zeros(3), x)

    with pytest.raises(CaptureError, match="scan is not supported"):
        capture(function, (torch.ones(4, 3),))
