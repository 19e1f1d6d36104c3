"""Writing models to disk: all or nothing, with the weights in a file of their own where they are large."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import onnx
import torch

from graphopt.backends.onnx.emission import Emission
from graphopt.backends.onnx.serialize import point_to, write_raw
from graphopt.errors import SerializationError
from graphopt.ir import Graph
from graphopt.ir.files import replaceable
from graphopt.ops.onnx_dtypes import raw_view

EXTERNAL_ABOVE = 3 << 29
"""Weights of more bytes in all (1.5 GiB) go to a file of their own: a protocol buffer ends at 2 GiB."""
INLINE_BELOW = 1024
"""Initializers of fewer bytes stay in the model."""
RELEASE_AFTER = 1 << 26
"""After how many bytes the memory of what was written is given back."""
_ALIGNMENT = 4096


def save_onnx(
    graph_or_model: Graph | onnx.ModelProto,
    path: str | Path,
    external_data: bool | None = None,
    *,
    opset: int | None = None,
) -> onnx.ModelProto:
    """Write a graph or model to `path`. A failure leaves no half-written file, and an older file as it was.

    external_data: put the weights into `<path>.data`; None does so above 1.5 GiB. Of a graph they are streamed there
    one by one, and never copied as a whole. opset: of a graph; see `emit_onnx`.

    Returns:
        The model as it is in the file: with external data its large initializers say where they are.

    Raises:
        SerializationError: the file cannot be written.
        EmissionError: the graph cannot be expressed in ONNX.
    """
    if isinstance(graph_or_model, Graph):
        return save_emission(Emission.of(graph_or_model, opset), path, external_data)
    return _save_model(graph_or_model, replaceable(path), external_data)


def save_emission(
    emission: Emission,
    path: str | os.PathLike[str],
    external_data: bool | None = None,
    written: Callable[[], None] | None = None,
) -> onnx.ModelProto:
    """Write a lowered graph; see `save_onnx`. written: is called after every so many bytes of external data."""
    target = replaceable(path)
    if not _external(external_data, emission.sizes):
        return _write(target, emission.to_model(), None)
    with _replacing(_data_path(target)) as (file, finish_data):
        sink = _Sink(file, _data_path(target).name, written)

        def write(proto: onnx.TensorProto, data: torch.Tensor) -> None:
            if data.numel() * data.element_size() < INLINE_BELOW:
                write_raw(proto, data)
            else:
                sink.append(proto, raw_view(data), _memory(data))

        return _write(target, emission.to_model(write), finish_data)


def _memory(data: torch.Tensor) -> tuple[int, int] | None:
    """Where the elements are; the same for tensors that are stored once. None for those that are written otherwise."""
    if not data.is_contiguous() or data.device.type != "cpu":
        return None
    return data.data_ptr(), data.numel() * data.element_size()


def _save_model(model: onnx.ModelProto, target: Path, external_data: bool | None) -> onnx.ModelProto:
    if not _external(external_data, [len(t.raw_data) for t in model.graph.initializer]):
        return _write(target, model, None)
    with _replacing(_data_path(target)) as (file, finish_data):
        return _write(target, _without_data(model, _Sink(file, _data_path(target).name)), finish_data)


def _external(external_data: bool | None, sizes: Sequence[int]) -> bool:
    wanted = sum(sizes) > EXTERNAL_ABOVE if external_data is None else external_data
    return wanted and max(sizes, default=0) >= INLINE_BELOW


def _data_path(target: Path) -> Path:
    return target.with_name(target.name + ".data")


class _Sink:
    """Appends the bytes of tensors to a file and writes the place of each into its proto. Tensors in the same memory
    are written once.

    written: is called after every `RELEASE_AFTER` bytes.
    """

    def __init__(self, file: IO[bytes], location: str, written: Callable[[], None] | None = None) -> None:
        self.file = file
        self.location = location
        self.offset = 0
        self._call, self._since = written, 0
        self._written: dict[tuple[int, int], int] = {}

    def append(self, proto: onnx.TensorProto, data: bytes | memoryview, memory: tuple[int, int] | None = None) -> None:
        """Write a tensor. memory: tells tensors that share it."""
        offset = self._written.get(memory) if memory is not None else None
        if offset is None:
            offset = self._append(data)
            if memory is not None:
                self._written[memory] = offset
        point_to(proto, self.location, offset, len(data))

    def _append(self, data: bytes | memoryview) -> int:
        padding = -self.offset % _ALIGNMENT
        self.file.write(b"\0" * padding)
        start = self.offset + padding
        self.file.write(data)
        self.offset = start + len(data)
        self._since += len(data)
        if self._call is not None and self._since >= RELEASE_AFTER:
            self._call()
            self._since = 0
        return start


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


def _write(target: Path, model: onnx.ModelProto, finish_data: Callable[[], None] | None) -> onnx.ModelProto:
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
    return model


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
