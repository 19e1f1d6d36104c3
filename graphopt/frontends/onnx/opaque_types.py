"""Result types of nodes that stay as they are, by ONNX's own shape inference on a model of the one node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graphopt.errors import TypeInferenceError
from graphopt.frontends.onnx.entries import Entry, Known
from graphopt.frontends.onnx.tensors import dtype_of
from graphopt.ir import DType, Expr, OptionalType, SequenceType, Symbol, TensorType, Type, UnrankedType, Value
from graphopt.ir.dims import Dim, symbols_of
from graphopt.ir.fresh import placeholder
from graphopt.ops.onnx_inference import infer_shapes
from graphopt.ops.onnx_nested import graphs_of
from graphopt.ops.onnx_runtime import load_session, make_model
from graphopt.ops.onnx_values import to_numpy, type_to_proto

if TYPE_CHECKING:
    import onnx

MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operators, which the onnx package has no schemas of."""

SMALL = 4096
"""Contents of constants of at most so many elements are told to inference."""


@dataclass
class Dims:
    """Names of dims for ONNX, and back. What ONNX names by itself is a size that depends on data: a placeholder.

    bound: the symbols of the graph's inputs. Others may differ among the elements of a sequence.
    """

    bound: frozenset[Symbol]
    names: dict[Expr, str] = field(default_factory=dict)
    dims: dict[str, Dim] = field(default_factory=dict)
    fresh: int = 0

    def name(self, dim: Expr) -> str:
        """The name of a dim."""
        if dim not in self.names:
            self.names[dim] = f"d{len(self.names)}"
            self.dims[self.names[dim]] = dim
        return self.names[dim]

    def element(self, dim: Expr) -> str:
        """The name of a dim in a sequence's elements; "" if it may vary."""
        return self.name(dim) if set(symbols_of(dim)) <= self.bound else ""

    def dim(self, proto: onnx.TensorShapeProto.Dimension) -> Dim:
        """The dim that inference gave."""
        if proto.HasField("dim_value") and proto.dim_value >= 0:
            return int(proto.dim_value)
        name = proto.dim_param if proto.HasField("dim_param") else ""
        if not name or name not in self.dims:
            self.fresh += 1
            new = placeholder(self.fresh - 1)
            if not name:
                return new
            self.dims[name] = new
        return self.dims[name]


_TAKING_LISTS = frozenset(
    [
        "CenterCropPad",
        "Col2Im",
        "ConstantOfShape",
        "Expand",
        "Pad",
        "Reshape",
        "Resize",
        "Slice",
        "Squeeze",
        "Tile",
        "Unsqueeze",
        "Upsample",
    ]
)
MOST_DIMS = 1000


def result_types(
    node: onnx.NodeProto,
    operands: Mapping[str, tuple[Value, Entry]],
    imports: Mapping[str, int],
    declared: Mapping[str, onnx.TypeProto],
    bound: Sequence[Symbol],
) -> list[Type]:
    """Return the types of a node's named outputs.

    operands: by name, the value and what stands for it (contents that are known are told to inference). declared: types
    that the file says outputs have, used where nothing can be inferred. bound: the symbols of the graph's inputs.

    Raises:
        TypeInferenceError: ONNX says that the operands don't fit, or knows no type for an output.
    """
    _refuse_long_lists(node, operands)
    dims = Dims(frozenset(bound))
    model = _model(node, operands, imports, dims)
    inferred = _inferred(model) if node.domain != MICROSOFT else _by_runtime(model)
    types = []
    for name in node.output:
        if not name:
            continue
        proto = _better(inferred.get(name), declared.get(name))
        if proto is None or not proto.WhichOneof("value"):
            raise TypeInferenceError(
                f"the type of output {name!r} cannot be inferred; declare it among the graph's value_info"
            )
        types.append(type_from_proto(proto, dims, f"output {name!r}"))
    return types


def _refuse_long_lists(node: onnx.NodeProto, operands: Mapping[str, tuple[Value, Entry]]) -> None:
    """ONNX's inference makes a list as long as an operand that holds sizes or axes says it is."""
    if node.op_type not in _TAKING_LISTS and not node.op_type.startswith("Reduce"):
        return
    for name in node.input[node.op_type != "ConstantOfShape" :]:
        type_ = operands[name][0].type if name in operands else None
        if isinstance(type_, TensorType) and type_.rank == 1:
            length = type_.shape[0]
            if isinstance(length, int) and length > MOST_DIMS:
                raise TypeInferenceError(f"{name!r} holds {length} sizes or axes, and no tensor has so many dims")


def _better(inferred: onnx.TypeProto | None, declared: onnx.TypeProto | None) -> onnx.TypeProto | None:
    """What inference found, unless it found nothing, or no rank where the file says one."""
    if inferred is None or not inferred.WhichOneof("value"):
        return declared
    tensor = inferred.tensor_type if inferred.WhichOneof("value") == "tensor_type" else None
    if tensor is None or tensor.HasField("shape") or declared is None:
        return inferred
    told = declared.tensor_type.HasField("shape") and declared.tensor_type.elem_type == tensor.elem_type
    return declared if told else inferred


def type_from_proto(proto: onnx.TypeProto, dims: Dims, what: str) -> Type:
    """Return the IR type of an ONNX type.

    Raises:
        CaptureError: an element type that the IR does not know.
        TypeInferenceError: a type that is no tensor, sequence or optional.
    """
    kind = proto.WhichOneof("value")
    if kind == "tensor_type":
        tensor = proto.tensor_type
        dtype = dtype_of(tensor.elem_type, what)
        if not tensor.HasField("shape"):
            return UnrankedType(dtype)
        return TensorType(dtype, tuple([dims.dim(d) for d in tensor.shape.dim]))
    if kind == "sequence_type":
        return SequenceType(type_from_proto(proto.sequence_type.elem_type, dims, what))
    if kind == "optional_type":
        return OptionalType(type_from_proto(proto.optional_type.elem_type, dims, what))
    raise TypeInferenceError(f"{what} is a {kind}, which is not supported")


def _model(
    node: onnx.NodeProto, operands: Mapping[str, tuple[Value, Entry]], imports: Mapping[str, int], dims: Dims
) -> onnx.ModelProto:
    from onnx import ValueInfoProto

    infos, outputs = [], [ValueInfoProto(name=name) for name in node.output if name]
    for name, (value, _) in operands.items():
        info = ValueInfoProto(name=name)
        namer = dims.name if isinstance(value.type, TensorType) else dims.element
        info.type.CopyFrom(type_to_proto(value.type, namer))
        infos.append(info)
    model = make_model([node], infos, outputs, imports)
    _forget_declared(model.graph.node[0])
    for name, (value, entry) in operands.items():
        _tell_contents(model, name, value, entry, dims)
    return model


def _forget_declared(node: onnx.NodeProto) -> None:
    """Let inference find what graphs in a node say of their values: files are often wrong about it, and run all the
    same."""
    for graph in graphs_of(node):
        del graph.value_info[:]
        for value in graph.output:
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")
        for inner in graph.node:
            _forget_declared(inner)


def _tell_contents(model: onnx.ModelProto, name: str, value: Value, entry: Entry, dims: Dims) -> None:
    """A constant is an initializer; a vector of dims is the shape of a tensor that has them."""
    from onnx import NodeProto, ValueInfoProto, numpy_helper

    constant = value.constant
    if constant is not None and constant.tensor.numel() <= SMALL:
        model.graph.initializer.append(numpy_helper.from_array(to_numpy(constant.tensor, value.type), name))
    elif isinstance(entry, Known) and len(entry.shape) == 1:
        like = ValueInfoProto(name=f"{name} as sizes")
        like.type.CopyFrom(type_to_proto(TensorType(DType.F32, tuple(entry.flat)), dims.name))
        infos = [info for info in model.graph.input if info.name != name]
        del model.graph.input[:]
        model.graph.input.extend([*infos, like])
        model.graph.node.insert(0, NodeProto(op_type="Shape", input=[like.name], output=[name]))


def _inferred(model: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """The types of the outputs that inference finds."""
    return {value.name: value.type for value in infer_shapes(model).graph.output}


def _by_runtime(model: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """The types that ONNX Runtime infers for a node of its own domain; none if it cannot load the node.

    It shows a scalar like a tensor of unknown rank, so that the rank is read off the type of `Shape`.
    """
    from onnx import NodeProto, TypeProto, ValueInfoProto

    names = [value.name for value in model.graph.output]
    asking = type(model)()
    asking.CopyFrom(model)
    for name in names:
        asking.graph.node.append(NodeProto(op_type="Shape", input=[name], output=[f"{name} rank"]))
        asking.graph.output.append(ValueInfoProto(name=f"{name} rank"))
    try:
        outputs = load_session(asking.SerializeToString()).get_outputs()
    except Exception:  # its exceptions share no base; what it cannot load it says nothing of
        return {}
    found = {}
    for value, rank in zip(outputs, outputs[len(names) :]):
        proto = TypeProto()
        proto.tensor_type.elem_type = _element_of(value.type)
        if rank.shape and isinstance(rank.shape[0], int):
            proto.tensor_type.shape.SetInParent()
            for size in value.shape:
                entry = proto.tensor_type.shape.dim.add()
                if isinstance(size, int):
                    entry.dim_value = size
                elif size:
                    entry.dim_param = size
        found[value.name] = proto
    return found


def _element_of(text: str) -> int:
    """The data type code of `tensor(float)`."""
    from onnx import TensorProto

    return int(TensorProto.DataType.Value(text.removeprefix("tensor(").removesuffix(")").upper()))
