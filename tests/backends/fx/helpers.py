"""What the tests share."""

from __future__ import annotations

import torch

from graphopt.backends.fx import emit_fx
from graphopt.ir import Graph


def emit(graph: Graph, *, share_weights: bool = False) -> torch.fx.GraphModule:
    """Emit with the flat convention: the inputs in order, and a tuple of the outputs."""
    return emit_fx(graph, share_weights=share_weights, flat=True)
