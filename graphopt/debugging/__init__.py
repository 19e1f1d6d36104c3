"""Finding out why: which pass or node an error comes from, where two models differ, and why a rule did not fire."""

from graphopt.debugging.attribute import attribute_error
from graphopt.debugging.attribution import EngineError, ErrorAttribution, ErrorStep, NodeError, OutputStep
from graphopt.debugging.comparing import diff
from graphopt.debugging.deviation import Deviation, Tolerance
from graphopt.debugging.difference import Difference, NodeDifference, ValueDifference
from graphopt.debugging.explainer import explain
from graphopt.debugging.explanation import Applied, Candidate, Explanation, NodeHistory, RuleCount
from graphopt.debugging.turns import rule_counts

__all__ = [
    "Applied",
    "Candidate",
    "Deviation",
    "Difference",
    "EngineError",
    "ErrorAttribution",
    "ErrorStep",
    "Explanation",
    "NodeDifference",
    "NodeError",
    "NodeHistory",
    "OutputStep",
    "RuleCount",
    "Tolerance",
    "ValueDifference",
    "attribute_error",
    "diff",
    "explain",
    "rule_counts",
]
