"""Choose a format for each layer: the least error within a budget, or the cheapest that keeps a metric; then quantize.

1. measure   how much each weight is minded in each format (`format_search.sensitivity`)
2. choose    by an integer program under budgets on size, multiply-adds × bits, or measured latency
3. quantize  by `quantize` or `quantize-weights`, with these formats
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from graphopt.analysis import graph_cost
from graphopt.errors import GraphOptError, requested, unknown_name
from graphopt.ir import Graph
from graphopt.ops.quantization import find_format
from graphopt.passes.format_search.candidates import (
    FLOAT_BITS,
    Candidate,
    Static,
    WeightOnly,
    bit_operations,
)
from graphopt.passes.format_search.choosing import LATENCY, Choice, Problem, Timing
from graphopt.passes.format_search.metric import Metric, cheapest_within
from graphopt.passes.format_search.report import Point, SearchReport
from graphopt.passes.format_search.sensitivity import MEASURES, Errors, measure
from graphopt.passes.pruning.criteria.batches import input_names
from graphopt.passes.quantization.layer_formats import FLOAT, settled
from graphopt.passes.quantization.preparation import pools_for_means
from graphopt.passes.quantization.profiles import profile_for
from graphopt.passes.quantization.report import QuantizationReport
from graphopt.passes.quantization.speed import measure as measure_speed
from graphopt.passes.quantization.speed import why_unmeasured
from graphopt.passes.quantize import Quantize
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.passes.support.data import batches_of
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.passmanager.options import check_names
from graphopt.rewrite import Contract, Rewriter

Cost = Literal["size", "bops", "latency"]
_FORMATS = {"static": ("int8", "int4", FLOAT), "weights": ("uint8", "uint4", FLOAT)}
_QUANTIZERS: dict[str, type[Quantize] | type[QuantizeWeights]] = {"static": Quantize, "weights": QuantizeWeights}
NOTHING = "nothing to quantize: no layer has a stored weight that could be"


@dataclass(frozen=True)
class ChooseFormats(Pass):
    """Quantize with a format for each layer, chosen by an integer program.

    scheme: `static` quantizes by `quantize`, `weights` by `quantize-weights`. quantizer: options of that pass.
    formats: what there is to choose from, with `float` among them; by default 8 bits, 4 bits and float.

    How much, at least one of these; all but the last are shares of what the model in floating point has, at most:

    size: of stored bytes. bops: of bit operations, multiply-adds × bits of weight × bits of activation. latency: of the
        measured time of the operators that can run on integers.
    max_drop: how far `metric` may fall. minimize: the cost that is then made as small as it gets: size, bops, latency.

    How sensitive layers are:

    sensitivity: sqnr, output, kl or hessian (see `format_search.sensitivity`); or metric: its drop with each layer
        alone in each format.
    metric: a function of a graph that gives a number, higher is better.
    batches: how many batches of data sensitivity is measured on. trials: how many choices the metric is asked about.

    The report lists what can be had for which cost.
    """

    contract = Contract.LOSSY
    establishes = frozenset({"quantized"})
    conflicts = frozenset({"quantized"})

    scheme: str = "static"
    quantizer: Mapping[str, Any] = field(default_factory=dict)
    formats: tuple[str, ...] = ()
    size: float | None = None
    bops: float | None = None
    latency: float | None = None
    max_drop: float | None = None
    minimize: Cost = "size"
    sensitivity: str = "sqnr"
    metric: Any = None
    batches: int = 4
    trials: int = 12

    def __post_init__(self) -> None:
        """Refuse what can be seen to be wrong without a graph.

        Raises:
            GraphOptError: a number outside its range, no budget at all, a metric that is missing or no function.
            UnknownNameError: an unknown scheme, cost, sensitivity, format or option; the message suggests near names.
        """
        for name, allowed in (
            ("scheme", tuple(_QUANTIZERS)),
            ("minimize", get_args(Cost)),
            ("sensitivity", (*MEASURES, "metric")),
        ):
            if getattr(self, name) not in allowed:
                raise unknown_name(f"value of {name}", str(getattr(self, name)), allowed)
        object.__setattr__(self, "formats", tuple(self.formats) or _FORMATS[self.scheme])
        settled({name: name for name in self.formats}, 8)
        check_names(_QUANTIZERS[self.scheme], f"{self.scheme} quantization", self.quantizer)
        for name, share in self.limits().items():
            if not 0 < share <= 1:
                raise GraphOptError(f"{name} is a share of what the model has, above 0 and at most 1; got {share!r}")
        if not self.limits() and self.max_drop is None:
            raise GraphOptError("give a budget: size, bops or latency as a share to keep, or max_drop with a metric")
        if self.max_drop is not None and not (math.isfinite(self.max_drop) and self.max_drop >= 0):
            raise GraphOptError(f"max_drop is how far the metric may fall, at least 0; got {self.max_drop!r}")
        if self.metric is None and (self.max_drop is not None or self.sensitivity == "metric"):
            raise GraphOptError("give metric=, a function that gives a number, higher is better")
        if self.metric is not None and not callable(self.metric):
            raise GraphOptError(f"metric takes a function, got {self.metric!r}")
        if self.batches < 1 or self.trials < 1:
            raise GraphOptError("batches and trials are at least 1")
        if self.scheme == "weights" and LATENCY in (
            *self.limits(),
            *([self.minimize] if self.max_drop is not None else []),
        ):
            raise GraphOptError(
                "with stored weights alone products stay in floating point, so no format changes latency"
            )

    def limits(self) -> dict[str, float]:
        """The budgets that were given, by kind of cost."""
        given = {name: getattr(self, name) for name in get_args(Cost)}
        return {name: share for name, share in given.items() if share is not None}

    @property
    def asked(self) -> str:
        """What is asked for, as text."""
        drop = {} if self.max_drop is None else {"max_drop": self.max_drop}
        return ", ".join(f"{name}={value:g}" for name, value in {**self.limits(), **drop}.items())

    def options(self) -> dict[str, Any]:
        """The options that differ from their defaults, functions by their names."""
        found = super().options()
        if "metric" in found:
            found["metric"] = getattr(self.metric, "__name__", type(self.metric).__name__)
        if found.get("formats") == _FORMATS[self.scheme]:
            del found["formats"]
        return found

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Quantize `graph` in place.

        Raises:
            GraphOptError: a budget that cannot be met, or a metric that raises or gives no number.
            InputError: no data, or data that do not fit.
        """
        rewriter = Rewriter(graph, context.listeners)
        with requested():
            if self.scheme == "static":
                pools_for_means(graph, rewriter, self.name)
            search = _Search(self, graph, context)
            if not search.scheme.candidates:
                return PassResult(rewriter.changed, notes=[NOTHING])
            choice = search.choose()
            report = search.report(choice)
        if all(format_ == FLOAT for format_ in choice.formats.values()):
            details = QuantizationReport({"layers": 0}, search=report)
            return PassResult(rewriter.changed, notes=report.lines(), details=details)
        applied = search.quantizer(choice).run(graph, search.context)
        details = applied.details or QuantizationReport({"weights": len(choice.formats)})
        details.search = report
        return PassResult(applied.changed or rewriter.changed, notes=[*report.lines(), *applied.notes], details=details)


class _Search:
    """The search on one graph."""

    def __init__(self, asked: ChooseFormats, graph: Graph, context: PassContext) -> None:
        self.asked = asked
        self.graph = graph
        self.batches = self._read(context)
        self.context = replace(context, calibration=[dict(zip(input_names(graph), b)) for b in self.batches])
        inputs = context.samples[0] if context.samples else self.batches[0]
        inner = _QUANTIZERS[asked.scheme](**asked.quantizer)
        self.scheme = (
            Static(inner, graph, profile_for(inner.profile, context), inputs)
            if isinstance(inner, Quantize)
            else WeightOnly(inner, graph, inputs)
        )
        self.inputs = inputs
        self.metric: Metric | None = None

    def _read(self, context: PassContext) -> list[list[Any]]:
        return batches_of(self.graph, context, self._most(), self.asked.name)

    def _most(self) -> int:
        """As many batches as the quantizer could use, each being of one sample at least."""
        inner = _QUANTIZERS[self.asked.scheme](**self.asked.quantizer)
        return max(inner.samples, self.asked.batches)

    def quantizer(self, choice: Choice) -> Quantize | QuantizeWeights:
        """The pass that quantizes as chosen."""
        return self.scheme.quantizer(choice.formats, choice.floats)

    def quantized(self, choice: Choice) -> Graph:
        """A copy of the graph, quantized as chosen."""
        copy = self.graph.clone()
        if any(format_ != FLOAT for format_ in choice.formats.values()):
            self.quantizer(choice).run(copy, replace(self.context, listeners=[], engine=None))
        return copy

    def choose(self) -> Choice:
        """The choice."""
        asked, limits = self.asked, self.asked.limits()
        if not self.scheme.candidates:
            return Choice({}, 0.0, {})
        if asked.metric is not None:
            self.metric = Metric(asked.metric, self.graph.clone(), self.quantized, asked.trials)
        self.problem = self._problem()
        self.problem.check(limits)
        if asked.max_drop is not None:
            assert self.metric is not None
            return cheapest_within(self.problem, self.metric, asked.minimize, limits, asked.max_drop)
        choice = self.problem.choose(limits)
        assert choice is not None, "the limits were checked"
        if self.metric is not None:
            self.metric.drop(choice)
        return choice

    def _problem(self) -> Problem:
        asked, candidates = self.asked, self.scheme.candidates
        names = [candidate.name for candidate in candidates]
        pairs = [(candidate, format_) for candidate in candidates for format_ in asked.formats]
        whole = {
            "size": float(graph_cost(self.graph).constant_bytes),
            "bops": sum(self._bops(c, FLOAT) for c in candidates),
        }
        costs = {
            "size": {(c.name, f): self._bytes(c, f) / whole["size"] for c, f in pairs},
            "bops": {(c.name, f): self._bops(c, f) / (whole["bops"] or 1.0) for c, f in pairs},
        }
        stored = sum(self._bytes(c, FLOAT) for c in candidates)
        rest = {"size": 1.0 - stored / whole["size"], "bops": 0.0}
        return Problem(names, asked.formats, self._errors(), costs, rest, self._timing())

    def _errors(self) -> Errors:
        formats = [format_ for format_ in self.asked.formats if format_ != FLOAT]
        if self.asked.sensitivity != "metric":
            return measure(self.asked.sensitivity, self.graph, self.scheme, formats, self.batches[: self.asked.batches])
        assert self.metric is not None
        found: Errors = {}
        for candidate in self.scheme.candidates:
            for format_ in formats:
                one = {other.name: FLOAT for other in self.scheme.candidates} | {candidate.name: format_}
                what = f"the model with {candidate.name} alone in {format_}"
                value = self.metric.value(self.quantized(Choice(one, 0.0, {})), what)
                found[candidate.name, format_] = max(self.metric.baseline - value, 0.0)
        return found

    def _timing(self) -> Timing | None:
        drops = self.asked.max_drop is not None
        if self.asked.latency is None and not (drops and self.asked.minimize == LATENCY):
            return None
        assert isinstance(self.scheme, Static)
        reason = why_unmeasured(self.graph, self.context)
        if reason is not None:
            raise GraphOptError(f"latency cannot be measured: {reason}")
        assert self.context.engine is not None
        scheme, engine = self.scheme, self.context.engine
        measured = measure_speed(self.graph, scheme.plan, scheme.profile, scheme.activation_format, engine, self.inputs)
        return Timing(scheme.plan, scheme.profile, measured, scheme.candidates)

    def _bytes(self, candidate: Candidate, format_: str) -> float:
        if format_ == FLOAT:
            return candidate.tensor.numel() * FLOAT_BITS / 8
        return self.scheme.bytes(candidate, find_format(format_))

    def _bops(self, candidate: Candidate, format_: str) -> float:
        return float(bit_operations(candidate, format_, self.scheme.activation_format))

    def report(self, choice: Choice) -> SearchReport:
        """What was found: the choices that nothing beats, and those that were measured."""
        asked = self.asked
        kind = asked.minimize if asked.max_drop is not None else next(iter(asked.limits()))
        errors: dict[str, dict[str, float]] = {}
        for (name, format_), error in self.problem.errors.items():
            errors.setdefault(name, {})[format_] = error
        measured = [] if self.metric is None else self.metric.choices
        choices = [*measured, choice, *self.problem.pareto(kind, {})]
        distinct = {tuple(one.formats.items()): one for one in choices}
        points = [self._point(one, one.formats == choice.formats) for one in distinct.values()]
        report = SearchReport(asked.asked, asked.sensitivity, kind, errors, choice.formats)
        report.points = sorted(points, key=lambda point: (point.costs[kind], point.error))
        if self.metric is not None:
            report.baseline = self.metric.baseline
            report.kept = asked.max_drop is None or self.metric.drop(choice) <= asked.max_drop
        return report

    def _point(self, choice: Choice, chosen: bool) -> Point:
        value = None if self.metric is None else self.metric.measured(choice)
        drop = None if value is None or self.metric is None else self.metric.baseline - value
        return Point(choice.counts(), choice.error, choice.costs, value, drop, chosen)
