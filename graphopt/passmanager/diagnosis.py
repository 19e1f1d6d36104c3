"""Whose fault a failure is: the pass, the rule, the node and the source line."""

from __future__ import annotations

from graphopt.errors import GraphOptError, RuleError
from graphopt.ir import Graph
from graphopt.passmanager.base import Pass
from graphopt.passmanager.bisection import first_bad_application, limited
from graphopt.passmanager.context import PassContext
from graphopt.passmanager.guard import new_inexact_constants
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

    def breaks(copy: Graph) -> bool:
        try:
            validator.check(copy, promise, rounded=new_inexact_constants(graph, copy))
        except Mismatch:
            return True
        return False

    number = first_bad_application(pass_, graph, context, breaks)
    if number is None:
        return ""
    _, limit = limited(pass_, graph, context, number)
    assert limit.last is not None
    rule, node, location = limit.last
    return f"\n  rule {rule!r}, application {number}, at {node}\n  from {location}"
