"""Convolutions with their channels last in memory, [batch, height, width, channel], as many kernels want them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from graphopt.ir import Graph, Node, Value

CONVOLUTIONS = frozenset({"aten.conv2d", "aten.conv_transpose2d", "aten.convolution"})


def has_convolutions(graph: Graph) -> bool:
    """Whether the graph has convolutions over images."""
    return any(_is_convolution(node) for node in graph)


def with_channels_last(graph: Graph) -> Graph:
    """A copy of a graph whose stored weights of convolutions have their channels last. Types don't tell."""
    copy = graph.clone()
    for value in dict.fromkeys(_weights(copy)):
        constant = value.constant
        assert constant is not None
        value.constant = replace(constant, tensor=_last(constant.tensor.detach()), version=-1)
    return copy


def channels_last_inputs(function: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """A function that takes images with their channels last, wherever they are, and returns rows as ever."""

    def run(*inputs: Any) -> tuple[Any, ...]:
        return tuple([_rows(output) for output in function(*map(_last, inputs))])

    return run


def _is_convolution(node: Node) -> bool:
    return node.op.base in CONVOLUTIONS and node.results[0].type.rank == 4  # type: ignore[union-attr]


def _weights(graph: Graph) -> Sequence[Value]:
    weights = [node.operands[1] for node in graph if _is_convolution(node)]
    return [value for value in weights if value is not None and value.constant is not None]


def _last(given: Any) -> Any:
    is_image = isinstance(given, torch.Tensor) and given.dim() == 4
    return given.contiguous(memory_format=torch.channels_last) if is_image else given


def _rows(given: Any) -> Any:
    return given.contiguous() if isinstance(given, torch.Tensor) and given.dim() == 4 else given
