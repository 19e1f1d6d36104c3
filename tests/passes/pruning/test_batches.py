"""Batches of loaders as inputs of a graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt.errors import InputError
from graphopt.ir import Graph
from graphopt.passes.pruning.criteria.batches import read_batches, single_samples


class Scaled(nn.Module):
    def forward(self, x: Tensor, scale: Tensor, *, options: Any = None) -> Tensor:
        return x * scale + (0 if options is None else options["shift"])


X, S, T = torch.ones(4, 3), torch.full((4, 3), 2.0), torch.arange(4)


def traced(dynamic: Any = None) -> Graph:
    return graphopt.trace(Scaled(), (X, S), dynamic_shapes=dynamic)


@pytest.mark.parametrize(
    ("batch", "targets"),
    [
        ((X, S), (X, S)),
        ([X, S], [X, S]),
        (((X, S), {}), ((X, S), {})),
        (((X, S), T), T),
        (([X, S], T, 5), (T, 5)),
        ({"scale": S, "x": X, "labels": T}, None),
        (({"scale": S, "x": X}, T), T),
    ],
)
def test_what_a_batch_may_be(batch: Any, targets: Any) -> None:
    (read,) = read_batches(traced(), [batch], 9)
    assert torch.equal(read.inputs[0], X) and torch.equal(read.inputs[1], S)
    if targets is not None:
        assert type(read.targets) is type(targets) and str(read.targets) == str(targets)


def test_nested_arguments_and_keywords() -> None:
    graph = graphopt.trace(Scaled(), (X, S), {"options": {"shift": S}})
    (read,) = read_batches(graph, [((X, S), {"options": {"shift": S}})], 9)
    assert len(read.inputs) == 3


def test_the_first_of_many_batches_are_read() -> None:
    drawn = []

    def loader() -> Any:
        for i in range(100):
            drawn.append(i)
            yield X, S

    assert len(read_batches(traced(), loader(), 3)) == 3
    assert len(drawn) <= 4


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([], "no batch"),
        ([(X, S), (X, S[:, :2])], r"batch 1 .*'scale' has size 2 where the graph was captured with 3"),
        ([(X[:3], S[:3])], r"batch 0 .*size 3 .*dynamic_shapes"),
        ([(X, S.double())], r"'scale' has dtype torch.float64, expected torch.float32"),
        ([(X, T)], r"'scale' has"),
        ([X], r"it is a tensor of shape \[4, 3\], and the model takes x: f32\[4, 3\], scale"),
        ([{"x": X}], "it is a mapping of x"),
        ([(X, S, T)], "it is a tuple of a tensor"),
        ([((X, 2), T)], "'scale' must be a tensor, got int"),
        ([None], "it is NoneType"),
    ],
)
def test_batches_that_do_not_fit(loader: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_batches(traced(), loader, 9)


def test_inputs_that_disagree_on_a_dynamic_size() -> None:
    graph = traced("batch")
    assert read_batches(graph, [(X[:3], S[:3])], 9)[0].inputs[0].shape == (3, 3)
    with pytest.raises(InputError, match="batch 0"):
        read_batches(graph, [(X[:3], S)], 9)


@pytest.mark.parametrize(("dynamic", "size"), [("batch", 1), (None, 4)])
def test_single_samples(dynamic: Any, size: int) -> None:
    x = torch.randn(4, 3)
    (batch,) = read_batches(traced(dynamic), [((x, S), (T, "note"))], 9)
    samples = single_samples(traced(dynamic), batch)
    assert len(samples) == 4
    for row, sample in enumerate(samples):
        assert torch.equal(sample.inputs[0], x[row : row + 1].expand(size, 3))
        assert torch.equal(sample.targets[0], torch.full((size,), row)) and sample.targets[1] == "note"


def test_samples_that_cannot_be_told_apart() -> None:
    class Mixed(nn.Module):
        def forward(self, x: Tensor, table: Tensor) -> Tensor:
            return x @ table

    graph = graphopt.trace(Mixed(), (X, torch.ones(3, 2)))
    (batch,) = read_batches(graph, [(X, torch.ones(3, 2))], 9)
    with pytest.raises(InputError, match="told apart"):
        single_samples(graph, batch)
