"""Finding out why: which pass or node an error comes from, where two models differ, and why a rule did not fire."""

from graphopt.debugging.attribute import attribute_error
from graphopt.debugging.attribution import EngineError, ErrorAttribution, ErrorStep, NodeError, OutputStep
from graphopt.debugging.deviation import Deviation, Tolerance, deviation

__all__ = [
    "Deviation",
    "EngineError",
    "ErrorAttribution",
    "ErrorStep",
    "NodeError",
    "OutputStep",
    "Tolerance",
    "attribute_error",
    "deviation",
]
