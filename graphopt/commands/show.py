"""`graphopt show`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.api import trace
from graphopt.ir import Graph
from graphopt.model_source import resolve_model
from graphopt.passmanager import PassContext, PassManager
from graphopt.pipelines import resolve_passes
from graphopt.serialization import load_graph
from graphopt.targets import get_target


def traced(
    text: str, *, passes: str, target: str, dynamic_shapes: Any, trust: bool, values: Sequence[str] = ()
) -> Graph:
    """Return the graph of the model that `text` names, after `passes`. values: inputs of an ONNX file."""
    source = resolve_model(text, values, trust=trust)
    if source.is_saved:
        graph, _ = load_graph(source.path)
    else:
        graph = trace(source.model, source.args, source.kwargs, dynamic_shapes=dynamic_shapes, trust=trust)
    chosen = get_target(target)
    manager = PassManager(resolve_passes(passes, chosen.name, chosen.trainable), validate=False)
    return manager.run(graph, PassContext(target=chosen.name, trainable=chosen.trainable)).graph
