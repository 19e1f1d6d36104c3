"""Whose fault a failure is: the pass, the rule, the node and the source line."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.errors import GraphOptError, RuleError
from graphopt.passmanager.bisection import Culprit, within
from graphopt.passmanager.regions import Region
from graphopt.passmanager.reruns import Rerun, Reruns

SEARCHED = ("tensors", "truth", "graph", "numbers", "budget")
"""The checks whose failures are traced to an application; that a rule raised is, too."""


class Failure(Exception):
    """A pass that failed.

    kind: the error to raise. check: what found it: "raised" (the pass itself raised), "tensors" (the caller's were
        written to), "truth" (of what it says that it changed), "graph" (verification and interface), "numbers",
        "budget", "samples" or "profit".
    final: the failure cannot be rolled back. benign: it is no fault, so it is never raised.
    region: the first value inside that is wrong, if one is.
    """

    def __init__(
        self,
        message: str,
        kind: type[GraphOptError],
        *,
        check: str,
        final: bool = False,
        benign: bool = False,
        region: Region | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.check = check
        self.final = final
        self.benign = benign
        self.region = region


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


def diagnose(
    reruns: Reruns, judge: Callable[[Rerun], Failure | None], failure: Failure, total: int, offset: int
) -> Culprit | None:
    """Find the first rule application after which a check fails, by running the pass again with fewer of them.

    judge: applies the checks to a rerun. total: how many applications the pass made. offset: how many the pipeline had
    made before it.

    Returns None for a failure that is not for rules to answer for.
    """
    if failure.final or not (failure.check in SEARCHED or isinstance(failure.__cause__, RuleError)):
        return None
    application = failure.region.claim.application if failure.region is not None else None
    guess = application.number if application is not None else None
    return within(reruns, lambda rerun: rerun.error is not None or judge(rerun) is not None, total, offset, guess)
