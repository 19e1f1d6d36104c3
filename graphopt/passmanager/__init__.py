"""The pass manager: passes, pipelines, checks and reports."""

from graphopt.passmanager.base import FunctionPass, Pass, PassResult, RulePass, as_pass
from graphopt.passmanager.bisection import Culprit, bisect
from graphopt.passmanager.budget import Budget
from graphopt.passmanager.context import PassContext
from graphopt.passmanager.decorators import pass_, rewrite
from graphopt.passmanager.instruments import (
    ApplicationLimit,
    BaseInstrument,
    DumpDirectory,
    Instrument,
    Journal,
    PrintAfterChange,
    Statistics,
    Timing,
)
from graphopt.passmanager.manager import Outcome, PassManager
from graphopt.passmanager.pipeline import Fixpoint, Pipeline, as_pipeline, fixpoint
from graphopt.passmanager.pipeline_text import parse_pipeline, print_pipeline
from graphopt.passmanager.progress import Progress
from graphopt.passmanager.provenance import Alignment, Application, History, Provenance
from graphopt.passmanager.registry import get_pass, pass_names, register_pass
from graphopt.passmanager.report import ErrorSummary, PassRecord, Report, Status
from graphopt.passmanager.reproducer import read_reproducer, write_reproducer

__all__ = [
    "Alignment",
    "Application",
    "ApplicationLimit",
    "BaseInstrument",
    "Budget",
    "Culprit",
    "DumpDirectory",
    "ErrorSummary",
    "Fixpoint",
    "FunctionPass",
    "History",
    "Instrument",
    "Journal",
    "Outcome",
    "Pass",
    "PassContext",
    "PassManager",
    "PassRecord",
    "PassResult",
    "Pipeline",
    "PrintAfterChange",
    "Progress",
    "Provenance",
    "Report",
    "RulePass",
    "Statistics",
    "Status",
    "Timing",
    "as_pass",
    "as_pipeline",
    "bisect",
    "fixpoint",
    "get_pass",
    "parse_pipeline",
    "pass_",
    "pass_names",
    "print_pipeline",
    "read_reproducer",
    "register_pass",
    "rewrite",
    "write_reproducer",
]
