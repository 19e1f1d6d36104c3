"""Symbolic sizes: names, ranges, the words, and what depends on sizes and data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim, ShapesCollection

from graphopt.errors import GraphOptError
from graphopt.frontends import capture
from graphopt.ir import Graph, ScalarType, verify
from graphopt.ir.printer import all_symbols
from tests.frontends.running import captured, run, same


def types(graph: Graph) -> list[str]:
    return [str(value.type) for value in graph.inputs]


def check_at(graph: Graph, function: Any, *calls: tuple[Any, ...]) -> None:
    for args in calls:
        same(run(graph, args)[0], function(*args), 1e-6)


def test_names_and_ranges_are_the_users() -> None:
    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x.unsqueeze(1) + y

    shapes = {"x": {0: Dim("rows", min=2, max=9), 1: Dim("width", max=64)}, "y": {1: Dim("width", max=64)}}
    graph = captured(function, torch.ones(3, 5), torch.ones(4, 5), dynamic_shapes=shapes)
    assert types(graph) == ["f32[rows, width]", "f32[4, width]"]
    rows, width = graph.symbols()
    assert (rows.min, rows.max) == (2, 9) and width.max == 64
    assert str(graph.outputs[0].type) == "f32[rows, 4, width]"
    check_at(graph, function, (torch.randn(7, 2), torch.randn(4, 2)))


def test_derived_dims() -> None:
    half = Dim("half", max=32)

    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x[::2] * y

    graph = captured(function, torch.ones(6), torch.ones(3), dynamic_shapes={"x": {0: 2 * half}, "y": {0: half}})
    assert types(graph) == ["f32[2*half]", "f32[half]"]
    check_at(graph, function, (torch.randn(10), torch.randn(5)))


def test_batch_is_one_word() -> None:
    def function(x: torch.Tensor, mask: torch.Tensor, scale: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        return x * mask[:, None] * scale + table.sum()

    args = (torch.ones(4, 3), torch.ones(4), torch.tensor(2.0), torch.ones(7))
    graph = captured(function, *args, dynamic_shapes="batch")
    assert types(graph) == ["f32[batch, 3]", "f32[batch]", "f32[]", "f32[7]"]
    check_at(graph, function, (torch.randn(1, 3), torch.randn(1), torch.tensor(3.0), torch.randn(7)))
    check_at(graph, function, (torch.randn(0, 3), torch.randn(0), torch.tensor(3.0), torch.randn(7)))


def test_batch_of_one_sample_is_still_dynamic() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2)).eval()
    graph = capture(model, (torch.randn(1, 3, 4, 4),), dynamic_shapes="batch")
    assert types(graph) == ["f32[batch, 3, 4, 4]"]
    check_at(graph, model, (torch.randn(1, 3, 4, 4),), (torch.randn(5, 3, 4, 4),))


def test_derived_dims_of_a_sample_of_one() -> None:
    n = Dim("n", max=50)
    graph = captured(
        lambda x, y: x[::3] + y, torch.ones(3), torch.ones(1), dynamic_shapes={"x": {0: 3 * n}, "y": {0: n}}
    )
    assert types(graph) == ["f32[3*n]", "f32[n]"]


@pytest.mark.parametrize("word", ["auto", True])
def test_auto_finds_what_can_vary(word: Any) -> None:
    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x @ y).relu() + torch.ones(7)

    graph = captured(function, torch.ones(3, 5), torch.ones(5, 7), dynamic_shapes=word)
    assert types(graph) == ["f32[s0, s1]", "f32[s1, 7]"]
    check_at(graph, function, (torch.randn(2, 9), torch.randn(9, 7)))


def test_the_same_tensor_twice_with_a_word() -> None:
    x = torch.ones(3, 2)
    graph = captured(lambda a, b: a + b, x, x, dynamic_shapes="batch")
    assert types(graph) == ["f32[batch, 2]", "f32[batch, 2]"]


def test_nested_inputs_with_a_word() -> None:
    def function(batch: dict[str, Any]) -> torch.Tensor:
        return batch["x"] + batch["pair"][0] * batch["pair"][1]

    args = {"x": torch.ones(3, 2), "pair": (torch.ones(3, 2), 2)}
    graph = captured(function, args, dynamic_shapes="batch")
    assert types(graph) == ["f32[batch, 2]", "f32[batch, 2]"]


def test_nested_specifications_keep_names() -> None:
    def function(batch: dict[str, Any], xs: list[torch.Tensor]) -> torch.Tensor:
        return batch["x"].sum() + xs[0].sum() + xs[1].sum()

    args = ({"x": torch.ones(3, 2), "y": 1}, [torch.ones(4), torch.ones(5)])
    shapes = {"batch": {"x": {0: Dim("n")}, "y": None}, "xs": [None, {0: Dim("m")}]}
    graph = captured(function, *args, dynamic_shapes=shapes)
    assert types(graph) == ["f32[n, 2]", "f32[4]", "f32[m]"]


def test_shapes_collection() -> None:
    x = torch.ones(3, 2)
    shapes = ShapesCollection()
    shapes[x] = {0: Dim("n")}
    assert types(captured(lambda x: x + 1, x, dynamic_shapes=shapes)) == ["f32[n, 2]"]


def test_exported_program_names_its_symbols_in_order() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x.sum() + y

    shapes = {"x": {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}, "y": {0: Dim.DYNAMIC}}
    program = torch.export.export(Model(), (torch.ones(3, 4), torch.ones(5)), dynamic_shapes=shapes)
    assert types(capture(program)) == ["f32[s0, s1]", "f32[s2]"]


def test_sizes_vanish_into_attributes() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        y = x.view(batch, length, 2, width // 2).transpose(1, 2)
        return y.reshape(batch * 2, length * (width // 2)) + torch.arange(length * 2)[:length].sum()

    graph = captured(function, torch.ones(3, 5, 4), dynamic_shapes={"x": {0: Dim("b"), 1: Dim("l")}})
    assert not {node.op.name for node in graph} & {"aten.sym_size.int", "graphopt.dim"}
    assert str(graph.outputs[0].type) == "f32[2*b, 2*l]"
    check_at(graph, function, (torch.randn(2, 7, 4),), (torch.randn(1, 1, 4),))


def test_sizes_are_returned_as_numbers() -> None:
    def function(x: torch.Tensor) -> tuple[Any, ...]:
        n = x.shape[0]
        return n, n * 2, n / 4, n > 3, x * n, x / n**0.5, torch.full((n,), n / 3)

    graph = captured(function, torch.ones(5), dynamic_shapes="batch")
    check_at(graph, function, (torch.ones(2),), (torch.ones(9),))


def test_integer_inputs() -> None:
    def function(x: torch.Tensor, n: int) -> tuple[Any, ...]:
        return x[:n] * n, torch.arange(n), n + 1

    graph = captured(function, torch.ones(9), 5, dynamic_shapes=(None, Dim.DYNAMIC))
    assert isinstance(graph.inputs[1].type, ScalarType)
    check_at(graph, function, (torch.ones(9), 3), (torch.ones(9), 7))


def test_data_dependent_sizes() -> None:
    def function(x: torch.Tensor) -> tuple[Any, ...]:
        chosen = x[x > 0]
        return chosen * 2, chosen.shape[0], torch.nonzero(x)

    graph = captured(function, torch.tensor([1.0, -1.0, 2.0]))
    assert all(s.name.startswith("u") for s in all_symbols(graph))
    check_at(graph, function, (torch.tensor([-1.0, 2.0, 3.0]),), (torch.tensor([-1.0, -2.0, -3.0]),))


def test_items_become_symbols_or_tensors() -> None:
    def function(n: torch.Tensor, f: torch.Tensor) -> tuple[Any, ...]:
        size = n.max().item()
        torch._check(size >= 0)
        torch._check(size < 100)
        value = f.sum().item()
        return torch.zeros(size) + size, f * value, value, size

    graph = captured(function, torch.tensor([3, 5]), torch.tensor([1.5, 2.0]))
    (size,) = (s for s in all_symbols(graph))
    assert (size.min, size.max) == (0, 99)
    check_at(graph, function, (torch.tensor([1, 2]), torch.tensor([1.0, 4.0])))


def test_negative_data_dependent_numbers() -> None:
    def function(n: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return x * n.item()

    graph = captured(function, torch.tensor(3), torch.ones(2))
    (symbol,) = all_symbols(graph)
    assert symbol.min < -(1 << 40)
    check_at(graph, function, (torch.tensor(-4), torch.ones(2)))


def test_pooling_and_strides() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)).eval()
    shapes = {"input": {0: Dim("b"), 2: Dim("h", min=16, max=64), 3: Dim("w", min=16, max=64)}}
    graph = capture(model, (torch.randn(2, 3, 32, 24),), dynamic_shapes=shapes)
    verify(graph)
    check_at(graph, model, (torch.randn(1, 3, 17, 40),), (torch.randn(3, 3, 64, 16),))


def test_divisibility_found_by_tracing() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return x.view(4, -1) + x.view(-1, 6).sum()

    graph = captured(function, torch.ones(24), dynamic_shapes="auto")
    (size,) = graph.symbols()
    assert size.multiple_of == 12
    check_at(graph, function, (torch.randn(12),), (torch.randn(36),))
    with pytest.raises(GraphOptError, match="multiple of 12"):
        run(graph, (torch.randn(30),))
