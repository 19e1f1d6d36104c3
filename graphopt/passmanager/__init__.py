"""The pass manager: passes, pipelines, checks and reports."""

from graphopt.passmanager.base import FunctionPass, Pass, PassResult, RulePass, as_pass
from graphopt.passmanager.context import PassContext

__all__ = ["FunctionPass", "Pass", "PassContext", "PassResult", "RulePass", "as_pass"]
