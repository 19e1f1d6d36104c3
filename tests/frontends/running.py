"""Running a captured graph as the model was called, and comparing with eager."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphopt.analysis import Interpreter
from graphopt.frontends import capture
from graphopt.ir import Graph, Slot, verify


def run(graph: Graph, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
    """The result in the caller's structure, and the updates by name."""
    signature = graph.signature
    assert signature is not None
    leaves, tree = pytree.tree_flatten((args, dict(kwargs or {})))
    assert tree == signature.in_tree
    inputs = [leaf for leaf, where in zip(leaves, signature.in_leaves) if isinstance(where, Slot)]
    returned = Interpreter(graph).run(*inputs)
    count = len(graph.outputs)
    results = [returned[where.index] if isinstance(where, Slot) else where.value for where in signature.out_leaves]
    return pytree.tree_unflatten(results, signature.out_tree), dict(zip(graph.mutations, returned[count:]))


def same(actual: Any, expected: Any, tolerance: float = 0.0) -> None:
    """Assert equal structure, dtypes, shapes and values."""
    found, found_tree = pytree.tree_flatten(actual)
    wanted, wanted_tree = pytree.tree_flatten(expected)
    assert found_tree == wanted_tree
    for a, b in zip(found, wanted):
        if isinstance(b, torch.Tensor):
            torch.testing.assert_close(a, b.detach(), rtol=tolerance, atol=tolerance, equal_nan=True)
        else:
            assert type(a) is type(b) and a == b


def captured(function: Callable[..., Any], *args: Any, **options: Any) -> Graph:
    """Capture and verify."""
    graph = capture(function, args, **options)
    verify(graph)
    return graph


def check(function: Callable[..., Any], *args: Any, tolerance: float = 0.0, **options: Any) -> Graph:
    """Capture, run, and compare with eager, the contents of the inputs afterwards included."""
    before = copy.deepcopy(args)
    graph = captured(function, *args, **options)
    same(args, before)
    result, updates = run(graph, copy.deepcopy(args))
    mutated = copy.deepcopy(args)
    with torch.no_grad():
        expected = function(*mutated)
    same(result, expected, tolerance)
    after = dict(zip((value.name for value in graph.inputs), pytree.tree_leaves(mutated)))
    start = dict(zip(after, pytree.tree_leaves(before)))
    for name, value in after.items():
        same(updates.get(name, start[name]), value, tolerance)
    return graph
