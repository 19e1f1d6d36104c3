"""The pass manager: runs a pipeline, checks every step, and keeps only what holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from graphopt.errors import GraphOptError
from graphopt.ir import Graph
from graphopt.ir.memory import collection_paused
from graphopt.passmanager.budget import Budget
from graphopt.passmanager.checks import LateFailure
from graphopt.passmanager.context import PassContext
from graphopt.passmanager.instruments import environment_instruments
from graphopt.passmanager.pipeline import PassLike, as_pipeline
from graphopt.passmanager.properties import check_order
from graphopt.passmanager.report import Report
from graphopt.passmanager.session import Session
from graphopt.passmanager.settings import Settings

OnError = Literal["bisect", "locate", "no"] | None


class Outcome(NamedTuple):
    """The optimized graph, and the report on how it came about."""

    graph: Graph
    report: Report


class PassManager:
    """Runs passes and checks each one.

    passes: a pipeline, pipeline text, a pass, a rule, or a list of these.
    validate: "each" checks the numbers after every pass that changed the graph, "end" once, False never. The samples
        are those of the context; without any they are made up, if all inputs are floating-point tensors.
    on_failure: what becomes of a pass that raises, breaks the graph or breaks its promise: "rollback" undoes it and
        goes on, "raise" raises.
    budget: the most that lossy passes may lose together: a relative RMS error, or a `Budget`.
    verify: "touched" verifies the nodes that a pass touched, and everything at the end; "full" verifies everything
        after each pass, and holds passes to what they say of `changed`. Default: `GRAPHOPT_VERIFY`, else "touched".
    reproducers: a folder for a file for each failure, which `graphopt opt FILE` runs again. Default:
        `GRAPHOPT_REPRODUCERS`, else none are written.
    on_error: how a failure is explained: "locate" finds the rule application, the node and the source line; "bisect"
        shrinks the graph, too, and writes a reproducer (to `graphopt-reproducers`, unless `reproducers` says
        otherwise); "no" does neither. Default: `GRAPHOPT_ON_ERROR`, else "locate".

    >>> from graphopt.ops import parse
    >>> from graphopt.passmanager.decorators import rewrite
    >>> from graphopt.rewrite import Contract, aten, var
    >>> x = var("x")
    >>> @rewrite(aten.relu(aten.relu(x)), contract=Contract.BITWISE)
    ... def relu_once(x):
    ...     return aten.relu(x)
    >>> graph = parse('''input %x: f32[N, 4]
    ... %y = aten.relu(%x)
    ... %z = aten.relu(%y)
    ... return %z''')
    >>> result, report = PassManager(relu_once).run(graph)
    >>> len(graph), len(result), report.records[0].status.value
    (2, 1, 'kept')
    """

    def __init__(
        self,
        passes: PassLike,
        *,
        validate: Literal["each", "end"] | bool = "each",
        on_failure: Literal["rollback", "raise"] = "rollback",
        instruments: Sequence[Any] = (),
        budget: float | Budget | None = None,
        verify: Literal["touched", "full"] | None = None,
        reproducers: str | os.PathLike[str] | None = None,
        on_error: OnError = None,
    ) -> None:
        self.pipeline = as_pipeline(passes)
        folder = reproducers or os.environ.get("GRAPHOPT_REPRODUCERS") or None
        explain = on_error or os.environ.get("GRAPHOPT_ON_ERROR") or "locate"
        checks = verify or os.environ.get("GRAPHOPT_VERIFY") or "touched"
        self.instruments = tuple(instruments)
        if budget is not None and validate is False:
            raise GraphOptError("a budget is held by validation; leave validate on, or the budget out")
        self.settings = Settings(
            validate=_one_of("validate", "each" if validate is True else validate, ("each", "end", False)),
            on_failure=_one_of("on_failure", on_failure, ("rollback", "raise")),
            budget=Budget.of(budget),
            full=_one_of("verify", checks, ("touched", "full")) == "full",
            reproducers=Path(folder) if folder else None,
            explain=_one_of("on_error", explain, ("bisect", "locate", "no")),
        )

    def run(self, graph: Graph, context: PassContext | None = None) -> Outcome:
        """Return an optimized copy of `graph`, and the report. `graph` itself is left alone.

        Raises:
            PassError: a wrong order; a pass that raised or returned a broken graph, if failures are to be raised; a
                pass that overwrote a tensor that cannot be put back.
            ValidationError: a broken numeric promise, if failures are to be raised.
        """
        context = context or PassContext()
        check_order(self.pipeline, context.properties)
        instruments = [*self.instruments, *environment_instruments()]
        with collection_paused():
            try:
                session = Session(self.pipeline, graph, context, self.settings, instruments)
                return Outcome(*session.run())
            except LateFailure as failure:
                # Something slipped past the cheap checks; the thorough ones say which pass it was.
                session = Session(self.pipeline, graph, context, self.settings.thorough(), instruments)
                optimized, report = session.run()
                report.notes.append(f"ran again with every check after each pass, since {failure}")
                return Outcome(optimized, report)


def _one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> Any:
    if not any(value is a or (isinstance(a, str) and value == a) for a in allowed):
        raise GraphOptError(f"{name} takes one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value
