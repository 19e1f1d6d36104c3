"""Which operators are worth running on integers: the profit guard of single layers.

Operators are timed alone (`micro_models`), and so are conversions between floats and integers. What then runs fastest
in all is a small integer program: x says which operators compute in integers, q and d at which values floats are
quantized and integers dequantized,

    min Σ tᵢ(xᵢ) + Σ Q(v)·q(v) + Σ D(v)·d(v)   with   q(v) ≥ x(reader) − x(producer),  d(v) ≥ x(producer) − x(reader)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from graphopt.analysis import watch_values
from graphopt.ir import Graph, Node, Value
from graphopt.ops.quantization import Format
from graphopt.passes.quantization.insertion import Inserter
from graphopt.passes.quantization.integer_program import IntegerProgram
from graphopt.passes.quantization.micro_models import (
    ANY_PARAMETERS,
    ANY_WEIGHTS,
    MicroModels,
    Timed,
    Times,
    any_parameters,
    best_seconds,
)
from graphopt.passes.quantization.placement import Placement, activations_of, place, tail_of
from graphopt.passes.quantization.profiles import Fusion, Profile
from graphopt.passmanager import PassContext
from graphopt.rewrite import Rewriter
from graphopt.targets import Engine

CONVERSIONS = (1.0, 4.0, 16.0)
"""What conversions are taken to cost, times what was measured."""

WHOLE_ROUNDS = 7
GAIN = 0.98
"""What a graph with integers may take of the time in floating point, at most; nearer is noise."""


@dataclass(frozen=True)
class Measured:
    """What was measured of a graph: the times of each operator of a plan, and of conversions of the values between."""

    nodes: dict[Node, Times]
    conversions: dict[Value, Times]


def measure(
    graph: Graph, plan: Placement, profile: Profile, format_: Format, engine: Engine, inputs: Sequence[Any]
) -> Measured:
    """Time the operators of a plan on an engine. format_: of activations. inputs: that give the sizes."""
    fusions = {**plan.layers, **plan.others}
    wanted = {value for node in fusions for value in (*node.inputs, tail_of(node, profile))}
    models = MicroModels(engine, profile, format_, _values(graph, wanted, inputs))
    nodes = {
        node: models.node(node, fusion, node in plan.layers) if _works(node, fusion) else Times(0.0, 0.0)
        for node, fusion in fusions.items()
    }
    flow = Flow(plan, profile)
    return Measured(nodes, {value: models.conversions(value) for value in flow.values})


def _works(node: Node, fusion: Fusion) -> bool:
    """Whether an operator does more than move elements."""
    return fusion.result != "same" or node.name == "aten.max_pool2d"


def _values(graph: Graph, wanted: set[Value], inputs: Sequence[Any]) -> dict[Value, torch.Tensor]:
    found: dict[Value, torch.Tensor] = {}

    def take(value: Value, tensor: torch.Tensor) -> None:
        if value in wanted:
            found[value] = tensor

    watch_values(graph, [inputs], take)
    return found


class Flow:
    """Which operators of a plan make and read which values.

    values: that stand between, in graph order. producers: of them, where the plan has them. readers: those of the plan
    that take them as integers. has_float_reader: whether something reads them as floats in any case.
    """

    def __init__(self, plan: Placement, profile: Profile) -> None:
        fusions = {**plan.layers, **plan.others}
        self.producers = {tail_of(node, profile): node for node in fusions}
        self.readers: dict[Value, list[Node]] = {value: [] for value in plan.pairs}
        for node, fusion in fusions.items():
            for value in dict.fromkeys(activations_of(node, fusion, node in plan.layers)):
                self.readers.setdefault(value, []).append(node)
        self.values = [value for value in self.readers if value.constant is None]
        self.free = {tail_of(node, profile) for node, fusion in fusions.items() if fusion.result == "any"}

    def has_float_reader(self, value: Value) -> bool:
        """Whether something that the plan leaves in floating point reads a value."""
        return any(user not in self.readers[value] for user in value.users)


class SpeedProgram:
    """The time of a graph as terms over the variables of a program.

    integer: the variable of each operator that says whether it runs on integers. terms, constant: the time in seconds
    is constant + Σ terms[i]·x[i].
    """

    def __init__(self, program: IntegerProgram, plan: Placement, profile: Profile, measured: Measured) -> None:
        self.program = program
        self.integer = {node: program.variable() for node in measured.nodes}
        self.terms = {self.integer[node]: times.integer - times.float_ for node, times in measured.nodes.items()}
        self.constant = sum(times.float_ for times in measured.nodes.values())
        flow = Flow(plan, profile)
        for value in flow.values:
            self._conversions(value, flow, measured.conversions[value])
        for node in plan.others:  # is run on integers only if its result is read so
            readers = flow.readers.get(tail_of(node, profile), [])
            if readers:
                program.constrain({self.integer[node]: 1.0, **{self.integer[r]: -1.0 for r in readers}}, high=0.0)

    def _conversions(self, value: Value, flow: Flow, times: Times) -> None:
        producer = flow.producers.get(value)
        made = {} if producer is None else {self.integer[producer]: 1.0}
        quantized = self._variable(times.float_)
        for reader in flow.readers[value]:
            self.program.constrain({quantized: 1.0, self.integer[reader]: -1.0, **made}, low=0.0)
        if producer is None or value in flow.free:
            return
        dequantized = self._variable(times.integer)
        if flow.has_float_reader(value):
            self.program.constrain({dequantized: 1.0, self.integer[producer]: -1.0}, low=0.0)
        for reader in flow.readers[value]:
            terms = {dequantized: 1.0, self.integer[producer]: -1.0, self.integer[reader]: 1.0}
            self.program.constrain(terms, low=0.0)

    def _variable(self, seconds: float) -> int:
        variable = self.program.variable()
        self.terms[variable] = seconds
        return variable

    def seconds(self, solution: Sequence[int]) -> float:
        """The time of a solution."""
        return self.constant + sum(factor * solution[variable] for variable, factor in self.terms.items())


class Guard:
    """Says which operators of a plan are to stay in floating point, since the graph then runs fastest.

    What the program chooses is a prediction: engines lay values out differently for floats and integers, which single
    operators do not tell. So whole graphs are timed, with scales that mean nothing: in floating point, all on integers,
    and as the program chooses if conversions cost what was measured, or a multiple of that. The fastest wins.

    slow: what stays, by the name of its result, and why.
    notes: what was measured, or why nothing was.
    """

    def __init__(self, graph: Graph, plan: Placement, profile: Profile, format_: Format, context: PassContext) -> None:
        self.slow: dict[str, str] = {}
        self.notes: list[str] = []
        self._measured: dict[Node, Times] = {}
        self._by_name: dict[str, Times] = {}
        self._plan = plan
        reason = why_unmeasured(graph, context)
        if reason is not None:
            self.notes.append(f"the speed of layers was not measured: {reason}")
            return
        assert context.engine is not None
        measured = measure(graph, plan, profile, format_, context.engine, context.samples[0])
        self._measured = measured.nodes
        self._by_name = {node.results[0].name: times for node, times in measured.nodes.items()}
        whole = WholeGraph(graph, plan, profile, format_)
        choices = [dict[Node, str](), *(slower(plan, profile, measured, factor) for factor in CONVERSIONS)]
        self._choose(choices, whole, context.engine, list(context.samples[0]))

    def _choose(self, choices: list[dict[Node, str]], whole: WholeGraph, engine: Engine, inputs: list[Any]) -> None:
        distinct = list({tuple(choice): choice for choice in choices}.values())
        graphs = [whole.graph, *(whole.quantized(choice) for choice in distinct)]
        before, *after = best_seconds(engine, [Timed(one, inputs) for one in graphs], WHOLE_ROUNDS)
        best = min(range(len(distinct)), key=after.__getitem__)
        float_, integer = (f"{1e3 * seconds:.3g} ms" for seconds in (before, after[best]))
        if after[best] < GAIN * before:
            self.slow = {node.results[0].name: why for node, why in distinct[best].items()}
            self.notes.append(
                f"the graph takes {integer} with these layers on integers, and {float_} in floating point"
            )
            return
        told = f"the graph takes {float_} in floating point and {integer} at best with some on integers"
        self.slow = {node.results[0].name: f"{_why(times)}; {told}" for node, times in self._measured.items()}

    @property
    def pays(self) -> bool:
        """Whether any layer is to run on integers."""
        return any(node.results[0].name not in self.slow for node in self._plan.layers)

    def left(self) -> list[str]:
        """A sentence for each layer that stays."""
        found = [(node, self.slow.get(node.results[0].name)) for node in self._plan.layers]
        return [f"{node!r} stays in floating point: {why}" for node, why in found if why is not None]

    def milliseconds(self, node: Node) -> tuple[float, float] | None:
        """What an operator takes alone, in floating point and on integers."""
        times = self._by_name.get(node.results[0].name)
        return None if times is None else (1e3 * times.float_, 1e3 * times.integer)


def why_unmeasured(graph: Graph, context: PassContext) -> str | None:
    """Why the speed of operators cannot be measured, or None."""
    if context.engine is None:
        return "the target has no engine"
    if not context.samples:
        return "there are no example inputs"
    return context.engine.unsupported(graph)


class WholeGraph:
    """Makes graphs that are quantized with scales that mean nothing, to be timed."""

    def __init__(self, graph: Graph, plan: Placement, profile: Profile, format_: Format) -> None:
        self.graph = graph
        self.profile = profile
        self.format_ = format_
        self.known = {node.results[0].name for node in (*plan.layers, *plan.others)}

    def quantized(self, floats: Mapping[Node, str]) -> Graph:
        """A copy with the plan's operators on integers, but for `floats`."""
        copy = self.graph.clone()
        names = self.known - {node.results[0].name for node in floats}
        plan = place(copy, self.profile, lambda node: None if node.results[0].name in names else "it is to be timed")
        inserter = Inserter(copy, Rewriter(copy), self.profile, self.format_, "timing")
        inserter.pairs(plan, any_parameters(plan, self.format_))
        for node, fusion in plan.layers.items():
            inserter.bias(inserter.weight(node, fusion, ANY_PARAMETERS, ANY_WEIGHTS), None)
        return copy


def slower(plan: Placement, profile: Profile, measured: Measured, factor: float = 1.0) -> dict[Node, str]:
    """The operators that are to stay in floating point since the graph then runs fastest, and why.

    factor: what conversions cost, times what was measured.
    """
    program = IntegerProgram()
    speed = SpeedProgram(program, plan, profile, measured)
    operators = set(speed.integer.values())
    for variable, seconds in speed.terms.items():
        program.costs[variable] = seconds if variable in operators else factor * seconds
    solution = program.solve()
    assert solution is not None, "all in floating point is a solution"
    return {node: _why(measured.nodes[node]) for node, variable in speed.integer.items() if not solution[variable]}


def _why(times: Times) -> str:
    float_, integer = (f"{1e3 * seconds:.3g} ms" for seconds in times)
    found = f"it takes {integer} on integers and {float_} in floating point"
    return found if times.integer >= times.float_ else f"{found}, and converting for it takes more than that"
