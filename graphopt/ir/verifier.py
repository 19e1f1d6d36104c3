"""The verifier: uses, dominance, schema, and types recomputed by inference and compared."""

from __future__ import annotations

from collections.abc import Iterable

from graphopt.errors import GraphOptError, VerificationError
from graphopt.ir.attributes import EMPTY, is_of_kind
from graphopt.ir.dims import Symbol
from graphopt.ir.graph import Graph
from graphopt.ir.infer import infer_with_symbols
from graphopt.ir.op import MISSING, SEGMENTS, ParamKind
from graphopt.ir.printer import print_node
from graphopt.ir.types import TensorType, type_symbols, types_compatible
from graphopt.ir.value import Node, Value


def verify(graph: Graph) -> None:
    """Check the whole graph. O(nodes + uses).

    Raises:
        VerificationError: names the broken invariant, the node and its origin.
    """
    _verify(graph, {})


def _verify(graph: Graph, outer: dict[str, Symbol]) -> None:
    symbols = dict(outer)
    names: set[str] = set(graph.constants)
    for value in graph.inputs:
        if not value.name or value.name in names or not value.is_input:
            raise VerificationError(f"graph {graph.name} needs a name of its own for input %{value.name or '?'}")
        names.add(value.name)
        _bind_input_symbols(graph, value, symbols)
    defined: set[Value] = set(graph.inputs)
    for name, value in graph.constants.items():
        _check_constant(name, value)
        defined.add(value)
    count = 0
    for node in graph:
        _check_operands(node, defined)
        _check_node(node, symbols)
        defined.update(node.results)
        count += 1
    _check_operands(graph.terminator, defined)
    if count != len(graph):
        raise VerificationError(f"graph {graph.name} counts {len(graph)} nodes but links {count}")
    _check_uses(graph, defined)
    _check_mutations(graph)


def verify_nodes(graph: Graph, nodes: Iterable[Node]) -> None:
    """Check only `nodes` (those a pass touched), their order against their producers included.

    Whether each symbol is bound before it is used is seen by `verify` alone.
    """
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
    _check_node(node, None)


def _check_node(node: Node, symbols: dict[str, Symbol] | None) -> None:
    _check_schema(node)
    for region in node.regions:
        _verify(region, symbols or {})
    makes_symbols = _check_types(node)
    if symbols is not None:
        _check_symbols(node, symbols, makes_symbols)


def _bind_input_symbols(graph: Graph, value: Value, symbols: dict[str, Symbol]) -> None:
    for symbol in type_symbols(value.type):
        if symbols.setdefault(symbol.name, symbol) != symbol:
            raise VerificationError(f"graph {graph.name} has two symbols of the name {symbol.name} (%{value.name})")


def _check_symbols(node: Node, symbols: dict[str, Symbol], makes_symbols: bool) -> None:
    """Symbols are bound by an input, or by the node that makes them; attributes may use what is bound."""
    for symbol in node.attributes.symbols:
        if symbols.get(symbol.name) != symbol:
            raise _error(node, f"symbol {symbol.name} in an attribute is not bound by an input or a node before")
    for result in node.results:
        for symbol in type_symbols(result.type):
            known = symbols.get(symbol.name)
            if known is None and makes_symbols:
                symbols[symbol.name] = symbol
            elif known is None:
                raise _error(node, f"symbol {symbol.name} of %{result.name} is not bound by an input or a node before")
            elif known != symbol:
                raise _error(node, f"symbol {symbol.name} of %{result.name} has another range where it is bound")


def _check_operands(node: Node, defined: set[Value]) -> None:
    for index, operand in enumerate(node._operands):
        if operand is None:
            continue
        if operand not in defined:
            raise _error(node, f"operand {index} (%{operand.name}) is not defined before its use")
        if (node, index) not in operand._uses:
            raise _error(node, f"operand {index} (%{operand.name}) does not list this use")


def _check_schema(node: Node) -> None:
    op, attributes = node.op, node.attributes
    if op.variadics or None in node._operands or len(node._operands) != len(op.operand_params):
        _check_operand_params(node)
    if attributes.valid_for is not op and (attributes is not EMPTY or op.attribute_params):
        _check_attributes(node)
        attributes.valid_for = op


def _check_operand_params(node: Node) -> None:
    op = node.op
    sizes = op.segments(len(node._operands), node.attributes)
    if len(sizes) != len(op.operand_params) or sum(sizes) != len(node._operands) or (sizes and min(sizes) < 0):
        raise _error(node, f"{op.name} takes {len(op.operand_params)} operands, got {len(node._operands)}")
    position = 0
    for param, size in zip(op.operand_params, sizes):
        if param.kind is ParamKind.OPERAND and (not size or node._operands[position] is None):
            raise _error(node, f"{op.name} needs operand {param.name!r}")
        position += size


def _check_attributes(node: Node) -> None:
    op, attributes = node.op, node.attributes
    params = {param.name: param for param in op.attribute_params}
    for name, param in params.items():
        if name not in attributes:
            if param.default is MISSING:
                raise _error(node, f"{op.name} needs attribute {name!r}")
        elif attributes[name] is not param.default and not is_of_kind(attributes[name], param.type):
            raise _error(node, f"attribute {name!r} of {op.name} is {attributes[name]!r}, not of type {param.type}")
    for name in attributes:
        if name not in params and name != SEGMENTS and not op.open:
            raise _error(node, f"{op.name} has no attribute {name!r}")


def _check_types(node: Node) -> bool:
    """Compare result types with inference. Return whether the node may introduce symbols."""
    if node.op.infer is None:
        return True
    try:
        inferred, makes_symbols = infer_with_symbols(node)
    except GraphOptError as error:
        raise _error(node, str(error)) from error
    if len(inferred) != len(node.results):
        raise _error(node, f"inference gives {len(inferred)} results, the node has {len(node.results)}")
    for result, type_ in zip(node.results, inferred):
        if result.type is not type_ and not types_compatible(result.type, type_):
            raise _error(node, f"result %{result.name} is {result.type!r}, inference says {type_!r}")
    return makes_symbols


def _check_constant(name: str, value: Value) -> None:
    constant, type_ = value.constant, value.type
    if constant is None or value.name != name or not isinstance(type_, TensorType):
        raise VerificationError(f"constant {name!r} is not a stored tensor of that name")
    if tuple(constant.tensor.shape) != type_.shape or constant.tensor.dtype != type_.dtype.storage:
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
