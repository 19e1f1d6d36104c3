"""Parsing text with the registered operators."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from graphopt.ir import Graph, parse_graph
from graphopt.ops.registry import registry


def parse(text: str, tensors: Mapping[str, torch.Tensor] | None = None) -> Graph:
    """Parse the text form of a graph with all registered operators. See `graphopt.ir.parse_graph`.

    >>> print(parse('''
    ... input %x: f32[N, 8]
    ... %y = relu(%x)
    ... return %y'''))
    graph main {
      symbol N [0, inf]
      input %x: f32[N, 8]
      %y: f32[N, 8] = aten.relu(%x)
      return %y
    }
    """
    return parse_graph(text, registry.get, tensors)
