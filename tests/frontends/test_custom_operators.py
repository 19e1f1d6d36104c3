"""Operators from `torch.library` pass through, those that write included."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from graphopt.errors import CaptureError
from graphopt.frontends import capture
from tests.frontends.running import captured, check, run, same


@pytest.fixture(scope="module", autouse=True)
def library() -> Iterator[None]:
    with torch.library._scoped_library("frontend_test", "FRAGMENT") as lib:
        lib.define("scale(Tensor x, float by, SymInt[] sizes=[]) -> Tensor")
        lib.impl("scale", lambda x, by, sizes=(): x * by, "CompositeExplicitAutograd")
        lib.impl("scale", lambda x, by, sizes=(): torch.empty_like(x), "Meta")
        lib.define("bump(Tensor(a!) x, Tensor y) -> Tensor")

        def bump(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            x.add_(y)
            return x * 10

        lib.impl("bump", bump, "CompositeExplicitAutograd")
        lib.impl("bump", lambda x, y: torch.empty_like(x), "Meta")
        lib.define("fill_all(Tensor(a!)[] xs, float value) -> ()")
        lib.impl("fill_all", lambda xs, value: [x.fill_(value) for x in xs] and None, "CompositeExplicitAutograd")
        lib.impl("fill_all", lambda xs, value: None, "Meta")
        lib.define("count(Tensor x) -> Tensor")
        lib.impl("count", lambda x: x.new_zeros(int(x.sum())), "CPU")
        yield


def test_functional_operator_is_opaque() -> None:
    graph = check(lambda x: torch.ops.frontend_test.scale(x, 2.0, [x.shape[0], 3]) + 1, torch.ones(3))
    assert [node.op.name for node in graph] == ["frontend_test.scale", "aten.add.Scalar"]
    assert graph.nodes[0].attributes["sizes"] == (3, 3)


def test_sizes_in_attributes_stay_symbolic() -> None:
    graph = captured(
        lambda x: torch.ops.frontend_test.scale(x, 2.0, [x.shape[0] * 2]), torch.ones(3), dynamic_shapes="batch"
    )
    assert str(graph.nodes[0].attributes["sizes"][0]) == "2*batch"


def test_operator_that_writes_runs_on_copies() -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x.clone()
        row = y[0]
        z = torch.ops.frontend_test.bump(row, row * 2)
        return y, z, row

    graph = check(function, torch.ones(2, 3))
    assert "functionalized.frontend_test.bump" in {node.op.name for node in graph}


def test_operator_that_writes_to_a_list() -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        a, b = x.clone(), x.clone()
        torch.ops.frontend_test.fill_all([a[0], b], 3.0)
        return a, b

    check(function, torch.ones(2, 3))


def test_operator_that_writes_to_an_input() -> None:
    graph = check(lambda x: torch.ops.frontend_test.bump(x, x.clone()), torch.ones(2, 3))
    assert graph.mutations == ("x",)
    result, updates = run(graph, (torch.ones(2, 3),))
    same(updates["x"], torch.full((2, 3), 2.0))
    same(result, torch.full((2, 3), 20.0))


def test_missing_fake_implementation_is_explained() -> None:
    with pytest.raises(CaptureError, match="register_fake"):
        capture(lambda x: torch.ops.frontend_test.count(x), (torch.ones(3),))
