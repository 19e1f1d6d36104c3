"""The public functions of the ONNX backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.model import DEFAULT_OPSET, build
from graphopt.backends.onnx.serialize import to_model
from graphopt.errors import EmissionError
from graphopt.ir import Graph

if TYPE_CHECKING:
    import onnx


def emit_onnx(graph: Graph, *, opset: int = DEFAULT_OPSET, path: str | Path | None = None) -> onnx.ModelProto:
    model = to_model(build(graph, Emitter(opset)), opset, graph.name)
    return model
