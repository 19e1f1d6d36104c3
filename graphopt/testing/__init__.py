"""Property tests for graphs and passes: random well-typed graphs, and checks that hold passes to their word."""

from graphopt.testing.builder import GraphBuilder
from graphopt.testing.domain import Domain
from graphopt.testing.generate import graphs, random_graph
from graphopt.testing.inputs import sample_bindings, sample_inputs
from graphopt.testing.samplers.table import register_sampler, sampled_operators, unregister_sampler

__all__ = [
    "Domain",
    "GraphBuilder",
    "graphs",
    "random_graph",
    "register_sampler",
    "sample_bindings",
    "sample_inputs",
    "sampled_operators",
    "unregister_sampler",
]
