"""The properties of the whole compiler over one graph, by name: what the tests and the long mode run."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from graphopt.errors import GraphOptError
from graphopt.ir import Graph, difference, verify
from graphopt.passmanager import Fixpoint, Pass, PassContext, PassManager, Pipeline, get_pass, pass_names
from graphopt.targets import get_target
from graphopt.testing.engines import check_onnx, fx_function, onnx_function
from graphopt.testing.equivalence import assert_equivalent
from graphopt.testing.inputs import sample_inputs
from graphopt.testing.properties import assert_pass_holds, assert_round_trip, assert_saves

Property = Callable[[Graph], None]

TARGETS = ("cpu", "fx", "onnxruntime")


def graph_properties() -> dict[str, Property]:
    """The IR: sound as generated, the same after printing and parsing, and after saving and loading."""
    return {"verify": verify, "round trip": assert_round_trip, "saved form": assert_saves}


def backend_properties() -> dict[str, Property]:
    """The backends: the emitted modules and models compute what the graph does, at two sizes."""
    return {
        "fx": lambda graph: assert_equivalent(graph, fx_function(graph)),
        "onnx": lambda graph: assert_equivalent(graph, onnx_function(graph)),
        "onnx checker": check_onnx,
    }


def pipeline_properties(targets: Iterable[str] = TARGETS) -> dict[str, Property]:
    """The default pipeline of each target, from the graph to what is emitted."""
    return {f"default for {name}": _pipeline(name) for name in targets}


def pass_properties() -> dict[str, Property]:
    """Each registered pass alone, with its default options, held to its contract."""
    return {f"pass {pass_.name}": _alone(pass_) for pass_ in registered_passes()}


def registered_passes() -> list[Pass]:
    """The registered passes that can be made without options. Combinators are not among them."""
    found = []
    for name in pass_names():
        try:
            made = get_pass(name)
        except (GraphOptError, TypeError):
            continue  # needs options
        if not isinstance(made, Pipeline | Fixpoint):
            found.append(made)
    return found


def _alone(pass_: Pass) -> Property:
    def holds(graph: Graph) -> None:
        assert_pass_holds(pass_, graph, context=PassContext(samples=[sample_inputs(graph)]))  # some are made from data

    return holds


def _pipeline(target: str) -> Property:
    def holds(graph: Graph) -> None:
        optimized = optimize(graph, target, validate=target == "cpu")
        assert_round_trip(optimized)
        assert_equivalent(graph, optimized)
        if target != "cpu":
            emit = fx_function if target == "fx" else onnx_function
            assert_equivalent(graph, emit(optimized))

    return holds


def optimize(graph: Graph, target: str, *, validate: bool = False) -> Graph:
    """Run the default pipeline of a target, every failure raised, and see that the graph itself is left alone.

    validate: let the manager check the numbers after each pass, too, so that a false alarm shows.
    """
    from graphopt.pipelines import resolve_passes

    trainable = get_target(target).trainable
    samples = [sample_inputs(graph)] if validate else []
    context = PassContext(target=target, trainable=trainable, samples=samples)
    pipeline = resolve_passes("default", target, trainable)
    manager = PassManager(pipeline, validate=validate, on_failure="raise", verify="full")
    untouched = graph.clone()
    optimized = manager.run(graph, context).graph
    changed = difference(untouched, graph)
    if changed is not None:
        raise AssertionError(f"the pipeline changed the graph that it was given: {changed}\n{untouched}\n{graph}")
    return optimized
