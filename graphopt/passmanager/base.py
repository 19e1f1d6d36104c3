"""The contract of a pass."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from graphopt.errors import unknown_name
from graphopt.ir import Graph, Node, verify
from graphopt.passmanager.context import PassContext
from graphopt.rewrite import Contract, Listener, Rewriter, RewriteStatistics, Rule, RuleSet, apply_rules


def kebab_case(name: str) -> str:
    """Return `FoldBatchNorm` as `fold-batch-norm`.

    >>> kebab_case("FoldBatchNorm")
    'fold-batch-norm'
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()


@dataclass(slots=True)
class PassResult:
    """What a pass did.

    changed: whether the graph was touched; the manager trusts it to skip checks, and tests hold it to it.
    statistics: the rules' counts, where the pass is made of rules.
    notes: sentences for the report, such as why something was left alone.
    details: a report of the pass's own, with `to_dict()` as JSON values.
    """

    changed: bool
    statistics: RewriteStatistics | None = None
    notes: list[str] = field(default_factory=list)
    details: Any = None


@dataclass(frozen=True)
class Pass:
    """A graph-to-graph rewrite. A subclass is a frozen dataclass; its fields are its options.

    name: the name in pipelines and on the command line; by default the class name in kebab case.
    contract: what the pass promises about numbers.
    requires, conflicts: properties of a graph (such as "quantized") that must, and must not, hold before.
    establishes, preserves: properties that hold after, and that survive; None preserves everything.
    must_speed_up: whether the manager measures the result on the context's engine and reverts what isn't faster.
    idempotent: whether it claims that a second run changes nothing; `graphopt.testing.check_pass` holds it to that.

    Calling a pass on a graph returns a new graph and leaves the old one alone.
    """

    name: ClassVar[str] = ""
    contract: ClassVar[Contract] = Contract.REASSOCIATING
    requires: ClassVar[frozenset[str]] = frozenset()
    conflicts: ClassVar[frozenset[str]] = frozenset()
    establishes: ClassVar[frozenset[str]] = frozenset()
    preserves: ClassVar[frozenset[str] | None] = None
    must_speed_up: ClassVar[bool] = False
    idempotent: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = kebab_case(cls.__name__)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place."""
        raise NotImplementedError

    def __call__(self, graph: Graph, context: PassContext | None = None) -> Graph:
        """Return a rewritten copy of `graph`, verified; `graph` itself is left alone."""
        copy = graph.clone()
        self.run(copy, context or PassContext())
        verify(copy)
        return copy

    def options(self) -> dict[str, Any]:
        """The options that differ from their defaults. A field with `repr=False` is no option."""
        found = {}
        for f in dataclasses.fields(self):
            if not f.repr:
                continue
            value = getattr(self, f.name)
            default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
            if default is dataclasses.MISSING or value != default:
                found[f.name] = value
        return found

    def promise(self, result: PassResult) -> Contract:
        """The contract that a run with this result is held to: never looser than `contract`."""
        return self.contract


@dataclass(frozen=True)
class RulePass(Pass):
    """A pass made of rewrite rules, applied greedily until none fires."""

    def rules(self) -> Iterable[Rule]:
        """The rules, in order of preference."""
        raise NotImplementedError

    def fold(self) -> Callable[[Node, Rewriter], Any] | None:
        """A folding hook for the driver, or None."""
        return None

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        statistics = apply_rules(
            graph,
            RuleSet(self.rules()),
            fold=self.fold(),
            removable=context.removable,
            listeners=context.listeners,
            gate=context.gate,
            trainable=context.trainable,
        )
        return PassResult(statistics.changes > 0, statistics)

    def promise(self, result: PassResult) -> Contract:
        """The loosest promise among the rules that fired; what the pass itself promises bounds it."""
        statistics = result.statistics
        if statistics is None or statistics.folded:
            return self.contract
        promises = {rule.label: rule.promise for rule in self.rules()}
        if not all(name in promises for name in statistics.applied):
            return self.contract
        loosest = max((promises[name] for name in statistics.applied), default=Contract.BITWISE)
        return min(self.contract, loosest)


class _Heard(Listener):
    """Whether anything was mutated, in the graph or in a region that the function rewrites by the same listeners."""

    def __init__(self) -> None:
        self.anything = False

    def inserted(self, node: Node) -> None:
        self.anything = True

    def removed(self, node: Node) -> None:
        self.anything = True

    def modified(self, node: Node) -> None:
        self.anything = True


@dataclass(frozen=True)
class FunctionPass(Pass):
    """A pass from a function `f(graph, rewriter, *, option=default, …)`, as made by the `pass_` decorator.

    The function may also take `context`, whose listeners a rewriter of an inner graph needs. Its keyword-only
    parameters are the options of the pass.
    """

    function: Callable[..., Any] = field(repr=False)
    title: str = field(default="", repr=False)
    level: Contract = field(default=Contract.REASSOCIATING, repr=False)
    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.title or kebab_case(self.function.__name__)

    @property
    def contract(self) -> Contract:  # type: ignore[override]
        return self.level

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        heard = _Heard()
        inner = dataclasses.replace(context, listeners=[*context.listeners, heard])
        rewriter = Rewriter(graph, inner.listeners)
        given = {"context": inner} if "context" in inspect.signature(self.function).parameters else {}
        notes = [str(note) for note in self.function(graph, rewriter, **given, **self.arguments) or ()]
        return PassResult(rewriter.changed or heard.anything, notes=notes)

    def option_parameters(self) -> dict[str, inspect.Parameter]:
        """The keyword-only parameters of the function, but for `context`."""
        found = inspect.signature(self.function).parameters
        return {n: p for n, p in found.items() if p.kind is p.KEYWORD_ONLY and n != "context"}

    def with_options(self, **options: Any) -> FunctionPass:
        """Return this pass with some options set.

        Raises:
            UnknownNameError: an option that the function does not have.
        """
        known = self.option_parameters()
        for name in options:
            if name not in known:
                raise unknown_name("option", name, known, f"It was given to {self.name}.")
        return dataclasses.replace(self, arguments={**self.arguments, **options})

    def options(self) -> dict[str, Any]:
        parameters = self.option_parameters()
        return {n: v for n, v in self.arguments.items() if v != parameters[n].default}


@dataclass(frozen=True)
class Rewrites(RulePass):
    """A pass from given rules, as made by the `rewrite` decorator and by `as_pass`."""

    given: tuple[Rule, ...] = field(default=(), repr=False)
    title: str = field(default="rewrites", repr=False)

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.title

    @property
    def contract(self) -> Contract:  # type: ignore[override]
        return max((rule.promise for rule in self.given), default=Contract.BITWISE)

    def rules(self) -> Iterable[Rule]:
        return self.given


def as_pass(rules: Rule | Sequence[Rule], name: str = "") -> Rewrites:
    """Make a pass from rules."""
    given = (rules,) if isinstance(rules, Rule) else tuple(rules)
    return Rewrites(given, name or "+".join(rule.label for rule in given))
