"""How much a model minds each weight in each format.

    sqnr     Σ‖ŷ − y‖² / Σ‖y‖² of the layer's own output, on the inputs that it has in floating point
    output   the same of the model's outputs, with that layer alone quantized
    kl       the Kullback-Leibler divergence of the model's outputs as logits, with that layer alone quantized
    hessian  mean(diag H) · ‖Ŵ − W‖², with the Gauss-Newton Hessian H = JᵀJ of the outputs (as in HAWQ-V2): its trace is
             estimated by Hutchinson's method, E‖Jᵀv‖² with v of random signs

Each is an estimate of noise, and noises of layers add up: that is what the integer program takes them for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from graphopt.analysis import Interpreter, watch_values
from graphopt.errors import GraphOptError
from graphopt.ir import Graph, Node, Value
from graphopt.ops.quantization import Format, find_format
from graphopt.passes.format_search.candidates import Candidate, Scheme
from graphopt.passes.quantization.insertion import Parameters
from graphopt.passes.support.noise import energies

Sets = Sequence[Sequence[Any]]
Errors = dict[tuple[str, str], float]
"""By the names of weight and format."""

PROBES = 4
"""Random vectors a set of inputs, for the trace."""


def measure(kind: str, graph: Graph, scheme: Scheme, formats: Sequence[str], sets: Sets) -> Errors:
    """Return the sensitivity of each candidate in each format. sets: inputs to run on."""
    inputs = _inputs(graph, scheme, sets)
    return MEASURES[kind](graph, scheme, formats, sets, inputs)


def _inputs(graph: Graph, scheme: Scheme, sets: Sets) -> dict[Node, list[torch.Tensor]]:
    """What each layer reads."""
    wanted: dict[Value, list[torch.Tensor]] = {}
    sources = {node: node.operands[index] for one in scheme.candidates for node, index in zip(one.nodes, one.sources)}
    for value in sources.values():
        assert value is not None
        wanted[value] = []

    def take(value: Value, tensor: torch.Tensor) -> None:
        if value in wanted:
            wanted[value].append(tensor)

    watch_values(graph, sets, take)
    return {node: wanted[value] for node, value in sources.items() if value is not None}


class Altered(Interpreter):
    """Runs a graph with one weight replaced, and what its layers read rounded."""

    def __init__(
        self,
        graph: Graph,
        candidate: Candidate,
        weight: torch.Tensor,
        rounding: Parameters | None,
        format_: Format | None,
    ) -> None:
        super().__init__(graph)
        self.candidate = candidate
        self.weight = weight
        self.rounding = rounding
        self.format_ = format_

    def constant(self, value: Value) -> torch.Tensor:
        """The replaced weight, or what is stored."""
        return self.weight if value is self.candidate.weight else super().constant(value)

    def _evaluate(self, node: Node, operands: list[Any], bindings: dict[str, int]) -> Sequence[Any]:
        if self.rounding is not None and self.format_ is not None and node in self.candidate.nodes:
            source = self.candidate.sources[self.candidate.nodes.index(node)]
            operands = list(operands)
            operands[source] = self.rounding.rounded(operands[source], self.format_)
        return super()._evaluate(node, operands, bindings)

    def layer(self, node: Node, x: torch.Tensor) -> torch.Tensor:
        """What a layer gives for what it reads."""
        source = self.candidate.sources[self.candidate.nodes.index(node)]
        operands = [
            x if index == source else None if value is None else self.constant(value)
            for index, value in enumerate(node.operands)
        ]
        found: torch.Tensor = self._evaluate(node, operands, {})[0]
        return found


def _altered(
    graph: Graph, scheme: Scheme, candidate: Candidate, name: str, inputs: dict[Node, list[torch.Tensor]]
) -> Altered:
    rounding = scheme.activation([x for node in candidate.nodes for x in inputs[node]])
    weight = scheme.rounded(candidate, find_format(name))
    return Altered(graph, candidate, weight, rounding, scheme.activation_format)


def _sqnr(
    graph: Graph, scheme: Scheme, formats: Sequence[str], sets: Sets, inputs: dict[Node, list[torch.Tensor]]
) -> Errors:
    found: Errors = {}
    for candidate in scheme.candidates:
        plain = Altered(graph, candidate, candidate.tensor, None, scheme.activation_format)
        wanted = [plain.layer(node, x) for node in candidate.nodes for x in inputs[node]]
        for name in formats:
            altered = _altered(graph, scheme, candidate, name, inputs)
            got = [altered.layer(node, x) for node in candidate.nodes for x in inputs[node]]
            found[candidate.name, name] = relative_error(wanted, got)
    return found


def _by_outputs(compare: Callable[[list[torch.Tensor], list[torch.Tensor]], float]) -> Callable[..., Errors]:
    def errors(
        graph: Graph, scheme: Scheme, formats: Sequence[str], sets: Sets, inputs: dict[Node, list[torch.Tensor]]
    ) -> Errors:
        wanted = _outputs(Interpreter(graph), sets)
        return {
            (candidate.name, name): compare(wanted, _outputs(_altered(graph, scheme, candidate, name, inputs), sets))
            for candidate in scheme.candidates
            for name in formats
        }

    return errors


def _outputs(interpreter: Interpreter, sets: Sets) -> list[torch.Tensor]:
    count = len(interpreter.graph.outputs)
    found = [y for given in sets for y in interpreter.run(*given)[:count]]
    floats = [y for y in found if isinstance(y, torch.Tensor) and y.is_floating_point()]
    if not floats:
        raise GraphOptError("no output of the model is a floating-point tensor, so none says what quantization costs")
    return floats


def relative_error(wanted: Sequence[torch.Tensor], got: Sequence[torch.Tensor]) -> float:
    """Σ‖got − wanted‖² / Σ‖wanted‖² over several tensors."""
    signal, noise = energies(wanted, got)
    return noise / signal if signal else noise


def divergence(wanted: Sequence[torch.Tensor], got: Sequence[torch.Tensor]) -> float:
    """The mean divergence, in nats, of distributions with these logits along the last dim."""
    total = rows = 0.0
    for w, g in zip(wanted, got):
        p, q = (y.double().reshape(-1, y.shape[-1] if y.dim() else 1).log_softmax(1) for y in (w, g))
        total += float((p.exp() * (p - q)).sum())
        rows += len(p)
    return max(total / max(rows, 1.0), 0.0)


def _hessian(
    graph: Graph, scheme: Scheme, formats: Sequence[str], sets: Sets, inputs: dict[Node, list[torch.Tensor]]
) -> Errors:
    traces = hutchinson_traces(graph, [one.weight for one in scheme.candidates], sets)
    found: Errors = {}
    for candidate in scheme.candidates:
        mean = traces[candidate.weight] / max(candidate.tensor.numel(), 1)
        for name in formats:
            difference = scheme.rounded(candidate, find_format(name)).double() - candidate.tensor.double()
            found[candidate.name, name] = mean * float(difference.square().sum())
    return found


def hutchinson_traces(graph: Graph, weights: Sequence[Value], sets: Sets, probes: int = PROBES) -> dict[Value, float]:
    """Return the trace of JᵀJ for each weight, J the derivative of all outputs; the mean over the sets of inputs.

    Deterministic: the signs are drawn from a generator of its own.
    """
    generator = torch.Generator().manual_seed(0)
    interpreter = Interpreter(graph, differentiate=weights)
    leaves = [interpreter.leaf(weight) for weight in weights]
    totals = [0.0] * len(leaves)
    for given in sets:
        outputs = [y for y in interpreter.run(*given)[: len(graph.outputs)] if isinstance(y, torch.Tensor)]
        outputs = [y for y in outputs if y.requires_grad]
        if not outputs:
            raise GraphOptError("the outputs do not depend on the weights in a differentiable way")
        for probe in range(probes):
            signs = [torch.randint(0, 2, y.shape, generator=generator).to(y) * 2 - 1 for y in outputs]
            gradients = torch.autograd.grad(outputs, leaves, signs, retain_graph=probe + 1 < probes, allow_unused=True)
            for index, gradient in enumerate(gradients):
                if gradient is not None:
                    totals[index] += float(gradient.double().square().sum())
    count = max(len(sets) * probes, 1)
    return {weight: total / count for weight, total in zip(weights, totals)}


MEASURES: dict[str, Callable[..., Errors]] = {
    "sqnr": _sqnr,
    "output": _by_outputs(relative_error),
    "kl": _by_outputs(divergence),
    "hessian": _hessian,
}
