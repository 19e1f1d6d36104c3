"""Analyses: the interpreter, symbol bindings, cost."""

from graphopt.analysis.bindings import bind_sizes
from graphopt.analysis.cost import CostModel, GraphCost, NodeCost, graph_cost
from graphopt.analysis.flops import register_flops
from graphopt.analysis.interpreter import Interpreter, run_graph, watch_values
from graphopt.analysis.liveness import last_uses, peak_memory

__all__ = [
    "CostModel",
    "GraphCost",
    "Interpreter",
    "NodeCost",
    "bind_sizes",
    "graph_cost",
    "last_uses",
    "peak_memory",
    "register_flops",
    "run_graph",
    "watch_values",
]
