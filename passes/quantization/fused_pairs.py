"""Which pairs of quantize and dequantize the engine fused into integer kernels, read from what it says that it runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graphopt.errors import GraphOptError
from graphopt.ir import Graph, Node
from graphopt.passmanager import PassContext
from graphopt.targets import Kernel, ShowsKernels

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_MADE_UP = re.compile(r"(_token_\d+|/duplicated.*)$")
"""What ONNX Runtime adds to the names of values that it copies."""

LARGEST = 1 << 30
"""Graphs with more stored bytes are not loaded for this: the engine would write all of them down."""


@dataclass(frozen=True)
class Remaining:
    """A conversion that the engine runs.

    name: of the value that the pair stands behind. what: quantize or dequantize. why: as far as known.
    """

    name: str
    what: str
    why: str


@dataclass(frozen=True)
class FusedPairs:
    """pairs: of activations in the graph. fused: those of which no conversion is left. kernels: what runs, counted."""

    engine: str
    pairs: int
    fused: int
    remaining: list[Remaining] = field(default_factory=list)
    kernels: Mapping[str, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Sentences: the counts, then each conversion that is left."""
        found = [f"{self.engine} fused {self.fused} of {self.pairs} pairs"]
        return found + [f"{one.what} of {one.name} is left: {one.why}" for one in self.remaining]


def fused_pairs(graph: Graph, context: PassContext) -> FusedPairs | None:
    """Load the quantized graph and return what the engine made of it; None where no engine says.

    A pair remains if its quantize or its dequantize does: at the borders of what runs on integers that is how floats
    become integers, and back.
    """
    engine = context.engine
    stored = sum(v.constant.tensor.nbytes for v in graph.constants.values() if v.constant is not None)
    if not isinstance(engine, ShowsKernels) or stored > LARGEST or engine.unsupported(graph) is not None:
        return None
    try:
        kernels = engine.kernels(graph)
    except GraphOptError:  # the engine itself is checked, and reported, when the result is loaded
        return None
    pairs = [node for node in graph if node.name == "graphopt.quantize"]
    flow = _Flow(kernels, {name: _source(node) for node in pairs for name in _names(node)})
    remaining = [*map(flow.quantize, flow.of(QUANTIZE)), *map(flow.dequantize, flow.activations(DEQUANTIZE))]
    left = {one.name for one in remaining}
    fused = sum(1 for node in pairs if _source(node) not in left)
    return FusedPairs(engine.name, len(pairs), fused, remaining, dict(Counter(kernel.operator for kernel in kernels)))


def _source(node: Node) -> str:
    """The name of what a pair quantizes."""
    value = node.operands[0]
    assert value is not None
    return value.name


def _names(node: Node) -> list[str]:
    """The names of the quantized value of a pair, and of the dequantized ones."""
    given = [user.results[0].name for user in node.result.users if user.name == "graphopt.dequantize"]
    return [node.result.name, *given]


class _Flow:
    """Kernels by what they make and read. sources: of pairs, by the names of their values."""

    def __init__(self, kernels: Sequence[Kernel], sources: Mapping[str, str]) -> None:
        self.kernels = kernels
        self.sources = sources
        self.made_by = {name: kernel for kernel in kernels for name in kernel.outputs}
        self.read_by: dict[str, list[Kernel]] = {}
        for kernel in kernels:
            for name in kernel.inputs:
                self.read_by.setdefault(name, []).append(kernel)

    def of(self, operator: str) -> list[Kernel]:
        """The kernels of an operator."""
        return [kernel for kernel in self.kernels if kernel.operator == operator]

    def activations(self, operator: str) -> list[Kernel]:
        """Those of them that read what another kernel makes."""
        return [kernel for kernel in self.of(operator) if kernel.inputs[0] in self.made_by]

    def quantize(self, kernel: Kernel) -> Remaining:
        """Why a quantize is left."""
        source = self.made_by.get(kernel.inputs[0])
        why = "an input of the model is a float" if source is None else f"{source.operator} gives floats"
        return Remaining(self._name(kernel), "quantize", why)

    def dequantize(self, kernel: Kernel) -> Remaining:
        """Why a dequantize is left."""
        users = dict.fromkeys(user.operator for user in self.read_by.get(kernel.outputs[0], []))
        why = f"{' and '.join(users)} reads floats" if users else "an output of the model is a float"
        return Remaining(self._name(kernel), "dequantize", why)

    def _name(self, kernel: Kernel) -> str:
        names = [_MADE_UP.sub("", name) for name in (*kernel.outputs, kernel.inputs[0])]
        return next((self.sources[name] for name in names if name in self.sources), names[0])
