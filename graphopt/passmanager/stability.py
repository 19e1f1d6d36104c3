"""Whether a difference is one of rounding at a tie, by Monte Carlo arithmetic.

An argmax of two equal scores, a comparison at its threshold, a router between two experts: there the last bit decides,
and no implementation is right. Such a point shows itself when the original graph runs with a random relative error of
some ulp added to the result of each arithmetic operator: its output jumps. Where the output only moves in proportion,
a difference is an error of the rewrite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphopt.analysis import Interpreter
from graphopt.analysis.flops import node_work
from graphopt.ir import Graph, Node, TensorType
from graphopt.passmanager.compare import flat, wide
from graphopt.passmanager.samples import SEED

TRIALS = 16
STEPS = 4.0
"""The noise is up to this many ulp: about what the rounding errors of a long sum come to."""
JUMP = 64.0
"""An element that moves by more than this many ulp of the output's scale has jumped."""
MARGIN = 8.0
"""How far beyond the largest jump that was seen a difference may go."""


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
            sizes = {s.name: 2 * s.multiple_of for v in (*node.inputs, *node.results) for s in _symbols(v.type)}
            self._arithmetic[node] = not node.regions and node_work(node, sizes)[0].flops > 0
        return self._arithmetic[node]

    def _noisy(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        step = STEPS * (torch.finfo(value.dtype).eps if self.unit is None else self.unit)
        noise = torch.rand(value.shape, generator=self.generator, dtype=torch.float64).mul_(2 * step).add_(1 - step)
        return (value.double() * noise.to(value.device)).to(value.dtype)


def _symbols(type_: Any) -> Sequence[Any]:
    from graphopt.ir.types import type_symbols

    return type_symbols(type_) if isinstance(type_, TensorType) else ()


def jumps(
    graph: Graph,
    inputs: Sequence[Any],
    index: int,
    gap: torch.Tensor,
    *,
    float64: bool = False,
    unit: float | None = None,
) -> bool:
    """Return whether output `index` of the graph jumps under noise wherever `gap` is positive, by as much or nearly.

    gap: by how much each element (flat) breaks its bound.
    """
    generator = torch.Generator().manual_seed(SEED)
    reference = _flat(_run(Interpreter(graph, float64=float64, contiguous=True), inputs)[index])
    if reference.shape != gap.shape:
        return False
    floor = JUMP * _unit(graph, index, unit) * _scale(reference)
    worst = torch.zeros_like(reference)
    for _ in range(TRIALS):
        noisy = NoisyInterpreter(graph, generator, float64=float64, unit=unit)
        output = _flat(_run(noisy, inputs)[index])
        if output.shape != reference.shape:
            return True  # the shape itself depends on the data
        moved = (output - reference).abs_().nan_to_num_(nan=torch.inf)
        worst = torch.maximum(worst, moved.masked_fill_(output.isnan() & reference.isnan(), 0))
        if bool(((gap <= MARGIN * worst) & (worst > floor) | (gap <= 0)).all()):
            return True
    return False


def _run(interpreter: Interpreter, inputs: Sequence[Any]) -> list[Any]:
    return flat(interpreter.run(*inputs))


def _unit(graph: Graph, index: int, unit: float | None) -> float:
    """The ulp of an output; an integer's is nothing, since any change of it is a jump."""
    type_ = graph.returned[index].type if index < len(graph.returned) else None
    if not isinstance(type_, TensorType) or not type_.dtype.is_floating:
        return 0.0
    return torch.finfo(type_.dtype.torch).eps if unit is None else unit


def _scale(reference: torch.Tensor) -> float:
    finite = reference[reference.isfinite()]
    return finite.abs().max().item() if finite.numel() else 0.0


def _flat(value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor) and not (value.is_floating_point() or value.is_complex()):
        return value.detach().reshape(-1).to("cpu", torch.float64)
    return wide(value)
