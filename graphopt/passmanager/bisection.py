"""Finding who broke a graph: the pass, the application of a rule, the node and the source line.

Everything that a pipeline does has a number, the same in every run:

    step          each pass that changed the graph, from 1
    application   each rule application, from 1 over the whole pipeline; `GRAPHOPT_BISECT_MAX` counts the same

The graph after step s is bad from some s on. Within that step, the pass runs again with at most n applications, and its
graph is bad from some n on. Two binary searches find both in at most log₂(steps) + log₂(applications) + 4 runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from graphopt.errors import GraphOptError
from graphopt.ir import Graph, Node
from graphopt.passmanager.base import Pass
from graphopt.passmanager.context import PassContext
from graphopt.passmanager.instruments import BaseInstrument
from graphopt.passmanager.mutations import first_bad_mutation
from graphopt.passmanager.pipeline import PassLike
from graphopt.passmanager.pipeline_text import print_pipeline
from graphopt.passmanager.report import PassRecord
from graphopt.passmanager.reruns import Rerun, Reruns

Judge = Callable[[Graph], bool]
"""Says whether a graph is bad."""


@dataclass(frozen=True)
class Culprit:
    """Who broke a graph.

    pass_: its name and options. step: its number, among the passes that changed the graph.
    number: of the first application that did harm, counted from 1 within the pass; 0 if the pass applies no rules.
    application: its number in the whole pipeline.
    rule, node, location: what was applied, where, and the model's source line. For a pass without rules, `rule` is
        empty and `node` names the mutation after which the graph was bad, if there is one; `note` says what more is
        known.
    before, after: the graph around the application; around the pass, if no application is known.
    roots: the node of `before` (or the nodes) that was rewritten.
    candidates: among how many applications (or mutations) it was found. runs: how often a pass ran to find it.
    """

    pass_: str
    number: int
    rule: str
    node: str
    location: str
    before: Graph
    after: Graph
    roots: tuple[Node, ...] = ()
    note: str = ""
    step: int = 0
    application: int = 0
    candidates: int = 0
    runs: int = 0

    @property
    def limit(self) -> int:
        """The most runs that the search may take."""
        return run_limit(max(self.candidates, self.step))

    @property
    def place(self) -> str:
        """Rule, application, node and source line, or what is known instead of them."""
        lines = [self._what()] if self.rule or self.node else []
        lines += [f"from {self.location}"] if self.location else []
        lines += [self.note] if self.note else []
        return "\n  ".join(lines)

    def _what(self) -> str:
        if not self.rule:
            return f"at {self.node}"
        total = "" if self.application in (0, self.number) else f" (number {self.application} of the pipeline)"
        return f"rule {self.rule!r}, application {self.number}{total}, at {self.node}"

    def __str__(self) -> str:
        place = self.place
        return f"pass {self.pass_!r}, {place}" if place else f"pass {self.pass_!r}"


def run_limit(candidates: int) -> int:
    """The most runs of a search among so many applications: 2·log₂(applications) + 4.

    >>> [run_limit(n) for n in (0, 1, 2, 100)]
    [4, 4, 6, 18]
    """
    return 2 * math.ceil(math.log2(max(candidates, 1))) + 4


class _Steps(BaseInstrument):
    """Keeps the graph around each pass that changed it, and counts applications."""

    def __init__(self) -> None:
        self.steps: list[tuple[Pass, Graph, Graph, int, int]] = []
        self._running: Pass | None = None
        self._before = 0
        self._count = 0

    def before_pass(self, pass_: Pass, graph: Graph) -> None:
        self._running = pass_
        self._before = self._count

    def allow(self, rule: str, node: Node) -> bool:
        self._count += 1
        return True

    def after_pass(self, record: PassRecord, before: Graph, after: Graph) -> None:
        if after is not before and self._running is not None:
            self.steps.append((self._running, before, after, self._before, self._count - self._before))


def bisect(passes: PassLike, graph: Graph, is_bad: Judge, context: PassContext | None = None) -> Culprit | None:
    """Return the first pass, and the first rule application in it, after which a graph is bad; None if it never is.

    is_bad: judges a graph. Once bad, a graph should stay bad; else one of the places where it turned bad is found.

    Costs one run of the pipeline, and reruns of one pass and calls of `is_bad` logarithmic in passes + applications.

    Raises:
        GraphOptError: the graph is bad from the start, or a pass fails by itself.

    >>> from graphopt.ops import parse
    >>> from graphopt.passmanager.decorators import rewrite
    >>> from graphopt.rewrite import Contract, aten, var
    >>> x = var("x")
    >>> @rewrite(aten.relu(x), contract=Contract.LOSSY)
    ... def drop_relu(x):
    ...     return x
    >>> graph = parse('''input %x: f32[4]
    ... %a = aten.neg(%x)
    ... %b = aten.relu(%a) @ "model.py":7 "act"
    ... return %b''')
    >>> print(bisect(["dead-code", drop_relu], graph, lambda g: len(g) < 2))
    pass 'drop-relu', rule 'drop-relu', application 1, at %b = aten.relu(%a)
      from model.py:7 act
    """
    from graphopt.passmanager.manager import PassManager

    context = context or PassContext()
    if is_bad(graph):
        raise GraphOptError("the graph is bad before any pass has run; bisect needs one that is good at the start")
    instrument = _Steps()
    PassManager(passes, validate=False, on_failure="raise", instruments=[instrument]).run(graph, replace(context))
    steps = instrument.steps
    if not steps or not is_bad(steps[-1][2]):
        return None
    number = first(len(steps), lambda i: is_bad(steps[i][2]))
    pass_, before, _, offset, total = steps[number]
    reruns = Reruns(pass_, before, context)
    culprit = within(reruns, lambda rerun: rerun.error is None and is_bad(rerun.graph), total, offset)
    runs = 2 + math.ceil(math.log2(len(steps))) + reruns.runs
    return replace(culprit, step=number + 1, runs=runs)


def within(
    reruns: Reruns, is_bad: Callable[[Rerun], bool], total: int, offset: int = 0, guess: int | None = None
) -> Culprit:
    """Return the first application of a pass whose graph is bad, or the pass as a whole.

    total: how many applications it makes. offset: how many the pipeline had made before the pass.
    guess: the number of an application that is suspect; if it is the one, two runs show that.
    """
    known: dict[int, Rerun] = {}

    def bad_at(limit: int) -> bool:
        known[limit] = reruns.run(limit)
        return is_bad(known[limit])

    good: int | None = None
    bad: int | None = None
    if guess is not None and 0 < guess <= total:
        if not bad_at(guess):
            good = guess
        elif bad_at(guess - 1):
            bad = guess - 1
        else:
            good, bad = guess - 1, guess
    if bad is None:
        if not bad_at(total):
            note = "it did no harm when it ran again: it may depend on chance, or on what ran before it"
            return replace(_whole(reruns, known[total], total), note=note)
        bad = total
    if good is None:
        if bad == 0 or bad_at(0):
            return _without_rules(reruns, is_bad, known[bad])
        good = 0
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (good, middle) if bad_at(middle) else (middle, bad)
    return _named(reruns, known[good], known[bad], bad, offset, total)


def _whole(reruns: Reruns, rerun: Rerun, candidates: int) -> Culprit:
    text = print_pipeline(reruns.pass_)
    return Culprit(text, 0, "", "", "", reruns.before, rerun.graph, candidates=candidates, runs=reruns.runs)


def _without_rules(reruns: Reruns, is_bad: Callable[[Rerun], bool], rerun: Rerun) -> Culprit:
    """The pass is bad even if no rule is applied."""
    found, count = first_bad_mutation(reruns, is_bad)
    whole = _whole(reruns, rerun, count)
    if found is None:
        return whole
    return replace(whole, node=found.node, location=found.location, roots=found.roots, note=found.note)


def _named(reruns: Reruns, good: Rerun, bad: Rerun, number: int, offset: int, total: int) -> Culprit:
    """The last run that is good was denied the application that the first bad one made."""
    assert good.denied is not None
    rule, node, location = good.denied
    roots = (good.denied_node,) if good.denied_node is not None and good.denied_node.graph is good.graph else ()
    return Culprit(
        print_pipeline(reruns.pass_),
        number,
        rule,
        node,
        location,
        good.graph,
        bad.graph,
        roots,
        application=offset + number,
        candidates=offset + total,
        runs=reruns.runs,
    )


def first(count: int, holds: Callable[[int], bool]) -> int:
    """Return the least index below `count` at which `holds` is true, given that it is at the last and stays so.

    >>> first(10, lambda i: i >= 7)
    7
    """
    low, high = 0, count - 1
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
