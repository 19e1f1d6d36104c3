"""ONNX models into IR graphs."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from graphopt.errors import CaptureError, GraphOptError
from graphopt.frontends.onnx.application import NeedsValue
from graphopt.frontends.onnx.functions import Functions
from graphopt.frontends.onnx.interface import symbol_name
from graphopt.frontends.onnx.opsets import Opsets
from graphopt.frontends.onnx.parameters import follow_parameters, set_kinds
from graphopt.frontends.onnx.reader import Reader
from graphopt.frontends.onnx.tensors import Folder
from graphopt.frontends.onnx.text import check_text
from graphopt.ir import Fixed, Graph, verify
from graphopt.ops.onnx_metadata import OnnxMetadata

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class OnnxFile:
    """A parsed model. folder: where its external data may lie; None for a model that was not read from a file."""

    model: onnx.ModelProto
    folder: Folder | None = None

    @functools.cached_property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs in order. An initializer that is listed as an input is a default, and is kept."""
        stored = {tensor.name for tensor in self.model.graph.initializer}
        return tuple([value.name for value in self.model.graph.input if value.name not in stored])


class MissingValue(CaptureError):
    """The contents of an input decide shapes, and were not given.

    name: of the input.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"the contents of input {name!r} decide shapes, so they must be known: give an example in args or kwargs "
            f"(on the command line: --value {name}=1,3,8 or --value {name}=FILE.npy). {reason}"
        )
        self.name = name


def open_onnx(source: str | os.PathLike[str] | bytes | onnx.ModelProto) -> OnnxFile:
    """Parse a model.

    source: a path, the bytes of a file, or a model.

    Raises:
        CaptureError: the file cannot be read, or is no ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError

    folder: Folder | None = None
    if isinstance(source, onnx.ModelProto):
        model = source
    else:
        if not isinstance(source, bytes):
            path = Path(source)
            folder = Folder(path.parent)
            try:
                source = path.read_bytes()
            except OSError as error:
                raise CaptureError(f"cannot read {path}: {error.strerror}") from error
        model = onnx.ModelProto()
        try:
            model.ParseFromString(source)
        except DecodeError as error:
            raise CaptureError(f"this is no ONNX model: {error}") from error
        check_text(model)
    if not model.graph.output:
        raise CaptureError("the model has no outputs; the file is damaged or is no ONNX model")
    return OnnxFile(model, folder)


def read_onnx(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto | OnnxFile,
    values: Mapping[str, torch.Tensor] | None = None,
    native: bool = False,
    ranks: Mapping[str, int] | None = None,
) -> Graph:
    """Return the graph of an ONNX model, in ATen operators.

    source: a path, the bytes of a file, or a model. values: contents of inputs that decide shapes (the target of a
        `Reshape`, say); the graph holds for these alone, and its signature says so. native: keep the few operators
        that only several of PyTorch express (`RoiAlign`, say), since an engine for ONNX runs them faster. ranks: of
        inputs of which the file says no shape. What is computed from an input of unknown rank stays ONNX's operators.

    Raises:
        CaptureError: the file is damaged, or holds a node that cannot be read; the message names it.
    """
    from graphopt.frontends.onnx import operators  # noqa: F401  (registers the rules)

    file = source if isinstance(source, OnnxFile) else open_onnx(source)
    proto = file.model.graph
    graph = Graph(_identifier(proto.name))
    values = values or {}
    opsets = Opsets.of(file.model)
    reader = Reader(graph, opsets, file.folder, values, ranks or {}, functions=Functions.of(file.model), native=native)
    reader.read(proto)
    assert graph.signature is not None
    graph.signature = replace(
        graph.signature,
        out_names=tuple([output.name for output in proto.output]),
        fixed=tuple([Fixed.of(i, values[v.name]) for i, v in enumerate(graph.inputs) if v.name in values]),
    )
    follow_parameters(graph, proto, reader.builder.derived)
    OnnxMetadata.of(file.model, opsets.versions[""], _dim_names(file.model)).put_on(graph)
    verify(graph)
    return graph


def read_given(file: OnnxFile, given: Mapping[str, torch.Tensor], native: bool = False) -> Graph:
    """Return the graph of a model for inputs like those given: fixed are the contents of those that decide shapes.

    given: inputs by name. Those that decide nothing may be left out. native: as for `read_onnx`.

    Raises:
        MissingValue: an input decides shapes and is not given.
        CaptureError: as `read_onnx`.
    """
    values: dict[str, torch.Tensor] = {}
    ranks = {name: value.dim() for name, value in given.items() if isinstance(value, torch.Tensor)}
    while True:
        try:
            return read_onnx(file, values, native, ranks)
        except GraphOptError as error:
            name = _needed(error)
            if name is None or name in values or name not in file.inputs:
                raise
            if name not in given:
                raise MissingValue(name, str(error)) from error
            values[name] = given[name]


def stored_tensors(file: OnnxFile) -> Graph:
    """Return a graph that has the initializers of a model as constants, and nothing else."""
    graph = Graph(_identifier(file.model.graph.name))
    Reader(graph, Opsets.of(file.model), file.folder).read_initializers(file.model.graph)
    set_kinds(graph, file.model.graph)
    graph.set_outputs([])
    return graph


def _needed(error: BaseException) -> str | None:
    """The name of the tensor whose contents were missing, if that is why reading failed."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, NeedsValue):
            return cause.name
        cause = cause.__cause__
    return None


def _dim_names(model: onnx.ModelProto) -> dict[str, str]:
    """The names of dims that a symbol cannot have, by the symbol."""
    types = [value.type.tensor_type for value in model.graph.input]
    names = [dim.dim_param for type_ in types for dim in type_.shape.dim if dim.dim_param]
    return {symbol: name for name in names if (symbol := symbol_name(name)) != name}


def _identifier(name: str) -> str:
    text = "".join(c if c.isalnum() or c == "_" else "_" for c in name)
    return text if text[:1].isalpha() or text[:1] == "_" else "main"
