"""AdaRound (Nagel et al., 2020): learn for each weight whether it is rounded up or down.

    W̃ = s · clamp(⌊W / s⌋ + h(V) + z, low, high) − s z        h(V) = clamp(1.2 σ(V) − 0.1, 0, 1)

    V = argmin ‖f(W x + b) − f(W̃ x̂ + b)‖² / N + λ · mean(1 − |2 h(V) − 1|^β)

f is the activation behind the layer, x what it reads in floating point, x̂ what it reads with all before it quantized,
and N the error of rounding to the nearest. β falls from 20 to 2: in the beginning h is free, in the end it is 0 or 1.
A layer for which that is no better than the nearest, on all the positions that were kept, is rounded to the nearest.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from graphopt.analysis import Interpreter
from graphopt.errors import GraphOptError
from graphopt.ir import Graph, Node, Value
from graphopt.ir.dims import evaluate as evaluate_dim
from graphopt.ops import torch_arguments
from graphopt.passes.quantization.rounding import Lattice, Rounding, source_index
from graphopt.passes.weight_pruning.layers import Layer

KEPT = 1 << 21
"""The elements of inputs that are kept of each layer, at most."""
BATCH = 256
RATE = 0.02
REGULARIZATION = 1.0
FIRST, LAST, FREE = 20.0, 2.0, 0.2
"""β in the beginning and in the end, and the share of the iterations without the second term."""
_LOW, _HIGH = -0.1, 1.1
_HASH, _RANGE = 2654435761, 1 << 32

_ACTIVATIONS = "relu relu6 hardtanh clamp leaky_relu sigmoid tanh gelu silu hardswish hardsigmoid elu mish softplus"
_DIFFERENTIABLE = frozenset(f"aten.{name}" for name in _ACTIVATIONS.split())

Function = Callable[[torch.Tensor], torch.Tensor]
_log = logging.getLogger(__name__)


class AdaRounding(Rounding):
    """Learns the rounding of each layer's weight in turn. `graph` may change between two of them.

    iterations: of Adam, for each layer. sequential: what a layer reads is taken from the graph as it is by then, unless
    several nodes read its weight.
    """

    def __init__(
        self,
        graph: Graph,
        nodes: Sequence[Node],
        sets: Sequence[Sequence[Any]],
        iterations: int = 1000,
        sequential: bool = True,
    ) -> None:
        super().__init__(nodes)
        self._graph, self._sets, self._iterations, self._sequential = graph, sets, iterations, sequential
        self._functions = {weight: _following(layer) for weight, layer in self.layers.items()}
        self._biases = {weight: _bias(layer) for weight, layer in self.layers.items()}
        self._kept = {weight: Positions(_limit(layer)) for weight, layer in self.layers.items()}
        _record(graph, {layer: self._kept[layer.weight] for layer in self.layers.values()}, sets)

    def rounded(self, layer: Layer, matrices: torch.Tensor, lattice: Lattice) -> torch.Tensor:
        """By the output of the layer, behind its activation."""
        kept = self._kept[layer.weight]
        if not kept.count:
            raise GraphOptError("the data does not reach it")
        _log.info("learning the rounding of %s, one of %d layers", layer.name, len(self.layers))
        wanted = given = kept.tensor()
        if self._sequential and len(layer.readers) == 1:
            again = Positions(None, kept.level)
            _record(self._graph, {layer: again}, self._sets)
            given = again.tensor()
        bias, function = self._biases[layer.weight], self._functions[layer.weight]

        def outputs(numbers: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            found = x @ numbers.transpose(1, 2)
            return function(found if bias is None else found + bias)

        with torch.no_grad():
            target = outputs(matrices, wanted)
        return learned(matrices, lattice, given, target, outputs, self._iterations)


def learned(
    matrices: torch.Tensor,
    lattice: Lattice,
    x: torch.Tensor,
    target: torch.Tensor,
    outputs: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    iterations: int,
) -> torch.Tensor:
    """Return integers [groups, rows, columns].

    matrices: the weights. x: [groups, positions, columns]. target: what `outputs` of weights and x should give.

    Raises:
        GraphOptError: they are no better than the nearest.
    """
    nearest = lattice.nearest(matrices)
    with torch.no_grad():
        reference = _error(outputs(lattice.numbers(nearest), x), target)
    if not reference > 0:
        raise GraphOptError("that is exact")
    down = (matrices / lattice.scales).floor()
    rest = (matrices / lattice.scales - down).clamp(1e-3, 1 - 1e-3)
    v = torch.logit((rest - _LOW) / (_HIGH - _LOW)).requires_grad_()
    down = down + lattice.zeros
    format_, generator = lattice.format_, torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam([v], lr=RATE)
    for step in range(iterations):
        rows = torch.randint(x.shape[1], (min(BATCH, x.shape[1]),), generator=generator)
        with torch.enable_grad():
            up = _up(v)
            numbers = lattice.numbers((down + up).clamp(format_.low, format_.high))
            loss = (outputs(numbers, x[:, rows]) - target[:, rows]).square().mean() / reference
            sharpness = _sharpness(step / iterations)
            if sharpness is not None:
                loss = loss + REGULARIZATION * (1 - (2 * up - 1).abs().pow(sharpness)).mean()
            (v.grad,) = torch.autograd.grad(loss, v)
        optimizer.step()
    with torch.no_grad():
        found = (down + (_up(v) >= 0.5)).clamp(format_.low, format_.high)
        error = _error(outputs(lattice.numbers(found), x), target)
    if not error < reference:
        raise GraphOptError(f"what {iterations} iterations of adaround learned is no better on the calibration data")
    return found


def _up(v: torch.Tensor) -> torch.Tensor:
    return (v.sigmoid() * (_HIGH - _LOW) + _LOW).clamp(0, 1)


def _sharpness(done: float) -> float | None:
    """β after a share of the iterations, on half a cosine; None at first."""
    if done < FREE:
        return None
    return LAST + (FIRST - LAST) * (1 + math.cos(math.pi * (done - FREE) / (1 - FREE))) / 2


def _error(found: torch.Tensor, target: torch.Tensor) -> float:
    return float((found - target).square().mean(dtype=torch.float64))


class Positions:
    """A bounded share of the positions that a layer reads, drawn by their number, however they are split into batches.

    limit: how many are kept; None keeps all of a level. level: of each 2^level positions, one is kept.
    """

    def __init__(self, limit: int | None, level: int = 0) -> None:
        self.limit, self.level, self.count = limit, level, 0
        self._parts: list[tuple[torch.Tensor, torch.Tensor]] = []

    def add(self, x: torch.Tensor) -> None:
        """Add positions, [groups, positions, columns]."""
        keys = torch.arange(self.count, self.count + x.shape[1]) * _HASH % _RANGE
        self.count += x.shape[1]
        self._parts.append((keys, x.float()))
        self._thin(1)
        while self.limit is not None and sum(len(keys) for keys, _ in self._parts) > self.limit:
            self.level += 1
            self._thin(len(self._parts))

    def tensor(self) -> torch.Tensor:
        """What was kept, [groups, positions, columns]."""
        return torch.cat([x for _, x in self._parts], 1)

    def _thin(self, last: int) -> None:
        for index in range(len(self._parts) - last, len(self._parts)):
            keys, x = self._parts[index]
            chosen = keys < _RANGE >> self.level
            self._parts[index] = keys[chosen], x[:, chosen]


def _limit(layer: Layer) -> int:
    groups, _, columns = layer.matrix_shape
    return max(BATCH, KEPT // (groups * columns))


class _Reached(Exception):
    """All that was wanted of a run is there."""


def _record(graph: Graph, wanted: dict[Layer, Positions], sets: Sequence[Sequence[Any]]) -> None:
    """Run the graph on all sets, as far as needed, and keep positions of what layers read."""
    reading: dict[Node, list[Layer]] = {}
    for layer in wanted:
        for reader in layer.readers:
            reading.setdefault(reader.node, []).append(layer)
    producers: dict[Value, list[Node]] = {}
    for node in reading:
        value = node.operands[source_index(node)]
        assert value is not None
        producers.setdefault(value, []).append(node)
    making = [node for node in graph if any(value in producers for value in node.results)]

    def take(value: Value, tensor: Any) -> None:
        for node in producers.get(value, ()):
            for layer in reading[node]:
                for piece in layer.inputs(node, tensor.detach()):
                    wanted[layer].add(piece)

    def observe(node: Node, results: Sequence[Any]) -> None:
        for value, result in zip(node.results, results):
            take(value, result)
        if making and node is making[-1]:
            raise _Reached

    interpreter = Interpreter(graph, observer=observe)
    stored = [(value, value.constant.tensor) for value in producers if value.constant is not None]
    for inputs in sets:
        for value, tensor in [*zip(graph.inputs, inputs), *stored]:
            take(value, tensor)
        try:
            interpreter.run(*inputs)
        except _Reached:
            continue


def _bias(layer: Layer) -> torch.Tensor | None:
    """What is added to the layer's matrices' outputs, [groups, 1, rows]; None where it is not stored."""
    node = layer.readers[0].node
    value = node.arguments().get("bias" if node.name != "aten.addmm" else "self")
    if not isinstance(value, Value) or value.constant is None:
        return None
    groups, rows, _ = layer.matrix_shape
    return value.constant.tensor.detach().float().expand(groups * rows).reshape(groups, 1, rows)


def _following(layer: Layer) -> Function:
    """The activation behind a layer, if nothing else reads its result; the identity otherwise."""
    node = layer.readers[0].node
    users = list(dict.fromkeys(node.result.users))
    if len(layer.readers) > 1 or len(users) != 1 or not isinstance(users[0], Node):
        return lambda y: y
    user = users[0]
    evaluate, op, attributes = user.op.evaluate, user.op, user.attributes
    if op.name not in _DIFFERENTIABLE or evaluate is None or len(user.operands) != 1:
        return lambda y: y

    def function(y: torch.Tensor) -> torch.Tensor:
        args, kwargs = torch_arguments(op, [y], attributes, lambda size: evaluate_dim(size, {}))
        result: torch.Tensor = evaluate(*args, **kwargs)
        return result

    return function
