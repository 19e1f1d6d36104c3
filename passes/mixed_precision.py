"""Mixed precision: products of matrices and convolutions in half precision, what is delicate in single precision.

    y = f(x, W)   →   y = float(f(half(x), W₁₆)),   W₁₆ = half(W), stored

Elementwise operators follow if all that they read comes in half precision, so there are casts at the borders alone.
Values that half precision cannot hold, by calibration data or as they are stored, stay as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from graphopt.analysis import run_graph
from graphopt.errors import GraphOptError, TypeInferenceError, requested, unknown_name
from graphopt.ir import DType, Graph, Node, Value
from graphopt.passes.quantization.precision import (
    FOLLOWING,
    FORMATS,
    REDUCED,
    TABLES,
    Limits,
    beside_quantization,
    is_single,
    reaches,
)
from graphopt.passes.support.constants import drop_unused, take_name
from graphopt.passes.support.data import some_batches
from graphopt.passes.support.globs import check_globs, first_fitting, names_of
from graphopt.passes.support.noise import decibels
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter

_NOTHING = "nothing runs in half precision: no convolution or product of single precision is left to it"
_NO_DATA = "no data was given, so activations were not checked for overflow: give calibration=, or example inputs"
REPORT_SAMPLES = 8
"""Errors of outputs are measured on so many sets of inputs at most."""


@dataclass(frozen=True)
class MixedPrecision(Pass):
    """Run convolutions, products of matrices and attention in half precision; inputs and outputs keep their types.

    dtype: float16 or bfloat16. margin: a value that reaches beyond this share of the format's greatest number, on the
        calibration data or else on the sample inputs, stays in single precision.
    ignore: operators that stay in single precision, by name or glob of the operator, of its result or of its module.
    samples: how many batches of calibration data are used, at most.
    only_if_faster: measure the result on the engine, and leave the graph as it was where it is no faster.

    Weights are stored in half precision. Where the result is trained they stay single, and are cast as they are read.
    """

    contract = Contract.LOSSY
    establishes = frozenset({"reduced-precision"})

    dtype: str = "float16"
    margin: float = 0.5
    ignore: tuple[str, ...] = ()
    samples: int = 32
    only_if_faster: bool = False

    @property
    def must_speed_up(self) -> bool:  # type: ignore[override]
        """Whether the manager reverts what is no faster."""
        return self.only_if_faster

    def __post_init__(self) -> None:
        if self.dtype not in FORMATS:
            raise unknown_name("half-precision format", self.dtype, FORMATS)
        if not 0 < self.margin <= 1:
            raise GraphOptError(f"margin is {self.margin}; it is a share of the greatest number, above 0 and at most 1")
        if self.samples < 1:
            raise GraphOptError(f"samples is {self.samples}; at least one is needed")

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place.

        Raises:
            InputError: calibration data that do not fit the inputs.
            UnknownNameError: a name in `ignore` that nothing has.
        """
        with requested():
            self._check_names(graph)
            sets = self._sets(graph, context)
        limits = Limits(FORMATS[self.dtype], self.margin, reaches(graph, sets))
        rewriter = Rewriter(graph, context.listeners)
        report = MixedPrecisionReport(self.dtype)
        before = [run_graph(graph, *inputs) for inputs in sets[:REPORT_SAMPLES]]
        lowering = _Lowering(rewriter, limits, report, self.name, context.trainable)
        for node in list(graph):
            self._visit(node, lowering)
        lowering.finish()
        if not report.operators:
            return PassResult(rewriter.changed, notes=[_NOTHING, *report.left])
        report.outputs = _figures(graph, before, sets)
        notes = report.lines() + ([] if sets else [_NO_DATA])
        return PassResult(rewriter.changed, notes=notes, details=report)

    def _visit(self, node: Node, lowering: _Lowering) -> None:
        """Bring one node to half precision if that is its place."""
        reduced = node.op.base in REDUCED
        if not (reduced or (node.op.base in FOLLOWING and lowering.comes_in_half(node))):
            return
        if not all(is_single(v) or not _is_floating(v) for v in (*node.operands, *node.results) if v is not None):
            return
        ignored = first_fitting(self.ignore, names_of(node))
        if ignored is not None:
            lowering.leave(node, f"ignored as {ignored!r}")
        elif beside_quantization(node):
            lowering.leave(node, "it stands beside quantization")
        else:
            lowering.lower(node)

    def _sets(self, graph: Graph, context: PassContext) -> list[Sequence[Any]]:
        return list(some_batches(graph, context, self.samples))

    def _check_names(self, graph: Graph) -> None:
        known = sorted({name for node in graph for name in names_of(node)})
        check_globs(self.ignore, known, "operator", f"It was given to {self.name} as one to ignore.")


class _Lowering:
    """Writes nodes in half precision, and remembers which values there are in it."""

    def __init__(
        self, rewriter: Rewriter, limits: Limits, report: MixedPrecisionReport, rule: str, trains: bool
    ) -> None:
        self.rewriter, self.limits, self.report, self.rule, self.trains = rewriter, limits, report, rule, trains
        self.halves: dict[Value, Value] = {}
        self.made: set[Value] = set()
        self.casts: list[Node] = []
        self.stored: list[Value] = []

    def comes_in_half(self, node: Node) -> bool:
        """True if every activation of single precision that a node reads was made in half precision."""
        read = [v for v in node.operands if v is not None and v.constant is None and is_single(v)]
        return bool(read) and all(value in self.made for value in read)

    def leave(self, node: Node, reason: str) -> None:
        """Note why a node stays in single precision."""
        self.report.left.append(f"{node!r} stays in float32: {reason}")

    def lower(self, node: Node) -> None:
        """Write a node in half precision between casts, unless something that it reads or makes does not fit."""
        for value in (*node.operands, *node.results):
            objection = self.limits.objection(value) if value is not None and is_single(value) else None
            if objection is not None:
                self.leave(node, objection)
                return
        with self.rewriter.at(node, self.rule):
            operands = [self._half(value) if is_single(value) else value for value in node.operands]
            try:
                lowered = self.rewriter.rebuild(node, operands)
            except TypeInferenceError as error:
                self.leave(node, str(error))
                return
            results = [self._wide(result) for result in lowered.results]
        for old, new in zip(node.results, results):
            if old in self.limits.seen:
                self.limits.seen[new] = self.limits.seen[old]
            if new in self.halves and node.op.base not in TABLES:
                self.made.add(new)
        self.rewriter.replace(node, results)
        self.report.operators[lowered.op.base] += 1

    def _half(self, value: Value | None) -> Value:
        assert value is not None
        if value not in self.halves:
            if value.constant is not None and not self.trains and value.name not in self.rewriter.graph.mutations:
                tensor = value.constant.tensor.detach().to(self.limits.dtype.torch)
                self.halves[value] = self.rewriter.constant_like(value, tensor)
                self.stored.append(value)
            else:
                self.halves[value] = self._cast(value, self.limits.dtype)
        return self.halves[value]

    def _wide(self, value: Value) -> Value:
        if not _is_floating(value):
            return value
        wide = self._cast(value, DType.F32)
        self.halves[wide] = value
        return wide

    def _cast(self, value: Value, dtype: DType) -> Value:
        node = self.rewriter.create("aten._to_copy", value, dtype=dtype)
        self.casts.append(node)
        return node.result

    def finish(self) -> None:
        """Drop casts and weights that nothing reads any more."""
        unread = [node for node in self.casts if not node.result.num_uses]
        for node in unread:
            self.rewriter.erase(node)
        for value in self.stored:
            drop_unused(self.rewriter, value)
            take_name(self.rewriter, self.halves[value], value.name)
        self.report.casts = len(self.casts) - len(unread)


def _is_floating(value: Value) -> bool:
    return getattr(value.type, "dtype", DType.I64).is_floating


@dataclass(frozen=True)
class OutputFigures:
    """One output. noise: its signal-to-noise ratio in decibels. error: the largest difference. scale: the largest
    number."""

    name: str
    noise: float
    error: float
    scale: float


@dataclass
class MixedPrecisionReport:
    """operators: how many of each run in half precision. casts: between the two. left: what stayed single, and why.

    outputs: how far they are from those of single precision, on the data.
    """

    dtype: str
    operators: Counter[str] = field(default_factory=Counter)
    casts: int = 0
    left: list[str] = field(default_factory=list)
    outputs: list[OutputFigures] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"operators": dict(self.operators)}

    def lines(self) -> list[str]:
        """Sentences."""
        counts = ", ".join(f"{count} {name.partition('.')[2]}" for name, count in sorted(self.operators.items()))
        errors = [
            f"output %{o.name}: {o.noise:.1f} dB, largest error {o.error:.3g} of {o.scale:.3g}" for o in self.outputs
        ]
        return [f"in {self.dtype}: {counts}; {self.casts} casts", *errors, *self.left]


def _figures(graph: Graph, before: list[list[Any]], sets: Sequence[Sequence[Any]]) -> list[OutputFigures]:
    found = []
    after = [run_graph(graph, *inputs) for inputs in sets[:REPORT_SAMPLES]]
    for index, value in enumerate(graph.returned):
        if not _is_floating(value) or not before:
            continue
        old, new = (torch.cat([run[index].double().reshape(-1) for run in runs]) for runs in (before, after))
        change = new - old
        noise = decibels(float(old.square().sum()), float(change.square().sum()))
        largest = [float(x.abs().max()) if x.numel() else 0.0 for x in (change, old)]
        found.append(OutputFigures(value.name, noise, *largest))
    return found
