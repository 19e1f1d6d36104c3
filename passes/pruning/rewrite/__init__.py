"""Rewriting a graph into the smaller one that equals the masked model."""

from graphopt.passes.pruning.rewrite.plan import Plan, Refused, plan_pruning
from graphopt.passes.pruning.rewrite.prune import PruneReport, apply_plan, prune_graph

__all__ = ["Plan", "PruneReport", "Refused", "apply_plan", "plan_pruning", "prune_graph"]
