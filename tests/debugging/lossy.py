"""Passes that lose accuracy on purpose, and rules that are wrong."""

from __future__ import annotations

from typing import Any

import torch

from graphopt.ir import Graph
from graphopt.passmanager import pass_, rewrite
from graphopt.rewrite import Contract, Rewriter, aten, var

x = var("x")


def rounded(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.bfloat16().to(tensor.dtype)


@pass_(contract=Contract.LOSSY)
def round_weights(graph: Graph, rewriter: Rewriter, *, least: int = 2) -> None:
    """Round the stored tensors of at least so many dims to bfloat16."""
    for value in list(graph.constants.values()):
        assert value.constant is not None
        tensor = value.constant.tensor
        if tensor.dim() >= least and tensor.is_floating_point():
            rewriter.replace_value(value, rewriter.constant_like(value, rounded(tensor.detach())))


@rewrite(aten.relu(x), contract=Contract.LOSSY)
def leaky_relu(x: Any) -> Any:
    """ReLU with a slope below zero, which is wrong."""
    return aten.leaky_relu(x, 0.1)
