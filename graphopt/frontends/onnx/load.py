"""ONNX models into IR graphs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from graphopt.errors import CaptureError
from graphopt.frontends.onnx.functions import Functions
from graphopt.frontends.onnx.opsets import Opsets
from graphopt.frontends.onnx.reader import Reader
from graphopt.ir import Graph, verify

if TYPE_CHECKING:
    import onnx


def read_onnx(source: str | Path | bytes | onnx.ModelProto, values: Mapping[str, torch.Tensor] | None = None) -> Graph:
    """Return the graph of an ONNX model, in ATen operators.

    source: a path, the bytes of a file, or a model. values: contents of inputs that decide shapes (the target of a
        `Reshape`, say); the graph holds for these alone.

    Raises:
        CaptureError: the file is damaged, or holds a node that cannot be read; the message names it.
    """
    from graphopt.frontends.onnx import operators  # noqa: F401  (registers the rules)

    model, folder = _opened(source)
    graph = Graph(_identifier(model.graph.name))
    reader = Reader(graph, Opsets.of(model), folder, values or {}, functions=Functions.of(model))
    reader.read(model.graph)
    verify(graph)
    return graph


def _opened(source: str | Path | bytes | onnx.ModelProto) -> tuple[onnx.ModelProto, Path | None]:
    import onnx
    from google.protobuf.message import DecodeError

    if isinstance(source, onnx.ModelProto):
        return source, None
    folder: Path | None = None
    if not isinstance(source, bytes):
        path = Path(source)
        folder = path.parent
        try:
            source = path.read_bytes()
        except OSError as error:
            raise CaptureError(f"cannot read {path}: {error.strerror}") from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(source)
    except DecodeError as error:
        raise CaptureError(f"this is no ONNX model: {error}") from error
    if not model.graph.output:
        raise CaptureError("the model has no outputs; the file is damaged or is no ONNX model")
    return model, folder


def _identifier(name: str) -> str:
    text = "".join(c if c.isalnum() or c == "_" else "_" for c in name)
    return text if text[:1].isalpha() or text[:1] == "_" else "main"
