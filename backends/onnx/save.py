"""Writing models to disk: all or nothing, with the weights in a file of their own where they are large."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import onnx
import torch

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.model import DEFAULT_OPSET, build
from graphopt.backends.onnx.records import Body
from graphopt.backends.onnx.serialize import drop_dead, to_model, used_initializers, write_raw
from graphopt.errors import SerializationError
from graphopt.ir import Graph
from graphopt.ir.files import replaceable
from graphopt.ops.onnx_dtypes import raw_bytes

EXTERNAL_ABOVE = 3 << 29
"""Weights of more bytes in all (1.5 GiB) go to a file of their own: a protocol buffer ends at 2 GiB."""
INLINE_BELOW = 1024
"""Initializers of fewer bytes stay in the model."""
_ALIGNMENT = 4096


def save_onnx(graph_or_model: Graph | onnx.ModelProto, path: str | Path, external_data: bool | None = None) -> None:
    """Write a graph or model to `path`. A failure leaves no half-written file, and an older file as it was.

    external_data: put the weights into `<path>.data`; None does so above 1.5 GiB.

    Raises:
        SerializationError: the file cannot be written.
        EmissionError: the graph cannot be expressed in ONNX.
    """
    target = replaceable(path)
    if isinstance(graph_or_model, Graph):
        body = build(graph_or_model, Emitter(DEFAULT_OPSET))
        _save_graph(body, graph_or_model.name, target, external_data)
    else:
        _save_model(graph_or_model, target, external_data)


def _save_graph(body: Body, name: str, target: Path, external_data: bool | None) -> None:
    drop_dead(body)
    total = sum(t.data.numel() * t.data.element_size() for t in used_initializers(body) if t.data is not None)
    if not _external(external_data, total):
        _write(target, to_model(body, DEFAULT_OPSET, name), None)
        return
    with _replacing(_data_path(target)) as (file, finish_data):
        sink = _Sink(file, _data_path(target).name)

        def write(proto: onnx.TensorProto, data: torch.Tensor) -> None:
            if data.numel() * data.element_size() < INLINE_BELOW:
                write_raw(proto, data)
            else:
                sink.append(proto, raw_bytes(data))

        _write(target, to_model(body, DEFAULT_OPSET, name, write), finish_data)


def _save_model(model: onnx.ModelProto, target: Path, external_data: bool | None) -> None:
    total = sum(len(t.raw_data) for t in model.graph.initializer)
    if not _external(external_data, total):
        _write(target, model, None)
        return
    with _replacing(_data_path(target)) as (file, finish_data):
        _write(target, _without_data(model, _Sink(file, _data_path(target).name)), finish_data)


def _external(external_data: bool | None, total: int) -> bool:
    return total > EXTERNAL_ABOVE if external_data is None else external_data


def _data_path(target: Path) -> Path:
    return target.with_name(target.name + ".data")


class _Sink:
    """Appends the bytes of tensors to a file and writes the place of each into its proto."""

    def __init__(self, file: IO[bytes], location: str) -> None:
        self.file = file
        self.location = location
        self.offset = 0

    def append(self, proto: onnx.TensorProto, data: bytes) -> None:
        padding = -self.offset % _ALIGNMENT
        self.file.write(b"\0" * padding)
        self.offset += padding
        self.file.write(data)
        proto.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", self.location), ("offset", self.offset), ("length", len(data))):
            entry = proto.external_data.add()
            entry.key, entry.value = key, str(value)
        self.offset += len(data)


def _without_data(model: onnx.ModelProto, sink: _Sink) -> onnx.ModelProto:
    """A copy of the model whose large initializers are in the sink. The model itself stays as it is."""
    slim = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name == "graph":
            continue
        _copy_field(slim, field.name, value)
    for field, value in model.graph.ListFields():
        if field.name != "initializer":
            _copy_field(slim.graph, field.name, value)
    for tensor in model.graph.initializer:
        copy = slim.graph.initializer.add()
        if len(tensor.raw_data) < INLINE_BELOW:
            copy.CopyFrom(tensor)
            continue
        copy.name, copy.data_type = tensor.name, tensor.data_type
        copy.dims.extend(tensor.dims)
        sink.append(copy, tensor.raw_data)
    return slim


def _copy_field(message: object, name: str, value: object) -> None:
    if hasattr(value, "CopyFrom"):
        getattr(message, name).CopyFrom(value)
    elif isinstance(value, str | bytes | int | float):
        setattr(message, name, value)
    else:
        getattr(message, name).extend(value)


def _write(target: Path, model: onnx.ModelProto, finish_data: Callable[[], None] | None) -> None:
    with _replacing(target) as (file, finish):
        try:
            file.write(model.SerializeToString())
        except ValueError as error:
            raise SerializationError(
                f"{target} would be larger than a protocol buffer may be; save with external_data=True"
            ) from error
        if finish_data is not None:
            finish_data()
        finish()


@contextmanager
def _replacing(target: Path) -> Iterator[tuple[IO[bytes], Callable[[], None]]]:
    """Give a temporary file beside `target` and the function that puts it in its place. Without the call, or on an
    error, the temporary file is removed."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise SerializationError(f"cannot write {target}: {error.strerror}; choose another folder") from error
    try:
        with os.fdopen(descriptor, "wb") as file:

            def finish() -> None:
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.replace(name, target)

            yield file, finish
    except OSError as error:
        raise SerializationError(f"cannot write {target}: {error.strerror}; nothing was changed") from error
    finally:
        Path(name).unlink(missing_ok=True)
