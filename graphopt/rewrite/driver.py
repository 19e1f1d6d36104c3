"""The greedy driver: applies rules until none fires, in time linear in nodes + rewrites."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter

from graphopt.errors import RewriteLimitError, RuleError
from graphopt.ir import Graph, Node, Op, Value
from graphopt.ops.effects import is_removable
from graphopt.rewrite.listener import Listener
from graphopt.rewrite.pattern import Match, OpPattern, Surroundings
from graphopt.rewrite.plan import Place, Source, source_of
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.rule import Rule, type_reason
from graphopt.rewrite.statistics import RewriteStatistics, RuleStatistics
from graphopt.rewrite.worklist import Worklist

Fold = Callable[[Node, Rewriter], "Sequence[Value] | None"]
Gate = Callable[[str, Node], bool]
"""Asked before each application with the rule's name and the root; False skips it (bisection)."""

Candidate = tuple[Rule, OpPattern, RuleStatistics]

REWRITES_PER_NODE = 16
MINIMUM_BUDGET = 256
RECENT = 20


class RuleSet:
    """Rules indexed by root operator, in the order given."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self._by_base: dict[str, list[tuple[Rule, OpPattern]]] = {}
        for rule in self.rules:
            for pattern in rule.patterns:
                self._by_base.setdefault(pattern.base, []).append((rule, pattern))
        self._by_op: dict[Op, tuple[tuple[Rule, OpPattern], ...]] = {}

    def candidates(self, op: Op) -> tuple[tuple[Rule, OpPattern], ...]:
        """The rules whose root may be `op`."""
        found = self._by_op.get(op)
        if found is None:
            names = dict.fromkeys((op.name, op.base))
            found = tuple(pair for name in names for pair in self._by_base.get(name, ()))
            self._by_op[op] = found
        return found


class _Feed(Listener):
    """Re-enqueues what a rewrite touched, and remembers what it created."""

    def __init__(self, worklist: Worklist) -> None:
        self.worklist = worklist
        self.created: list[Node] = []

    def inserted(self, node: Node) -> None:
        self.created.append(node)
        self.worklist.push(node)
        self._producers(node)

    def removed(self, node: Node) -> None:
        self.worklist.discard(node)
        self._producers(node)

    def modified(self, node: Node) -> None:
        if node.op.name != "ir.return":
            self.worklist.push(node)
        self._users(node)

    def replaced(self, node: Node, values: Sequence[Value]) -> None:
        for value in values:
            if value.producer is not None:
                self.worklist.push(value.producer)

    def _producers(self, node: Node) -> None:
        """A producer that loses a use may be dead, or have a single use now."""
        operands = node._operands
        for operand in operands:
            if operand is None or operand.producer is None:
                continue
            if len(operand._uses) - operands.count(operand) <= 1:
                self.worklist.push(operand.producer)
                self._siblings(operand, node)

    def _siblings(self, operand: Value, node: Node) -> None:
        for use in operand.uses:
            if use.node is not node and use.node.graph is not None and use.node.op.name != "ir.return":
                self.worklist.push(use.node)

    def _users(self, node: Node) -> None:
        for result in node.results:
            if result.num_uses <= 4:
                for use in result.uses:
                    if use.node.op.name != "ir.return":
                        self.worklist.push(use.node)


def apply_rules(
    graph: Graph,
    rules: RuleSet | Iterable[Rule],
    *,
    fold: Fold | None = None,
    removable: Callable[[Node], bool] | None = None,
    listeners: Sequence[Listener] = (),
    gate: Gate | None = None,
    budget: int | None = None,
    trainable: bool = False,
) -> RewriteStatistics:
    """Apply rules greedily until none fires, and return what they did.

    For each node taken from the worklist: drop it if it is dead, else fold it, else try its rules in order. Only what
    a rewrite touched is tried again, so the cost is linear in nodes + rewrites. A last sweep over what is left shows
    that no rule fires any more.

    fold: returns existing values or constants in place of the node's results, or None; it creates no nodes.
    removable: whether a node without uses may be dropped (by default, if it has no effect and names no size).
    gate: see `Gate`.
    budget: the largest number of rewrites (16 a node by default).
    trainable: whether the result is to be trained; rules for inference only are left out, and parameters match no
        number.

    Raises:
        RewriteLimitError: the budget is spent; the message names the rules that undo each other.
    """
    rule_set = rules if isinstance(rules, RuleSet) else RuleSet(rules)
    surroundings = Surroundings(trainable, frozenset(graph.mutations))
    return _Driver(graph, rule_set, fold, removable or is_removable, listeners, gate, budget, surroundings).run()


class _Driver:
    def __init__(
        self,
        graph: Graph,
        rules: RuleSet,
        fold: Fold | None,
        removable: Callable[[Node], bool],
        listeners: Sequence[Listener],
        gate: Gate | None,
        budget: int | None,
        surroundings: Surroundings,
    ) -> None:
        self.graph = graph
        self.rules = rules
        self.fold = fold
        self.removable = removable
        self.gate = gate
        self.surroundings = surroundings
        self.worklist = Worklist(reversed(graph))
        self.pending = Worklist()
        self.feed = _Feed(self.worklist)
        self.rewriter = Rewriter(graph, [self.feed, *listeners])
        self.statistics = RewriteStatistics()
        for rule in rules.rules:
            self.statistics.rule(rule.label)
        self.budget = budget if budget is not None else MINIMUM_BUDGET + REWRITES_PER_NODE * len(graph)
        self.recent: deque[tuple[str, str]] = deque(maxlen=RECENT)
        self.applications = 0
        self.declined: set[tuple[str, Node, str]] = set()
        self._candidates: dict[tuple[Op, Source, Source], list[Candidate]] = {}

    def run(self) -> RewriteStatistics:
        """Sweep until a sweep changes nothing.

        A change far below a root that was tried already may make it match, so re-enqueueing neighbours alone does not
        reach a normal form. The last sweep shows that it is one; it visits what is left of the graph once.
        """
        while self._sweep():
            for node in reversed(self.graph):
                self.worklist.push(node)
        return self.statistics

    def _sweep(self) -> bool:
        """Empty the worklist; return whether the graph changed."""
        before = self.statistics.changes
        while (node := self.worklist.pop()) is not None:
            if node.graph is not self.graph:
                continue
            self.statistics.visits += 1
            if not (self._drop(node) or (self.fold is not None and self._fold(node, self.fold))):
                self._rewrite(node)
        return self.statistics.changes > before

    def _drop(self, node: Node) -> bool:
        for result in node.results:
            if result._uses:
                return False
        if not self.removable(node):
            return False
        self.rewriter.erase(node)
        self.statistics.erased += 1
        return True

    def _fold(self, node: Node, fold: Fold) -> bool:
        try:
            values = fold(node, self.rewriter)
        except Exception as error:
            raise _rule_error("fold", node, error) from error
        if values is None or type_reason(node.results, values) is not None:
            return False
        if not self._allowed("fold", node):
            return False
        self.rewriter.replace(node, values)
        self.statistics.folded += 1
        return True

    def _rewrite(self, node: Node) -> None:
        operands = node._operands
        first = source_of(operands[0]) if operands else Place.ABSENT
        second = source_of(operands[1]) if len(operands) > 1 else Place.ABSENT
        key = (node.op, first, second)
        candidates = self._candidates.get(key)
        if candidates is None:
            candidates = self._candidates[key] = self._find_candidates(*key)
        if not candidates:
            return
        label = ""
        match = Match(node, self.surroundings)
        try:
            for rule, pattern, counts in candidates:
                counts.attempts += 1
                label = counts.name
                if pattern.match_node(node, match) and rule.guard(match) and self._try(rule, match, node, counts):
                    return
                match.clear()
        except RewriteLimitError:
            raise
        except Exception as error:
            raise _rule_error(label, node, error) from error

    def _find_candidates(self, op: Op, first: Source, second: Source) -> list[Candidate]:
        """The rules that may match a node of `op` whose first two operands come from there."""
        trainable = self.surroundings.trainable
        return [
            (rule, pattern, self.statistics.rule(rule.label))
            for rule, pattern in self.rules.candidates(op)
            if not (trainable and rule.inference_only) and pattern.may_be_root(op, first, second)
        ]

    def _try(self, rule: Rule, match: Match, node: Node, counts: RuleStatistics) -> bool:
        start = perf_counter()
        counts.matches += 1
        reason = rule.check(match)
        if reason is not None:
            self._decline(counts.name, node, reason)
            applied = False
        else:
            applied = self._allowed(counts.name, node) and self._apply(rule, counts.name, match, node)
        counts.seconds += perf_counter() - start
        if applied:
            counts.applied += 1
            self._spend()
        return applied

    def _apply(self, rule: Rule, label: str, match: Match, node: Node) -> bool:
        self.feed.created.clear()
        constants = len(self.graph.constants)
        if self.applications >= self.budget - RECENT:
            self.recent.append((label, repr(node)))
        self.rewriter.stand_at(node, label)
        # Until the rewrite is accepted, nothing is re-enqueued: a rule that builds, declines and is tried again because
        # of what it built would never end.
        self.feed.worklist = self.pending
        replacement = rule.rewrite(match, self.rewriter)
        if replacement is None:
            self._accept()
            return True
        if isinstance(replacement, str):
            self._undo(constants)
            if replacement:
                self._decline(label, node, replacement)
            return False
        values = [replacement] if isinstance(replacement, Value) else list(replacement)
        reason = type_reason(node.results, values)
        if reason is not None:
            self._undo(constants)
            self._decline(label, node, reason)
            return False
        self._accept()
        self.rewriter.replace(node, values)
        return True

    def _accept(self) -> None:
        """Enqueue what the rewrite touched."""
        self.feed.worklist = self.worklist
        for touched in self.pending.drain():
            self.worklist.push(touched)

    def _undo(self, constants: int) -> None:
        """Remove what a declined rewrite created, constants beyond the first so many included; nothing uses it yet."""
        for created in reversed(self.feed.created):
            if created.graph is self.graph:
                self.rewriter.erase(created)
        for value in list(self.graph.constants.values())[constants:]:
            self.rewriter.drop_constant(value)
        self.pending.drain()
        self.feed.worklist = self.worklist

    def _decline(self, rule: str, node: Node, reason: str) -> None:
        """Record a reason; what is tried again and declines for the same reason counts once."""
        key = (rule, node, reason)
        if key not in self.declined:
            self.declined.add(key)
            self.statistics.decline(rule, node, reason)

    def _allowed(self, rule: str, node: Node) -> bool:
        return self.gate is None or self.gate(rule, node)

    def _spend(self) -> None:
        self.applications += 1
        if self.applications > self.budget:
            raise RewriteLimitError(_overrun(self.applications, self.recent))


def _rule_error(rule: str, node: Node, error: Exception) -> RuleError:
    """Say which rule raised, on which node, where the node came from, and which line of the rule it was."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    line = f" (at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})" if trace is not None else ""
    what = f"rule {rule!r} raised {type(error).__name__}: {error}{line}"
    return RuleError(f"{what}\n  on {node!r}\n  from {node.location}")


def _overrun(count: int, recent: Iterable[tuple[str, str]]) -> str:
    events = list(recent)
    names = list(dict.fromkeys(rule for rule, _ in events))
    verb = "undo each other" if len(names) > 1 else "applies to its own result for ever"
    log = "\n".join(f"  {rule}: {node}" for rule, node in events)
    return (
        f"{count} rewrites and no end: {' and '.join(map(repr, names))} {verb}. "
        f"Give one of them a condition that its result does not meet. The last applications:\n{log}"
    )
