"""What each rule makes of a node: how far it gets, and why it goes no further."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from graphopt.ir import Graph, Node, Value, clone_graph
from graphopt.rewrite.driver import RuleSet
from graphopt.rewrite.listener import Listener
from graphopt.rewrite.partial import Finding, condition_text, explain_match, pattern_text
from graphopt.rewrite.pattern import Match, OpPattern, Surroundings
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import Algebra, Rule, type_reason


class Stage(IntEnum):
    """How far a rule got at a node: what stopped it, or that nothing does.

    PATTERN: a part of the pattern does not match. CONDITION: a silent condition of the rule does not hold.
    CHECK: the rule turned the match down, and says why. REWRITE: it did so while it built the replacement, or the type
    would change. APPLIES: nothing is in the way.
    """

    PATTERN = 0
    CONDITION = 1
    CHECK = 2
    REWRITE = 3
    APPLIES = 4


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a rule makes of a node. matched, total: parts of its pattern. reasons: why it stops, in order."""

    rule: str
    pattern: str
    stage: Stage
    matched: int
    total: int
    reasons: tuple[str, ...]

    @property
    def closeness(self) -> tuple[int, float, int]:
        """What attempts are sorted by: the stage, then the share of the pattern that matched, then its size."""
        return self.stage, self.matched / self.total if self.total else 1.0, self.matched

    def __str__(self) -> str:
        if self.stage is Stage.APPLIES:
            return f"{self.rule} applies"
        return f"{self.rule} ({self.matched} of {self.total} parts match): {'; '.join(self.reasons)}"


class Attempts:
    """Tries rules at nodes of a graph without changing it.

    >>> from graphopt.ops import parse
    >>> from graphopt.rewrite import Algebra, Contract, aten, var
    >>> x = var("x")
    >>> rule = Algebra("neg-neg", aten.neg(aten.neg(x).once), x, Contract.BITWISE)
    >>> graph = parse('''input %x: f32[2]
    ... %a = aten.neg(%x)
    ... %b = aten.neg(%a)
    ... return %a, %b''')
    >>> print(*Attempts(graph, [rule]).at(graph.nodes[1]))
    neg-neg (2 of 3 parts match): %a has 1 other use, the rule wants a single one
    """

    def __init__(self, graph: Graph, rules: RuleSet | Iterable[Rule], *, trainable: bool = False) -> None:
        self.graph = graph
        self.rules = rules if isinstance(rules, RuleSet) else RuleSet(rules)
        self.surroundings = Surroundings(trainable, frozenset(graph.mutations))
        self._scratch = _Scratch(graph, self.surroundings)

    def at(self, node: Node) -> list[Attempt]:
        """What each rule whose root may be `node` makes of it, the closest first; its best pattern counts."""
        best: dict[str, Attempt] = {}
        for rule, pattern in self.rules.candidates(node.op):
            attempt = self._attempt(rule, pattern, node)
            known = best.get(rule.label)
            if known is None or attempt.closeness > known.closeness:
                best[rule.label] = attempt
        return sorted(best.values(), key=lambda attempt: attempt.closeness, reverse=True)

    def _attempt(self, rule: Rule, pattern: OpPattern, node: Node) -> Attempt:
        match = Match(node, self.surroundings)
        found = explain_match(pattern, node, match)
        if not found.matches:
            return _stopped(rule, pattern, found, Stage.PATTERN, *found.reasons)
        if rule.inference_only and self.surroundings.trainable:
            trained = "the rule is for inference alone, and the result is to be trained"
            return _stopped(rule, pattern, found, Stage.CONDITION, trained)
        if not rule.guard(match):
            return _stopped(rule, pattern, found, Stage.CONDITION, _guard_reason(rule))
        reason = rule.check(match)
        if reason is not None:
            return _stopped(rule, pattern, found, Stage.CHECK, reason)
        reason = self._scratch.refusal(rule, pattern, node)
        if reason is not None:
            return _stopped(rule, pattern, found, Stage.REWRITE, reason)
        return _stopped(rule, pattern, found, Stage.APPLIES)


def _stopped(rule: Rule, pattern: OpPattern, found: Finding, stage: Stage, *reasons: str) -> Attempt:
    return Attempt(rule.label, pattern_text(pattern), stage, found.matched, found.total, reasons)


def _guard_reason(rule: Rule) -> str:
    condition = rule.where if isinstance(rule, Algebra) and rule.where is not None else type(rule).guard
    summary = (inspect.getdoc(condition) or "").partition("\n\n")[0].replace("\n", " ").rstrip(".")
    return f"a condition does not hold: {summary}" if summary else f"the match is one {condition_text(condition)}"


class _Created(Listener):
    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def inserted(self, node: Node) -> None:
        self.nodes.append(node)


class _Scratch:
    """A copy of a graph in which rewrites are tried and taken back."""

    def __init__(self, graph: Graph, surroundings: Surroundings) -> None:
        self.graph = graph
        self.surroundings = surroundings
        self._copy: Graph | None = None
        self._images: dict[Value, Value] = {}

    def refusal(self, rule: Rule, pattern: OpPattern, node: Node) -> str | None:
        """Why the rule declines while it builds the replacement; None if it goes through."""
        graph, node = self._image(node)
        match = Match(node, self.surroundings)
        pattern.match_node(node, match)
        created, constants = _Created(), len(graph.constants)
        rewriter = Rewriter(graph, [created])
        rewriter.stand_at(node, rule.label)
        try:
            replacement = rule.rewrite(match, rewriter)
        except Exception as error:  # a rule may fail in any way of its own; that is what is asked for
            self._copy = None
            return f"it raises {type(error).__name__}: {error}"
        if replacement is None:
            self._copy = None  # it was changed in place
            return None
        reason: str | None
        if isinstance(replacement, str):
            reason = replacement or "it declines while it builds the replacement, and does not say why"
        else:
            reason = type_reason(node.results, [replacement] if isinstance(replacement, Value) else replacement)
        for made in reversed(created.nodes):
            if made.graph is graph:
                rewriter.erase(made)
        for value in list(graph.constants.values())[constants:]:
            rewriter.drop_constant(value)
        return reason

    def _image(self, node: Node) -> tuple[Graph, Node]:
        if self._copy is None:
            self._images = {}
            self._copy = clone_graph(self.graph, self._images)
        image = self._images[node.results[0]].producer
        assert image is not None
        return self._copy, image
