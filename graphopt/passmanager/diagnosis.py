"""Whose fault a failure is: the pass, the rule, the node and the source line."""

from __future__ import annotations

from dataclasses import replace

from graphopt.errors import GraphOptError, RuleError
from graphopt.ir import Graph
from graphopt.passmanager.base import Pass
from graphopt.passmanager.context import PassContext
from graphopt.passmanager.guard import new_inexact_constants
from graphopt.passmanager.instruments import ApplicationLimit
from graphopt.passmanager.validation import Mismatch, Validator
from graphopt.rewrite import Contract


class Failure(Exception):
    """A pass that failed.

    kind: the error to raise. final: the failure cannot be rolled back. benign: it is no fault, so it is never raised.
    """

    def __init__(self, message: str, kind: type[GraphOptError], *, final: bool = False, benign: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.final = final
        self.benign = benign


def where_raised(error: Exception) -> str:
    """Say what a pass raised, and at which line of its own code unless the message names rule and node."""
    if isinstance(error, RuleError):
        return f"an error: {error}"
    trace = error.__traceback__
    last = None
    while trace is not None:
        last, trace = trace, trace.tb_next
    line = f" (at {last.tb_frame.f_code.co_filename}:{last.tb_lineno})" if last is not None else ""
    return f"{type(error).__name__}: {error}{line}"


def diagnose(pass_: Pass, graph: Graph, context: PassContext, validator: Validator, promise: Contract) -> str:
    """Find the first rule application that breaks the promise, by running the pass again with fewer of them.

    The number of reruns is logarithmic in the number of applications. Returns "" if the pass applies no rules.
    """
    found = first_bad_application(pass_, graph, context, validator, promise)
    if found is None:
        return ""
    number, rule, node, location = found
    return f"\n  rule {rule!r}, application {number}, at {node}\n  from {location}"


def first_bad_application(
    pass_: Pass, graph: Graph, context: PassContext, validator: Validator, promise: Contract
) -> tuple[int, str, str, str] | None:
    """Return (number, rule, node, location) of the first application that breaks the promise, or None."""
    total = _apply(pass_, graph, context, None)[1].count
    if not total or _holds(pass_, graph, context, validator, promise, total):
        return None
    good, bad = 0, total
    while bad - good > 1:
        middle = (good + bad) // 2
        if _holds(pass_, graph, context, validator, promise, middle):
            good = middle
        else:
            bad = middle
    _, limit = _apply(pass_, graph, context, bad)
    assert limit.last is not None
    rule, node, location = limit.last
    return bad, rule, node, location


def _apply(pass_: Pass, graph: Graph, context: PassContext, limit: int | None) -> tuple[Graph, ApplicationLimit]:
    copy, gate = graph.clone(), ApplicationLimit(limit)
    pass_.run(copy, replace(context, gate=gate.allow, listeners=[]))
    return copy, gate


def _holds(
    pass_: Pass, graph: Graph, context: PassContext, validator: Validator, promise: Contract, limit: int
) -> bool:
    copy, _ = _apply(pass_, graph, context, limit)
    try:
        validator.check(copy, promise, rounded=new_inexact_constants(graph, copy))
    except Mismatch:
        return False
    return True
