"""Running a graph with an eye on its values: recording them, and forcing them to those of a reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from graphopt.analysis import Interpreter
from graphopt.ir import Graph, Node, Value
from graphopt.passmanager.samples import SEED

See = Callable[[Value, Any], None]
"""Called with each value of the outermost graph, as it is computed."""


@contextmanager
def fixed_seed() -> Iterator[None]:
    """Run with the same state of the global random generators each time, and put it back."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        yield


def observe(graph: Graph, inputs: Sequence[Any], see: See, *, float64: bool = False) -> list[Any]:
    """Run a graph, operands contiguous; return all returned values.

    see: called with the results of each node as they are computed, nodes of regions left out.

    Raises:
        GraphOptError: the graph does not run, or not in float64.
    """

    def observer(node: Node, results: Sequence[Any]) -> None:
        if node.graph is graph:
            for value, result in zip(node.results, results):
                see(value, result)

    with fixed_seed():
        return Interpreter(graph, contiguous=True, float64=float64, observer=observer).run(*inputs)


def record(graph: Graph, inputs: Sequence[Any], *, float64: bool = False) -> tuple[dict[Value, Any], list[Any]]:
    """Run a graph; return each value of the outermost graph (inputs included) and all returned values.

    Raises:
        GraphOptError: the graph does not run, or not in float64.
    """
    values: dict[Value, Any] = {value: _widened(given, float64) for value, given in zip(graph.inputs, inputs)}
    returned = observe(graph, inputs, values.__setitem__, float64=float64)
    return values, returned


def _widened(given: Any, float64: bool) -> Any:
    return given.double() if float64 and isinstance(given, torch.Tensor) and given.is_floating_point() else given


class _Forced(Interpreter):
    def __init__(self, graph: Graph, reference: Mapping[Value, Any], see: See) -> None:
        super().__init__(graph, contiguous=True)
        self.reference = reference
        self.see = see

    def _evaluate(self, node: Node, operands: list[Any], bindings: dict[str, int]) -> Sequence[Any]:
        results = super()._evaluate(node, operands, bindings)
        if node.graph is not self.graph:
            return results
        forced = []
        for value, result in zip(node.results, results):
            self.see(value, result)
            forced.append(like(self.reference[value], result) if value in self.reference else result)
        return tuple(forced)


def observe_forced(graph: Graph, inputs: Sequence[Any], reference: Mapping[Value, Any], see: See) -> None:
    """Run a graph so that each node reads what the reference has for its operands, where the reference has them.

    see: called with what a node computes from these. So it tells the error that the node itself makes, together with
    those nodes before it that the reference knows nothing of.

    Raises:
        GraphOptError: the graph does not run.
    """
    with fixed_seed():
        _Forced(graph, reference, see).run(*inputs)


def like(reference: Any, computed: Any) -> Any:
    """The reference in the dtype of what was computed, as the operator's own rounding would have it."""
    if isinstance(computed, torch.Tensor):
        fits = isinstance(reference, torch.Tensor) and reference.shape == computed.shape
        return reference.to(computed.dtype).contiguous() if fits else computed
    return reference if type(reference) is type(computed) else computed
