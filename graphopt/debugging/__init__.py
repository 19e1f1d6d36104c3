"""Finding out why: which pass or node an error comes from, where two models differ, and why a rule did not fire."""

from graphopt.debugging.attribute import attribute_error
from graphopt.debugging.attribution import EngineError, ErrorAttribution, ErrorStep, NodeError, OutputStep
from graphopt.debugging.deviation import Deviation, Tolerance
from graphopt.debugging.explainer import explain
from graphopt.debugging.explanation import Applied, Candidate, Explanation, NodeHistory, RuleCount
from graphopt.debugging.turns import rule_counts

__all__ = [
    "Applied",
    "Candidate",
    "Deviation",
    "EngineError",
    "ErrorAttribution",
    "ErrorStep",
    "Explanation",
    "NodeError",
    "NodeHistory",
    "OutputStep",
    "RuleCount",
    "Tolerance",
    "attribute_error",
    "explain",
    "rule_counts",
]
