"""Inference rules for common operators: microseconds where a run on fake tensors costs hundreds."""

from graphopt.ops.inference import elementwise
from graphopt.ops.inference.table import RULES, Mismatch, RuleInference, find_rule, overloads, rule

__all__ = ["RULES", "Mismatch", "RuleInference", "elementwise", "find_rule", "overloads", "rule"]
