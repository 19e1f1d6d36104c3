"""From a graph of the IR to the operations of an ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.backends.onnx import lowerings as _lowerings  # noqa: F401  (fills the table)
from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.long_tail import lower_by_exporter
from graphopt.backends.onnx.names import output_names
from graphopt.backends.onnx.opaque import lower_opaque, tensor_of
from graphopt.backends.onnx.records import Body, Tensor
from graphopt.backends.onnx.registry import COMPLEX, LOWERINGS, Call, Declined
from graphopt.errors import EmissionError, GraphOptError
from graphopt.ir import DType, Graph, Node, NoneType, ScalarKind, ScalarType, TensorType, Trait, Type, Value, print_node
from graphopt.ops.onnx_dialect import is_opaque

DEFAULT_OPSET = 20
_SCALARS = {ScalarKind.INT: DType.I64, ScalarKind.FLOAT: DType.F64, ScalarKind.BOOL: DType.BOOL}


def build(graph: Graph, emitter: Emitter) -> Body:
    """Lower a whole graph. Inputs keep their names; what the graph updates is an input and an output more.

    Raises:
        EmissionError: a node that neither the table nor the exporter library can express.
    """
    body = emitter.body
    for value in (*graph.inputs, *mutated_constants(graph)):
        tensor = input_tensor(value.type, value.name)
        body.inputs.append(tensor)
        emitter.bind(value, tensor)
        record_scalar(body, value, tensor)
    lower_nodes(graph, emitter)
    for value in graph.returned:
        if isinstance(value.type, TensorType) and value.type.dtype.is_complex:
            raise EmissionError(
                f"output %{value.name} is complex, which has no ONNX form; return real and imaginary parts"
            )
    names = [*output_names(graph), *(f"{target}_updated" for target in graph.mutations)]
    body.outputs = body_outputs(emitter, [emitter.tensor(value) for value in graph.returned], names)
    return body


def mutated_constants(graph: Graph) -> list[Value]:
    """The buffers that the graph updates, in the order of its mutations."""
    inputs = {value.name for value in graph.inputs}
    return [graph.constants[name] for name in graph.mutations if name not in inputs]


def input_tensor(type_: Type, name: str) -> Tensor:
    """A graph input. A Python number becomes a tensor without dims.

    Raises:
        EmissionError: a value of no kind that ONNX has.
    """
    if isinstance(type_, ScalarType):
        return Tensor(_SCALARS[type_.kind], (), name)
    if isinstance(type_, NoneType):
        raise EmissionError(f"input {name!r} is {type_!r}, which ONNX has no type for")
    return tensor_of(type_, name)


def record_scalar(body: Body, value: Value, tensor: Tensor) -> None:
    """Let the dims that a number names be read off it."""
    if isinstance(value.type, ScalarType) and value.type.value is not None and not isinstance(value.type.value, int):
        body.record_dim(value.type.value, tensor, -1)


def body_outputs(emitter: Emitter, tensors: Sequence[Tensor], names: Sequence[str] = ()) -> list[Tensor]:
    """The outputs of the body: a copy of what it didn't make itself, and of what is an output already."""
    made = {id(out) for operation in emitter.body.operations for out in operation.outputs}
    outputs = []
    for index, tensor in enumerate(tensors):
        made_here = id(tensor) in made
        if not made_here and names and tensor.name == names[index]:
            outputs.append(tensor)  # an input or a stored tensor that is an output under its own name
            continue
        if not made_here or tensor.is_output:
            kind = tensor.type
            tensor = emitter.op("Identity", tensor, shape=tensor.shape)
            tensor.type = kind
        tensor.is_output = True
        tensor.name = names[index] if names else tensor.name
        outputs.append(tensor)
    return outputs


def lower_nodes(graph: Graph, emitter: Emitter) -> None:
    """Lower the nodes of a graph or region into the emitter's body."""
    before = emitter.origin
    for node in graph:
        emitter.origin = node
        for value, tensor in zip(node.results, lower_node(node, emitter)):
            if isinstance(value.type, TensorType) and not value.type.dtype.is_complex:
                tensor = emitter.cast(tensor, value.type.dtype)
            emitter.bind(value, tensor)
            record_scalar(emitter.body, value, tensor)
    emitter.origin = before


def lower_node(node: Node, emitter: Emitter) -> Sequence[Tensor]:
    """Lower one node: by the table, else by the exporter library."""
    operands = [None if v is None else emitter.tensor(v) for v in node.operands]
    if is_opaque(node):
        return lower_opaque(emitter, node, operands)
    lowering = LOWERINGS.get(node.op.name) if node.op.name in COMPLEX or not _has_complex(node) else None
    declined = ""
    if lowering is not None:
        mark = len(emitter.body.operations)
        try:
            lowered = lowering(emitter, Call(node, node.op.bind_names(operands, node.attributes)))
            return (lowered,) if isinstance(lowered, Tensor) else lowered
        except Declined as reason:
            declined = str(reason)
            del emitter.body.operations[mark:]
        except GraphOptError:
            raise
        except Exception as error:
            raise cannot_express(node, f"its lowering failed: {error}") from error
    if node.op.has(Trait.REGION):
        raise cannot_express(node, "this control flow has no lowering")
    try:
        return lower_by_exporter(emitter, node, operands)
    except EmissionError as error:
        reasons = f"the table declined ({declined}) and " if declined else ""
        raise cannot_express(node, f"{reasons}{error}") from error


def _has_complex(node: Node) -> bool:
    values = (*node.operands, *node.results)
    return any(v is not None and isinstance(v.type, TensorType) and v.type.dtype.is_complex for v in values)


def cannot_express(node: Node, reason: str) -> EmissionError:
    """The error for a node that has no ONNX form."""
    return EmissionError(
        f"{node.op.name} cannot be expressed in ONNX: {reason}\n  in: {print_node(node)}\n  from: {node.location}\n"
        "  Replace the operator in the model, rewrite it by a pass, or register a lowering with "
        f"`graphopt.backends.onnx.lowers({node.op.name!r})`."
    )


__all__ = ["body_outputs", "build", "cannot_express", "input_tensor", "lower_node", "lower_nodes", "mutated_constants"]
