"""Rewriting: patterns, rules, the rewriter and the greedy driver."""

from graphopt.rewrite.contract import Contract
from graphopt.rewrite.driver import RuleSet, apply_rules
from graphopt.rewrite.listener import Listener
from graphopt.rewrite.pattern import Match, aten, constant, either, optional, produced_by, rounded, var
from graphopt.rewrite.rewriter import Rewriter, result_types
from graphopt.rewrite.rule import Algebra, Rule
from graphopt.rewrite.statistics import RewriteStatistics, RuleStatistics
from graphopt.rewrite.uniform import uniform_value

__all__ = [
    "Algebra",
    "Contract",
    "Listener",
    "Match",
    "RewriteStatistics",
    "Rewriter",
    "Rule",
    "RuleSet",
    "RuleStatistics",
    "apply_rules",
    "aten",
    "constant",
    "either",
    "optional",
    "produced_by",
    "result_types",
    "rounded",
    "uniform_value",
    "var",
]
