"""The contract of a pass."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from graphopt.ir import Graph, Node, verify
from graphopt.passmanager.context import PassContext
from graphopt.rewrite import Contract, Rewriter, RewriteStatistics, Rule, RuleSet, apply_rules


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
    """

    changed: bool
    statistics: RewriteStatistics | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Pass:
    """A graph-to-graph rewrite. A subclass is a frozen dataclass; its fields are its options.

    name: the name in pipelines and on the command line; by default the class name in kebab case.
    contract: what the pass promises about numbers.
    requires, establishes, preserves: properties of a graph (such as "quantized") that must hold before, that hold
        after, and that survive; None preserves everything.
    default: whether the pass may run in the lossless default pipeline.

    Calling a pass on a graph returns a new graph and leaves the old one alone.
    """

    name: ClassVar[str] = ""
    contract: ClassVar[Contract] = Contract.REASSOCIATING
    requires: ClassVar[frozenset[str]] = frozenset()
    conflicts: ClassVar[frozenset[str]] = frozenset()
    establishes: ClassVar[frozenset[str]] = frozenset()
    preserves: ClassVar[frozenset[str] | None] = None

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
        """The options that differ from their defaults."""
        found = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
            if default is dataclasses.MISSING or value != default:
                found[f.name] = value
        return found


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
        )
        return PassResult(statistics.changes > 0, statistics)


@dataclass(frozen=True)
class FunctionPass(Pass):
    """A pass from a function `f(graph, rewriter) -> None`, as made by the `pass_` decorator."""

    function: Callable[[Graph, Rewriter], None] = field(repr=False)
    title: str = ""

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.title or kebab_case(self.function.__name__)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        rewriter = Rewriter(graph, context.listeners)
        self.function(graph, rewriter)
        return PassResult(rewriter.changed)


@dataclass(frozen=True)
class Rewrites(RulePass):
    """A pass from given rules, as made by the `rewrite` decorator and by `as_pass`."""

    given: tuple[Rule, ...] = field(default=(), repr=False)
    title: str = "rewrites"

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.title

    def rules(self) -> Iterable[Rule]:
        return self.given


def as_pass(rules: Rule | Sequence[Rule], name: str = "") -> Rewrites:
    """Make a pass from rules."""
    given = (rules,) if isinstance(rules, Rule) else tuple(rules)
    return Rewrites(given, name or "+".join(rule.label for rule in given))
