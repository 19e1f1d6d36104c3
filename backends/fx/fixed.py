"""A graph of fixed sizes as a module with example inputs, for converters that start from PyTorch."""

from __future__ import annotations

import torch

from graphopt.backends.fx.emit import emit_fx
from graphopt.errors import EmissionError
from graphopt.ir import Graph, TensorType


def why_not_fixed(graph: Graph) -> str | None:
    """Say what such a converter cannot take: dynamic sizes, updates, what is no tensor."""
    if graph.symbols():
        names = ", ".join(symbol.name for symbol in graph.symbols())
        return f"the graph has dynamic sizes ({names}), and the format takes fixed ones; compile without dynamic_shapes"
    if graph.mutations:
        return f"the graph updates {', '.join(graph.mutations)}, and the format keeps no state"
    odd = next((v for v in (*graph.inputs, *graph.returned) if not isinstance(v.type, TensorType)), None)
    return None if odd is None else f"%{odd.name} is {odd.type!r}, and the format takes tensors"


def fixed_module(graph: Graph) -> tuple[torch.fx.GraphModule, tuple[torch.Tensor, ...]]:
    """Return a module that takes the inputs of the graph in order and returns a tuple, and inputs for it.

    Raises:
        EmissionError: the graph is none of fixed sizes, or PyTorch cannot express it.
    """
    reason = why_not_fixed(graph)
    if reason is not None:
        raise EmissionError(reason)
    inputs = []
    for value in graph.inputs:
        assert isinstance(value.type, TensorType)
        inputs.append(torch.zeros([int(size) for size in value.type.shape], dtype=value.type.dtype.torch))  # type: ignore[arg-type]
    return emit_fx(graph, flat=True, trainable=False), tuple(inputs)
