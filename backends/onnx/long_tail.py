"""Operators without a lowering, through the exporter library that PyTorch itself uses."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.records import Tensor
from graphopt.errors import EmissionError
from graphopt.ir import Node


def lower_by_exporter(e: Emitter, node: Node, operands: Sequence[Tensor | None]) -> Sequence[Tensor]:
    """Lower a node as `torch.onnx.export` does."""
    raise EmissionError("no lowering")
