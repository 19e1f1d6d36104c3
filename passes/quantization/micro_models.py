"""How long single operators take on an engine, in floating point and on integers.

Each is measured alone, as a graph of its own at the sizes of the samples: operator and clips from floats to floats, and
from integers to integers with weights as they will be stored. Conversions between the two are measured, too. What the
engine takes for a call is subtracted. Operators of one kind and size are measured once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import torch

from graphopt.ir import DType, Graph, Node, TensorType, Value, from_torch
from graphopt.ops.quantization import Format, find_format
from graphopt.passes.quantization.clipping import affine
from graphopt.passes.quantization.insertion import Inserter, Parameters, WeightOptions
from graphopt.passes.quantization.placement import Placement, activations_of, tail_of
from graphopt.passes.quantization.profiles import Fusion, Profile
from graphopt.rewrite import Rewriter
from graphopt.targets import Engine, Executable

ROUNDS = 3
SECONDS = 0.004
"""Candidates run in turn, each for about so long a round; the best round's median counts."""

LEAST = 3
"""Runs in a round, at least."""

SURE, CLEAR = 2, 1.15
"""After so many rounds, what takes so many times as long as the fastest is out of the race."""


ANY_PARAMETERS = Parameters(0.05, 0)
ANY_WEIGHTS = WeightOptions(find_format("int8"), True, False)
"""No kernel is faster for other scales."""


ANY_RANGE = (-6.4, 6.35)
ABOVE = 12.75
CLIPS: dict[str, tuple[float | str, float | str]] = {
    "aten.relu": (0.0, ABOVE),
    "aten.relu6": (0.0, 6.0),
    "aten.hardtanh": ("min_val", "max_val"),
    "aten.clamp": ("min", "max"),
}
"""The ends of clips: numbers, or the attributes that hold them."""


def any_parameters(plan: Placement, format_: Format) -> dict[Value, Parameters]:
    """Parameters for each scale of a plan. They cover no more than a clip in front leaves: kernels take the clip in."""
    found: dict[Value, Parameters] = {}
    for value in plan.pairs:
        scale, clip = plan.scale_of(value), _clip(value)
        if clip is not None or scale not in found:
            found[scale] = Parameters(*affine(*(clip or ANY_RANGE), format_, symmetric=False))
    return found


def _clip(value: Value) -> tuple[float, float] | None:
    """What a value is clipped to, if it is."""
    node = value.producer
    if node is None or node.name not in CLIPS:
        return None
    low, high = (node.attributes.get(end) if isinstance(end, str) else end for end in CLIPS[node.name])
    return ANY_RANGE[0] if low is None else float(low), ABOVE if high is None else float(high)


class Times(NamedTuple):
    """Seconds in floating point and on integers."""

    float_: float
    integer: float


@dataclass
class Timed:
    """A graph and inputs for it."""

    graph: Graph
    inputs: list[Any]


class MicroModels:
    """Measures operators and conversions on an engine. found: values of the graph at the samples' sizes."""

    def __init__(self, engine: Engine, profile: Profile, format_: Format, found: dict[Value, torch.Tensor]) -> None:
        self.engine = engine
        self.profile = profile
        self.format_ = format_
        self.found = found
        self._known: dict[Any, Times] = {}
        one, two = self._seconds([_tiny(1), _tiny(2)])
        self._call = max(2 * one - two, 0.0)

    def node(self, node: Node, fusion: Fusion, is_layer: bool) -> Times:
        """The times of an operator with the clips behind it."""
        chain = [node]
        while chain[-1].results[0] is not tail_of(node, self.profile):
            chain.append(chain[-1].results[0].users[0])
        kinds = tuple((one.op, one.attributes) for one in chain)
        key = (kinds, is_layer, *(None if v is None else tuple(self._shape(v)) for v in node.operands))
        if key not in self._known:
            float_ = _Operator(chain, fusion, is_layer, self.found)
            integer = _Operator(chain, fusion, is_layer, self.found)
            integer.quantize(self.profile, self.format_)
            self._known[key] = self._times(float_, integer)
        return self._known[key]

    def conversions(self, value: Value) -> Times:
        """The times of quantizing a value, and of dequantizing it."""
        key = tuple(self._shape(value))
        if key not in self._known:
            self._known[key] = self._times(*(_conversion(self.found[value], self.format_, q) for q in (True, False)))
        return self._known[key]

    def _times(self, first: Timed, second: Timed) -> Times:
        return Times(*(max(seconds - self._call, 0.0) for seconds in self._seconds([first, second])))

    def _seconds(self, models: Sequence[Timed]) -> list[float]:
        return best_seconds(self.engine, models)

    def _shape(self, value: Value) -> Sequence[int]:
        return self.found[value].shape if value.constant is None else value.constant.tensor.shape


def best_seconds(engine: Engine, graphs: Sequence[Timed], rounds: int = ROUNDS) -> list[float]:
    """Return the seconds that a run of each graph takes: they run in turn, and the best round's median counts, since a
    busy machine only makes things slower. What is clearly slower than the fastest after a few rounds runs no more."""
    loaded = [(engine.load(one.graph), one.inputs) for one in graphs]
    for executable, inputs in loaded:
        executable.run(inputs)
    best = [float("inf")] * len(loaded)
    for turn in range(rounds):
        near = [index for index, seconds in enumerate(best) if turn < SURE or seconds <= CLEAR * min(best)]
        if len(near) == 1 < len(best):
            break
        for index in near:
            best[index] = min(best[index], _median(*loaded[index]))
    return best


def _median(executable: Executable, inputs: Sequence[Any]) -> float:
    times: list[float] = []
    end = perf_counter() + SECONDS
    while len(times) < LEAST or perf_counter() < end:
        start = perf_counter()
        executable.run(inputs)
        times.append(perf_counter() - start)
    return median(times)


class _Operator(Timed):
    """One operator and its clips."""

    def __init__(self, chain: Sequence[Node], fusion: Fusion, is_layer: bool, found: dict[Value, torch.Tensor]) -> None:
        super().__init__(Graph("micro"), [])
        self.fusion = fusion
        self.is_layer = is_layer
        rewriter = Rewriter(self.graph)
        known: dict[Value, Value] = {}
        made = []
        for node in chain:
            for value in node.inputs:
                if value not in known:
                    known[value] = self._given(value, found)
            operands = [None if value is None else known[value] for value in node.operands]
            made.append(rewriter.rebuild(node, operands))
            known[node.results[0]] = made[-1].results[0]
        self.node, self.last = made[0], made[-1].results[0]
        self.graph.set_outputs([self.last])

    def _given(self, value: Value, found: dict[Value, torch.Tensor]) -> Value:
        if value.constant is not None:
            return self.graph.add_constant(value.name, value.type, value.constant)
        tensor = found[value]
        self.inputs.append(tensor)
        return self.graph.add_input(f"x{len(self.inputs)}", TensorType(from_torch(tensor.dtype), tuple(tensor.shape)))

    def quantize(self, profile: Profile, format_: Format) -> None:
        """Let it run from integers to integers."""
        operands = list(dict.fromkeys(activations_of(self.node, self.fusion, self.is_layer)))
        plan = Placement(pairs=[*operands, self.last])
        (plan.layers if self.is_layer else plan.others)[self.node] = self.fusion
        given = any_parameters(plan, format_)
        inserter = Inserter(self.graph, Rewriter(self.graph), profile, format_, "micro")
        inserter.pairs(plan, given)
        if self.is_layer:
            inserter.bias(inserter.weight(self.node, self.fusion, ANY_PARAMETERS, ANY_WEIGHTS), None)
        self._cut_floats_off(format_)

    def _cut_floats_off(self, format_: Format) -> None:
        rewriter = Rewriter(self.graph)
        floats = list(self.graph.inputs)
        for index, value in enumerate(floats):
            made = next(node for node in value.users if node.name == "graphopt.quantize")
            new = self.graph.add_input(f"q{index}", made.result.type)
            rewriter.replace_value(made.result, new)
            rewriter.erase(made)
            self.inputs[index] = torch.full(self.inputs[index].shape, 100, dtype=format_.storage)
        del self.graph.inputs[: len(floats)]
        dequantize = self.graph.outputs[0].producer
        assert dequantize is not None and dequantize.operands[0] is not None
        self.graph.set_outputs([dequantize.operands[0]])
        rewriter.erase(dequantize)


def _conversion(tensor: torch.Tensor, format_: Format, quantize: bool) -> Timed:
    """A graph that does nothing but quantize or dequantize."""
    graph = Graph("micro")
    rewriter = Rewriter(graph)
    dtype = DType.F32 if quantize else format_.dtype
    value = graph.add_input("x", TensorType(dtype, tuple(tensor.shape)))
    scale = rewriter.constant(torch.tensor(ANY_PARAMETERS.scale), "scale")
    zero = rewriter.constant(torch.tensor(0, dtype=format_.storage), "zero_point", dtype=format_.dtype)
    name = "graphopt.quantize" if quantize else "graphopt.dequantize"
    graph.set_outputs([rewriter.create(name, value, scale, zero, format_.name).result])
    return Timed(graph, [tensor if quantize else torch.full(tensor.shape, 100, dtype=format_.storage)])


def _tiny(count: int) -> Timed:
    """So many operators on a single number."""
    graph = Graph("micro")
    rewriter = Rewriter(graph)
    value = graph.add_input("x", TensorType(DType.F32, (1,)))
    for name in ("aten.exp", "aten.neg")[:count]:
        value = rewriter.create(name, value).result
    graph.set_outputs([value])
    return Timed(graph, [torch.zeros(1)])
