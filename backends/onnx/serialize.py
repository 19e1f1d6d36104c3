"""From finished bodies to an `onnx.ModelProto`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import onnx
import torch
from onnx.helper import find_min_ir_version_for

from graphopt.backends.onnx.labels import label
from graphopt.backends.onnx.names import assign_names
from graphopt.backends.onnx.records import Body, Operation, Tensor
from graphopt.ir import from_torch
from graphopt.ops.onnx_attributes import fill_attribute
from graphopt.ops.onnx_dtypes import ONNX_CODES, raw_bytes
from graphopt.ops.onnx_metadata import OWN_PRODUCER, Note, OnnxMetadata
from graphopt.ops.onnx_nested import Rename, rename, unique
from graphopt.ops.onnx_values import type_to_proto
from graphopt.ops.quantization import is_packed, pack

WriteData = Callable[[onnx.TensorProto, torch.Tensor], None]

_OLDEST_IR = 4
"""From this IR version on an initializer need not be an input, too."""
_NO_NOTE = Note()
_Kind = onnx.AttributeProto


def to_model(
    body: Body,
    opset: int,
    name: str,
    write_data: WriteData | None = None,
    metadata: OnnxMetadata | None = None,
    *,
    flat: bool = False,
) -> onnx.ModelProto:
    """Write a finished body as a model. Unused operations and initializers are left out.

    write_data: fills in the elements of an initializer; by default they go into the model. metadata: of the file that
    the graph was read from. flat: all initializers in the main graph; else one that only a branch uses is in the
    branch, for a runtime passes a branch what it uses of the graph around at each run.
    """
    drop_dead(body)
    initializers = used_initializers(body)
    taken = assign_names(body, initializers)
    rename_nested(body, unique(taken))
    label(body, metadata)
    model = onnx.ModelProto()
    for domain, version in _domains(body, opset).items():
        entry = model.opset_import.add()
        entry.domain, entry.version = domain, version
    model.ir_version = max(_OLDEST_IR, find_min_ir_version_for(list(model.opset_import), ignore_unknown=True))
    model.producer_name = OWN_PRODUCER
    model.producer_version = _version()
    graph = model.graph
    graph.name = name
    stored = {id(body): initializers} if flat else placed_initializers(body)
    _Writer(stored, write_data or write_raw).body(graph, body)
    if metadata is not None:
        _write_metadata(model, metadata)
    return model


def _write_metadata(model: onnx.ModelProto, metadata: OnnxMetadata) -> None:
    model.domain, model.model_version = metadata.domain, metadata.model_version
    metadata.model_note().write(model)
    graph = model.graph
    graph.name = metadata.graph_name or graph.name
    metadata.graph.write(graph)
    for value in (*graph.input, *graph.output, *graph.initializer):
        metadata.values.get(value.name, _NO_NOTE).write(value)
    for info in (*graph.input, *graph.output, *graph.value_info) if metadata.dims else ():
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param in metadata.dims:
                dim.dim_param = metadata.dims[dim.dim_param]


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("graphopt")
    except PackageNotFoundError:
        return ""


def drop_dead(body: Body) -> None:
    """Remove the operations that no output depends on."""
    live = {id(t) for t in body.outputs}
    _sweep(body, live)


def _sweep(body: Body, live: set[int]) -> None:
    kept: list[Operation] = []
    for operation in reversed(body.operations):
        if not any(id(out) in live for out in operation.outputs):
            continue
        kept.append(operation)
        live.update(id(t) for t in operation.uses)
        for inner in operation.bodies():
            live.update(id(t) for t in inner.outputs)
            _sweep(inner, live)
    body.operations = kept[::-1]


def used_initializers(body: Body) -> list[Tensor]:
    """The initializers in order of first use, those of subgraphs included."""
    found: dict[int, Tensor] = {}

    def visit(tensors: Iterable[Tensor | None]) -> None:
        for tensor in tensors:
            if tensor is not None and tensor.data is not None:
                found.setdefault(id(tensor), tensor)

    def walk(current: Body) -> None:
        for operation in current.operations:
            visit(operation.uses)
            for inner in operation.bodies():
                walk(inner)
        visit(current.outputs)

    walk(body)
    return list(found.values())


def placed_initializers(body: Body) -> dict[int, list[Tensor]]:
    """The initializers by the innermost body that has all of their uses, as that body's id."""
    found: dict[int, tuple[Tensor, tuple[Body, ...]]] = {}

    def visit(tensors: Iterable[Tensor | None], path: tuple[Body, ...]) -> None:
        for tensor in tensors:
            if tensor is not None and tensor.data is not None:
                known = found.get(id(tensor), (tensor, path))[1]
                found[id(tensor)] = tensor, tuple([a for a, b in zip(known, path) if a is b])

    def walk(path: tuple[Body, ...]) -> None:
        for operation in path[-1].operations:
            visit(operation.uses, path)
            for inner in operation.bodies():
                walk((*path, inner))
        visit(path[-1].outputs, path)

    walk((body,))
    placed: dict[int, list[Tensor]] = {}
    for tensor, path in found.values():
        placed.setdefault(id(path[-1]), []).append(tensor)
    return placed


def _domains(body: Body, opset: int) -> dict[str, int]:
    found = {"": opset}
    for operation in body.operations:
        if operation.domain:
            found[operation.domain] = 1
        found.update(operation.imports)
        for inner in operation.bodies():
            found.update({d: v for d, v in _domains(inner, opset).items() if d})
    return found


def rename_nested(body: Body, fresh: Rename) -> None:
    """Let graphs that are given as protocol buffers speak of outer values by their final names, and give what they
    define names of its own."""
    for operation in body.operations:
        nested = [a for a in operation.attributes.values() if isinstance(a, _Kind) and (a.graphs or a.HasField("g"))]
        if nested:
            node = onnx.NodeProto(attribute=nested)  # a copy
            rename(node, {name: tensor.name for name, tensor in operation.captured.items()}, fresh)
            operation.attributes.update((a.name, a) for a in node.attribute)
        for inner in operation.bodies():
            rename_nested(inner, fresh)


def write_type(info: onnx.ValueInfoProto, tensor: Tensor) -> None:
    """Write a tensor's name, element type and shape; symbolic dims by their text."""
    info.name = tensor.name
    if tensor.type is not None:
        info.type.CopyFrom(type_to_proto(tensor.type, str))
        return
    type_ = info.type.tensor_type
    type_.elem_type = ONNX_CODES[tensor.dtype]
    if tensor.shape is None:
        return
    type_.shape.SetInParent()
    for dim in tensor.shape:
        entry = type_.shape.dim.add()
        if isinstance(dim, int):
            entry.dim_value = dim
        else:
            entry.dim_param = str(dim)


class _Writer:
    """Writes bodies as graphs.

    stored: the initializers of each body, by its id. write_data: fills in their elements.
    """

    def __init__(self, stored: dict[int, list[Tensor]], write_data: WriteData) -> None:
        self.stored = stored
        self.write_data = write_data

    def body(self, graph: onnx.GraphProto, body: Body) -> None:
        """Write what a body holds."""
        for tensor in self.stored.get(id(body), ()):
            write_initializer(graph.initializer.add(), tensor, self.write_data)
        for tensor in body.inputs:
            write_type(graph.input.add(), tensor)
        for tensor in body.outputs:
            write_type(graph.output.add(), tensor)
        outputs = {id(t) for t in body.outputs}
        for operation in body.operations:
            self.operation(graph.node.add(), operation)
            for tensor in operation.outputs:
                if tensor.shape is not None and id(tensor) not in outputs:
                    write_type(graph.value_info.add(), tensor)

    def operation(self, proto: onnx.NodeProto, operation: Operation) -> None:
        """Write an operation as a node."""
        proto.op_type = operation.op_type
        proto.name = operation.name
        if operation.domain:
            proto.domain = operation.domain
        inputs = [t.name if t is not None else "" for t in operation.inputs]
        while inputs and not inputs[-1]:
            inputs.pop()
        proto.input.extend(inputs)
        positions = operation.positions or range(len(operation.outputs))
        named = dict(zip(positions, [t.name for t in operation.outputs]))
        proto.output.extend([named.get(position, "") for position in range(max(named, default=-1) + 1)])
        for name, value in operation.attributes.items():
            if isinstance(value, Body):
                attribute = proto.attribute.add(name=name, type=_Kind.GRAPH)
                attribute.g.name = value.name
                self.body(attribute.g, value)
            else:
                write_attribute(proto.attribute.add(), name, value)
        operation.note.write(proto)


def write_attribute(proto: onnx.AttributeProto, name: str, value: Any) -> None:
    """Write an attribute of any kind that lowerings use, but for a body."""
    proto.name = name
    if isinstance(value, torch.Tensor):
        proto.type = _Kind.TENSOR
        write_initializer(proto.t, Tensor(from_torch(value.dtype), tuple(value.shape), "", value), write_raw)
    elif isinstance(value, _Kind):
        proto.CopyFrom(value)
    elif isinstance(value, onnx.TensorProto):
        proto.type = _Kind.TENSOR
        proto.t.CopyFrom(value)
    else:
        fill_attribute(proto, value)


def write_initializer(proto: onnx.TensorProto, tensor: Tensor, write_data: WriteData) -> None:
    """Write an initializer's name, type and elements."""
    assert tensor.data is not None
    if tensor.name:
        proto.name = tensor.name
    proto.data_type = ONNX_CODES[tensor.dtype]
    proto.dims.extend(tensor.data.shape)
    write_data(proto, pack(tensor.data, tensor.dtype) if is_packed(tensor.dtype) else tensor.data)


def point_to(proto: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    """Say that the elements lie outside of the model: `length` bytes from `offset` on."""
    proto.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        proto.external_data.add(key=key, value=str(value))


def write_raw(proto: onnx.TensorProto, data: torch.Tensor) -> None:
    """Put the elements into the model."""
    proto.raw_data = raw_bytes(data)
