"""Finding who broke a graph: the pass, the application of a rule, the node and the source line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from graphopt.errors import GraphOptError
from graphopt.ir import Graph
from graphopt.passmanager.base import Pass
from graphopt.passmanager.context import PassContext
from graphopt.passmanager.instruments import ApplicationLimit, BaseInstrument
from graphopt.passmanager.pipeline import PassLike
from graphopt.passmanager.pipeline_text import print_pipeline
from graphopt.passmanager.report import PassRecord

Judge = Callable[[Graph], bool]
"""Says whether a graph is bad."""


@dataclass(frozen=True)
class Culprit:
    """Who broke a graph.

    pass_: its name and options. number, rule, node, location: the first application that did, counted from 1 within the
        pass; 0 and empty if the pass applies no rules. before, after: the graph around it (around the pass, then).
    """

    pass_: str
    number: int
    rule: str
    node: str
    location: str
    before: Graph
    after: Graph

    def __str__(self) -> str:
        if not self.number:
            return f"pass {self.pass_!r}"
        rule = f"rule {self.rule!r}, application {self.number}"
        return f"pass {self.pass_!r}, {rule}, at {self.node}\n  from {self.location}"


class _Steps(BaseInstrument):
    """Keeps the graph around each pass that changed it."""

    def __init__(self) -> None:
        self.steps: list[tuple[Pass, Graph, Graph]] = []
        self._running: Pass | None = None

    def before_pass(self, pass_: Pass, graph: Graph) -> None:
        self._running = pass_

    def after_pass(self, record: PassRecord, before: Graph, after: Graph) -> None:
        if after is not before and self._running is not None:
            self.steps.append((self._running, before, after))


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
    pass_, before, after = steps[first(len(steps), lambda i: is_bad(steps[i][2]))]
    return _within(pass_, before, after, is_bad, context)


def _within(pass_: Pass, before: Graph, after: Graph, is_bad: Judge, context: PassContext) -> Culprit:
    text = print_pipeline(pass_)
    number = first_bad_application(pass_, before, context, is_bad)
    if number is None:
        return Culprit(text, 0, "", "", "", before, after)
    good, _ = limited(pass_, before, context, number - 1)
    bad, limit = limited(pass_, before, context, number)
    assert limit.last is not None
    return Culprit(text, number, *limit.last, good, bad)


def first_bad_application(pass_: Pass, graph: Graph, context: PassContext, is_bad: Judge) -> int | None:
    """Return the number of the first rule application of a pass that makes a graph bad, or None if none does."""
    total = limited(pass_, graph, context, None)[1].count
    if not total or not is_bad(limited(pass_, graph, context, total)[0]):
        return None
    if is_bad(limited(pass_, graph, context, 0)[0]):
        return None
    return 1 + first(total, lambda i: is_bad(limited(pass_, graph, context, i + 1)[0]))


def limited(pass_: Pass, graph: Graph, context: PassContext, limit: int | None) -> tuple[Graph, ApplicationLimit]:
    """Run a pass on a copy of a graph with at most so many rule applications."""
    copy, gate = graph.clone(), ApplicationLimit(limit)
    pass_.run(copy, replace(context, gate=gate.allow, listeners=[]))
    return copy, gate


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
