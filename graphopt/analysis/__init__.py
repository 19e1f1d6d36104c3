"""Analyses: the interpreter, symbol bindings, cost."""

from graphopt.analysis.bindings import bind_sizes
from graphopt.analysis.interpreter import Interpreter, run_graph

__all__ = ["Interpreter", "bind_sizes", "run_graph"]
