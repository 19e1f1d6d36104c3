"""Monte Carlo arithmetic: a graph run with random rounding errors, to see which of its outputs depend on rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from graphopt.analysis import Interpreter
from graphopt.analysis.flops import node_work
from graphopt.ir import Graph, Node, TensorType, Trait, walk
from graphopt.ir.dims import UnboundSymbolError, evaluate
from graphopt.ir.types import type_symbols

STEPS = 4.0
"""The noise is up to this many ulp: about what the rounding errors of a long sum come to."""
STEPPED = 64.0
"""As many are it where step functions follow: few numbers are so near to a step that less moves them over it."""


def noise_steps(graph: Graph) -> float:
    """How many ulp of noise show what rounding does to the outputs of a graph."""
    return STEPPED if any(node.op.has(Trait.STEPS) for node in walk(graph)) else STEPS


class NoisyInterpreter(Interpreter):
    """Runs a graph with relative noise on the results of arithmetic. Data movement and integers stay exact.

    A sum is noisy in its terms, too: rounded, it is the exact sum of terms that differ by a few ulp, and where they
    cancel that is more than a few ulp of the result.

    unit: the size of an ulp; None takes that of each result's own dtype. steps: how many of them the noise is, at most.
    """

    def __init__(
        self,
        graph: Graph,
        generator: torch.Generator,
        *,
        float64: bool,
        unit: float | None,
        steps: float = STEPS,
    ) -> None:
        super().__init__(graph, float64=float64, contiguous=True)
        self.generator = generator
        self.unit = unit
        self.steps = steps
        self._operations: dict[Node, int] = {}

    def _evaluate(self, node: Node, operands: list[Any], bindings: dict[str, int]) -> Sequence[Any]:
        operations = self._operations_per_element(node)
        if operations > 1:
            operands = [self._noisy(value) for value in operands]
        results = super()._evaluate(node, operands, bindings)
        return tuple(map(self._noisy, results)) if operations else results

    def _operations_per_element(self, node: Node) -> int:
        """How many operations go into an element of the result: 0 if the operator moves data, several if it sums."""
        found = self._operations.get(node)
        if found is None:
            sizes = {s.name: 2 * s.multiple_of for v in (*node.inputs, *node.results) for s in type_symbols(v.type)}
            flops = 0 if node.regions else node_work(node, sizes)[0].flops
            found = self._operations[node] = -(-flops // max(_elements(node, sizes), 1))
        return found

    def _noisy(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        step = self.steps * (torch.finfo(value.dtype).eps if self.unit is None else self.unit)
        noise = torch.rand(value.shape, generator=self.generator, dtype=torch.float64).mul_(2 * step).add_(1 - step)
        return (value.double() * noise.to(value.device)).to(value.dtype)


def _elements(node: Node, sizes: Mapping[str, int]) -> int:
    """How many elements the first result has; few, where a size is not known."""
    type_ = node.results[0].type
    try:
        return evaluate(type_.numel, sizes) if isinstance(type_, TensorType) else 1
    except UnboundSymbolError:
        return 1
