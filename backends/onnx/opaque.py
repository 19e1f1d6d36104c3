"""Nodes of the `onnx` dialect, written back as they were read.

A node of the standard domain means what its operator means in the opset that it was read with. In a file of another
opset it is written as it is where the operator is the same there, else as onnx's version converter has it, else not at
all. Unless the caller names an opset, a file with an operator that is newer than the default opset has it has that of
the operator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from graphopt.backends.onnx.quantization_opsets import needed_opset
from graphopt.backends.onnx.records import Operation, Tensor
from graphopt.backends.onnx.versions import means_the_same
from graphopt.errors import EmissionError
from graphopt.ir import DType, Graph, Node, OptionalType, SequenceType, TensorType, Type, UnrankedType, Value, walk
from graphopt.ops.onnx_dialect import CAPTURED, OUTPUTS, imports_of, is_opaque, node_proto
from graphopt.ops.onnx_dtypes import FROM_ONNX_CODE
from graphopt.ops.onnx_inference import infer_shapes
from graphopt.ops.onnx_nested import captured_names, graphs_of, short_domain
from graphopt.ops.onnx_runtime import make_model
from graphopt.ops.onnx_values import type_to_proto

if TYPE_CHECKING:
    import onnx

    from graphopt.backends.onnx.emitter import Emitter


SINCE = {"aten.view.dtype": 26, "graphopt.attention": 23, "graphopt.segment_attention": 23}
"""Operators whose only ONNX form is of a later opset than the default."""
_BFLOAT16 = 22
_LATE_BFLOAT16 = ("aten.conv", "aten.max_pool", "aten.avg_pool", "aten.adaptive_", "aten.elu", "aten.hard", "aten.mish")
"""Convolutions, poolings and a few others take bfloat16 from here on; the rest of the operators did before."""
_TANH_GELU = 20
"""GELU by tanh is an operator from here on: runtimes don't know its parts, which take up to 16 times as long."""


def opset_for(graph: Graph, wanted: int) -> int:
    """The opset in which to write a graph: the wanted one, or a later one that a quantization needs, or that of an
    opaque node which is not the same there.

    A node of an earlier opset is converted; none is converted to an earlier one.
    """
    found = max(wanted, *[max(needed_opset(node), _since(node)) for node in walk(graph)], 0)
    for node in walk(graph):
        if is_opaque(node):
            proto, imports = _proto(node), imports_of(node.op.name, node.attributes)
            own = imports.get("", 0)
            if own > found and _changed(proto, imports, wanted, _type_texts(node)):
                found = own
    return found


def _since(node: Node) -> int:
    if node.op.name == "aten.gelu" and node.attr("approximate") == "tanh":
        return _TANH_GELU
    if node.op.name.startswith(_LATE_BFLOAT16) and _dtype(node.results[0]) is DType.BF16:
        return _BFLOAT16
    return SINCE.get(node.op.name, 0)


def _dtype(value: Value) -> DType | None:
    return value.type.dtype if isinstance(value.type, TensorType) else None


def lower_opaque(e: Emitter, node: Node, operands: Sequence[Tensor | None]) -> list[Tensor]:
    """Write a node of the dialect.

    Raises:
        EmissionError: its operator means something else in the opset that is written.
    """
    proto = _proto(node)
    imports = imports_of(node.op.name, node.attributes)
    captured = node.attributes.get(CAPTURED, ())
    given, outer = operands[: len(operands) - len(captured)], operands[len(operands) - len(captured) :]
    outputs = [tensor_of(value.type) for value in node.results]
    changed = _changed(proto, imports, e.opset, _type_texts(node))
    if changed:
        names = dict(zip([*proto.input, *captured], [*given, *outer]))
        return _converted(e, node, proto, names, ", ".join(changed))
    operation = Operation(proto.op_type, given, outputs, {a.name: a for a in proto.attribute}, proto.domain, e.origin)
    operation.captured = {name: tensor for name, tensor in zip(captured, outer) if tensor is not None}
    operation.imports = {domain: version for domain, version in imports.items() if domain}
    operation.positions = tuple(node.attr(OUTPUTS))
    e.body.operations.append(operation)
    return outputs


def tensor_of(type_: Type, name: str = "") -> Tensor:
    """A tensor, sequence or optional of the ONNX graph."""
    if isinstance(type_, TensorType):
        return Tensor(type_.dtype, type_.shape, name)
    inner: Type = type_
    while isinstance(inner, SequenceType | OptionalType):
        inner = inner.element
    assert isinstance(inner, TensorType | UnrankedType), f"ONNX has no type for {type_!r}"
    tensor = Tensor(inner.dtype, None, name)
    tensor.type = type_
    return tensor


def _proto(node: Node) -> onnx.NodeProto:
    count = len(node.operands) - len(node.attributes.get(CAPTURED, ()))
    inputs = [f"i{n}" if v is not None else "" for n, v in enumerate(node.operands[:count])]
    positions = node.attr(OUTPUTS)
    return node_proto(node.op.name, inputs, [f"o{p}" for p in positions], dict(node.attributes), positions)


def _standard_nodes(proto: onnx.NodeProto, imports: dict[str, int]) -> Iterator[tuple[onnx.NodeProto, int]]:
    """The nodes of the standard domain in a node, itself included, with the opset that each means."""
    if not short_domain(proto.domain):
        yield proto, imports[""]
    for graph in graphs_of(proto):
        for inner in graph.node:
            yield from _standard_nodes(inner, imports)


def _changed(proto: onnx.NodeProto, imports: dict[str, int], opset: int, types: Sequence[str]) -> list[str]:
    """The operators that mean something else in another opset, of a node and the nodes in its graphs."""
    nodes = _standard_nodes(proto, imports)
    found = [p.op_type for p, own in nodes if not means_the_same(p, own, opset, types if p is proto else None)]
    return list(dict.fromkeys(found))


def _type_texts(node: Node) -> list[str]:
    """The types of the operands, as ONNX's schemas write them."""
    return ["" if v is None else _type_text(type_to_proto(v.type)) for v in node.operands]


def _type_text(proto: onnx.TypeProto) -> str:
    from onnx import TensorProto

    if proto.HasField("sequence_type"):
        return f"seq({_type_text(proto.sequence_type.elem_type)})"
    if proto.HasField("optional_type"):
        return f"optional({_type_text(proto.optional_type.elem_type)})"
    return f"tensor({TensorProto.DataType.Name(proto.tensor_type.elem_type).lower()})"


def _converted(
    e: Emitter, node: Node, proto: onnx.NodeProto, operands: dict[str, Tensor | None], changed: str
) -> list[Tensor]:
    """Append what onnx's version converter makes of a node. operands: by name, captured ones included."""
    model = _convert(e, node, proto, operands, changed)
    tensors = {**operands, "": None}
    for initializer in model.graph.initializer:
        tensors[initializer.name] = _stored(e, initializer)
    types = {info.name: info.type for info in (*model.graph.value_info, *model.graph.output)}
    for inner in model.graph.node:
        outputs = [_declared(types.get(name)) for name in inner.output]
        tensors.update(zip(inner.output, outputs))
        attributes = {a.name: a for a in inner.attribute}
        operation = Operation(
            inner.op_type, [tensors[n] for n in inner.input], outputs, attributes, inner.domain, e.origin
        )
        captured = {name: tensors[name] for name in captured_names(inner)}
        operation.captured = {name: tensor for name, tensor in captured.items() if tensor is not None}
        operation.imports = {o.domain: o.version for o in model.opset_import if o.domain}
        operation.positions = tuple([i for i, name in enumerate(inner.output) if name])
        operation.outputs = [t for t, name in zip(outputs, inner.output) if name]
        e.body.operations.append(operation)
    found = [tensors[f"o{position}"] for position in node.attr(OUTPUTS)]
    return [t for t in found if t is not None]


def _convert(
    e: Emitter, node: Node, proto: onnx.NodeProto, operands: dict[str, Tensor | None], changed: str
) -> onnx.ModelProto:
    from onnx import ValueInfoProto, version_converter

    def info(name: str, type_: Type) -> onnx.ValueInfoProto:
        made = ValueInfoProto(name=name)
        made.type.CopyFrom(type_to_proto(type_, str))
        return made

    inputs = [info(name, v.type) for name, v in zip(operands, node.operands) if v is not None]
    outputs = [info(f"o{p}", v.type) for p, v in zip(node.attr(OUTPUTS), node.results)]
    model = make_model([proto], inputs, outputs, imports_of(node.op.name, node.attributes))
    try:
        if "Scan" in changed:  # the converter takes the Scan over batches of opset 8 for the later one
            raise ValueError("no conversion of Scan is known")
        return infer_shapes(version_converter.convert_version(model, e.opset), data_prop=False)
    except Exception as error:  # the converter raises whatever its checks do
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise EmissionError(
            f"{changed} of opset {imports_of(node.op.name, node.attributes)['']} cannot be written in opset {e.opset}, "
            f"where the meaning is another ({reason}); {_remedy(node)}"
        ) from error


def _remedy(node: Node) -> str:
    return f"write the file with opset={imports_of(node.op.name, node.attributes).get('', 0)}"


def _stored(e: Emitter, initializer: onnx.TensorProto) -> Tensor:
    from onnx import numpy_helper

    from graphopt.ops.onnx_values import from_numpy

    return e.constant(from_numpy(numpy_helper.to_array(initializer)))


def _declared(proto: onnx.TypeProto | None) -> Tensor:
    """A tensor of a declared type. Its shape is left open."""
    if proto is None or proto.WhichOneof("value") != "tensor_type":
        return Tensor(DType.F32, None)
    return Tensor(FROM_ONNX_CODE.get(proto.tensor_type.elem_type, DType.F32), None)
