"""Running one pass on one graph with every check, to see whether it fails as it did before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from graphopt.errors import GraphOptError
from graphopt.ir import Graph
from graphopt.passmanager.base import Pass
from graphopt.passmanager.checks import LateFailure
from graphopt.passmanager.context import PassContext
from graphopt.passmanager.pipeline import as_pipeline
from graphopt.passmanager.report import PassRecord, Report, Status
from graphopt.passmanager.settings import Settings


def replay(
    pass_: Pass, graph: Graph, samples: Sequence[Sequence[Any]], context: PassContext, settings: Settings
) -> PassRecord | None:
    """Run a pass with the checks of `settings`; return its record if a check failed, else None.

    None, too, if the graph itself does not run on the samples.
    """
    from graphopt.passmanager.session import Session

    pipeline = as_pipeline(pass_)

    def run(settings: Settings) -> Report:
        own = replace(context, samples=samples, listeners=[], gate=None, properties=set(context.properties))
        session = Session(pipeline, graph, own, settings, [])
        try:
            return session.run()[1]
        except LateFailure:
            raise
        except GraphOptError:
            return session.report

    quiet = replace(settings, explain="no", on_failure="rollback", reproducers=None)
    try:
        report = run(replace(quiet, validate="each" if settings.validate else False))
    except LateFailure:
        report = run(quiet.thorough())
    bad = (Status.ROLLED_BACK, Status.FAILED)
    return next((record for record in report.records if record.status in bad), None)
