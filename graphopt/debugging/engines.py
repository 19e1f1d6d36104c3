"""Running a graph in an engine with its values in sight: they are made outputs of a copy, whatever the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.debugging.values import fixed_seed
from graphopt.errors import GraphOptError, ParseError, TargetError
from graphopt.ir import Graph, TensorType, Value, clone_graph
from graphopt.passmanager.compare import flat
from graphopt.passmanager.pipeline_text import parse_items
from graphopt.targets import Engine
from graphopt.targets.registry import get_engine
from graphopt.validation import copies


def parse_engines(text: str) -> dict[str, Engine]:
    """Return engines by their text: `eager,onnxruntime,onnxruntime{optimization=off}`.

    Raises:
        ParseError: malformed text.
        UnknownNameError: no such engine.
        TargetError: options that the engine does not take.

    >>> list(parse_engines("eager,onnxruntime{optimization=off}"))
    ['eager', 'onnxruntime{optimization=off}']
    """
    found: dict[str, Engine] = {}
    for item in parse_items(text):
        if item.children is not None:
            raise ParseError(f"engine {item.name!r} takes no parentheses", text, item.start)
        options = {given.name: given.value for given in item.options}
        inner = ",".join(f"{name}={value}" for name, value in options.items())
        found[f"{item.name}{{{inner}}}" if inner else item.name] = get_engine(item.name, **options)
    return found


def tapped(graph: Graph, values: Sequence[Value] = ()) -> Graph:
    """Copy a graph and make outputs of all that it returns, updates included, and of these values after that."""
    images: dict[Value, Value] = {}
    copy = clone_graph(graph, images)
    copy.signature = None
    copy.set_outputs([images[v] for v in (*graph.returned, *values)], copy.updates)
    return copy


def tappable(graph: Graph) -> list[Value]:
    """The values of the outermost graph that any engine can return: the tensors that nodes make."""
    return [value for node in graph for value in node.results if isinstance(value.type, TensorType)]


def run_engine(engine: Engine, graph: Graph, inputs: Sequence[Any], values: Sequence[Value] = ()) -> list[Any]:
    """Load a graph and run it once; return all returned values, flat, and these values after that.

    Raises:
        TargetError: the engine cannot run the graph here.
        GraphOptError: whatever emission or the run raises.
    """
    made = tapped(graph, values)
    reason = engine.missing() or engine.unsupported(made)
    if reason:
        raise TargetError(f"engine {engine.name!r} cannot run the graph: {reason}")
    try:
        with fixed_seed():
            return flat(engine.load(made).run(copies(inputs)))
    except GraphOptError:
        raise
    except Exception as error:  # an engine may fail in any way of its own
        raise TargetError(f"engine {engine.name!r} failed: {type(error).__name__}: {error}") from error
