"""Monte Carlo arithmetic: a graph run with random rounding errors, to see which of its outputs depend on rounding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphopt.analysis import Interpreter
from graphopt.analysis.flops import node_work
from graphopt.ir import Graph, Node
from graphopt.ir.types import type_symbols

STEPS = 4.0
"""The noise is up to this many ulp: about what the rounding errors of a long sum come to."""


class NoisyInterpreter(Interpreter):
    """Runs a graph with relative noise on the results of arithmetic. Data movement and integers stay exact.

    unit: the size of an ulp; None takes that of each result's own dtype.
    """

    def __init__(self, graph: Graph, generator: torch.Generator, *, float64: bool, unit: float | None) -> None:
        super().__init__(graph, float64=float64, contiguous=True)
        self.generator = generator
        self.unit = unit
        self._arithmetic: dict[Node, bool] = {}

    def _evaluate(self, node: Node, operands: list[Any], bindings: dict[str, int]) -> Sequence[Any]:
        results = super()._evaluate(node, operands, bindings)
        return tuple(map(self._noisy, results)) if self._is_arithmetic(node) else results

    def _is_arithmetic(self, node: Node) -> bool:
        """True if the operator computes: its work is not zero at any size."""
        if node not in self._arithmetic:
            sizes = {s.name: 2 * s.multiple_of for v in (*node.inputs, *node.results) for s in type_symbols(v.type)}
            self._arithmetic[node] = not node.regions and node_work(node, sizes)[0].flops > 0
        return self._arithmetic[node]

    def _noisy(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        step = STEPS * (torch.finfo(value.dtype).eps if self.unit is None else self.unit)
        noise = torch.rand(value.shape, generator=self.generator, dtype=torch.float64).mul_(2 * step).add_(1 - step)
        return (value.double() * noise.to(value.device)).to(value.dtype)
