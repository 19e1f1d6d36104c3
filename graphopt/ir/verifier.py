"""The verifier: uses, dominance, schema, and types recomputed by inference and compared."""

from __future__ import annotations

from collections.abc import Iterable

from graphopt.errors import GraphOptError, VerificationError
from graphopt.ir.graph import Graph
from graphopt.ir.infer import infer_node
from graphopt.ir.op import MISSING, ParamKind
from graphopt.ir.printer import print_node
from graphopt.ir.types import TensorType, types_compatible
from graphopt.ir.value import Node, Use, Value


def verify(graph: Graph) -> None:
    """Check the whole graph. O(nodes + uses).

    Raises:
        VerificationError: names the broken invariant, the node and its origin.
    """
    defined: set[Value] = set(graph.inputs)
    for name, value in graph.constants.items():
        _check_constant(name, value)
        defined.add(value)
    count = 0
    for node in graph:
        _check_operands(node, defined)
        verify_node(node)
        defined.update(node.results)
        count += 1
    _check_operands(graph.terminator, defined)
    if count != len(graph):
        raise VerificationError(f"graph {graph.name} counts {len(graph)} nodes but links {count}")
    _check_uses(graph, defined)
    _check_mutations(graph)


def verify_nodes(graph: Graph, nodes: Iterable[Node]) -> None:
    """Check only `nodes` (those a pass touched), their order against their producers included."""
    for node in nodes:
        if node.graph is not graph:
            continue
        for operand in node.inputs:
            producer = operand.producer
            if producer is None:
                if operand.constant is not None and graph.constants.get(operand.name) is not operand:
                    raise _error(node, f"operand %{operand.name} is a constant of another graph")
            elif producer.graph is not graph or not graph.is_before(producer, node):
                raise _error(node, f"operand %{operand.name} is not defined before its use")
        verify_node(node)


def verify_node(node: Node) -> None:
    """Check a node by itself: schema, regions and result types."""
    _check_schema(node)
    for region in node.regions:
        verify(region)
    _check_types(node)


def _check_operands(node: Node, defined: set[Value]) -> None:
    for index, operand in enumerate(node._operands):
        if operand is None:
            continue
        if operand not in defined:
            raise _error(node, f"operand {index} (%{operand.name}) is not defined before its use")
        if Use(node, index) not in operand._uses:
            raise _error(node, f"operand {index} (%{operand.name}) does not list this use")


def _check_schema(node: Node) -> None:
    op, attributes = node.op, node.attributes
    sizes = op.segments(len(node._operands), attributes)
    if sum(sizes) != len(node._operands) or any(size < 0 for size in sizes):
        raise _error(node, f"{op.name} takes {len(op.operand_params)} operands, got {len(node._operands)}")
    position = 0
    for param, size in zip(op.operand_params, sizes):
        if param.kind is ParamKind.OPERAND and (not size or node._operands[position] is None):
            raise _error(node, f"{op.name} needs operand {param.name!r}")
        position += size
    for param in op.attribute_params:
        if param.default is MISSING and param.name not in attributes:
            raise _error(node, f"{op.name} needs attribute {param.name!r}")


def _check_types(node: Node) -> None:
    if node.op.infer is None:
        return
    try:
        inferred = infer_node(node)
    except GraphOptError as error:
        raise _error(node, str(error)) from error
    if len(inferred) != len(node.results):
        raise _error(node, f"inference gives {len(inferred)} results, the node has {len(node.results)}")
    for result, type_ in zip(node.results, inferred):
        if not types_compatible(result.type, type_):
            raise _error(node, f"result %{result.name} is {result.type!r}, inference says {type_!r}")


def _check_constant(name: str, value: Value) -> None:
    constant, type_ = value.constant, value.type
    if constant is None or value.name != name or not isinstance(type_, TensorType):
        raise VerificationError(f"constant {name!r} is not a stored tensor of that name")
    if tuple(constant.tensor.shape) != type_.shape or constant.tensor.dtype != type_.dtype.torch:
        raise VerificationError(
            f"constant {name!r} is {type_!r}, its tensor is {constant.tensor.dtype} {tuple(constant.tensor.shape)}"
        )


def _check_uses(graph: Graph, defined: set[Value]) -> None:
    for value in defined:
        for use in value._uses:
            if use.node.graph is not graph or use.node._operands[use.index] is not value:
                raise _error(use.node, f"%{value.name} lists a use that the node does not have")


def _check_mutations(graph: Graph) -> None:
    known = {value.name for value in graph.inputs} | set(graph.constants)
    for target in graph.mutations:
        if target not in known:
            raise VerificationError(f"graph {graph.name} updates {target!r}, which is no input or constant")


def _error(node: Node, message: str) -> VerificationError:
    return VerificationError(f"{message}\n  in: {print_node(node)}\n  from: {node.location}")
