"""Property tests for graphs and passes: random well-typed graphs, and checks that hold passes to their word."""

from graphopt.testing.builder import GraphBuilder
from graphopt.testing.campaign import Campaign, Failure
from graphopt.testing.checks import Checked, check
from graphopt.testing.domain import Domain
from graphopt.testing.engines import Unsupported, check_onnx, engine_function, fx_function, onnx_function
from graphopt.testing.equivalence import Difference, assert_equivalent, is_finite
from graphopt.testing.generate import graphs, random_graph
from graphopt.testing.inputs import sample_bindings, sample_inputs
from graphopt.testing.linear import assert_linear
from graphopt.testing.properties import assert_pass_holds, assert_round_trip, assert_saves, check_pass
from graphopt.testing.samplers.table import register_sampler, sampled_operators, unregister_sampler
from graphopt.testing.shrink import shrink
from graphopt.testing.statistics import GraphStatistics

__all__ = [
    "Campaign",
    "Checked",
    "Difference",
    "Domain",
    "Failure",
    "GraphBuilder",
    "GraphStatistics",
    "Unsupported",
    "assert_equivalent",
    "assert_linear",
    "assert_pass_holds",
    "assert_round_trip",
    "assert_saves",
    "check",
    "check_onnx",
    "check_pass",
    "engine_function",
    "fx_function",
    "graphs",
    "is_finite",
    "onnx_function",
    "random_graph",
    "register_sampler",
    "sample_bindings",
    "sample_inputs",
    "sampled_operators",
    "shrink",
    "unregister_sampler",
]
