"""The intermediate representation: SSA graphs with typed values, symbolic dims and source locations."""

from graphopt.ir.attributes import Attributes
from graphopt.ir.bind import bind, complete
from graphopt.ir.compare import difference, structurally_equal
from graphopt.ir.dims import Dim, Expr, Symbol, symbol
from graphopt.ir.dtypes import DType, from_torch
from graphopt.ir.fresh import new_symbols
from graphopt.ir.graph import Graph, clone_graph, walk
from graphopt.ir.infer import infer_node, infer_types
from graphopt.ir.location import UNKNOWN, Location
from graphopt.ir.op import MISSING, Call, Op, Param, ParamKind, Trait
from graphopt.ir.parser import parse_graph
from graphopt.ir.printer import print_graph, print_node
from graphopt.ir.signature import Fixed, Literal, Signature, Slot
from graphopt.ir.types import (
    NoneType,
    OptionalType,
    ScalarKind,
    ScalarType,
    SequenceType,
    TensorType,
    Type,
    UnrankedType,
    substitute_type,
    types_known_equal,
)
from graphopt.ir.value import Constant, ConstantKind, Node, Use, Value
from graphopt.ir.verifier import verify, verify_node, verify_nodes
from graphopt.ir.view import to_networkx

__all__ = [
    "MISSING",
    "UNKNOWN",
    "Attributes",
    "Call",
    "Constant",
    "ConstantKind",
    "DType",
    "Dim",
    "Expr",
    "Fixed",
    "Graph",
    "Literal",
    "Location",
    "Node",
    "NoneType",
    "Op",
    "OptionalType",
    "Param",
    "ParamKind",
    "ScalarKind",
    "ScalarType",
    "SequenceType",
    "Signature",
    "Slot",
    "Symbol",
    "TensorType",
    "Trait",
    "Type",
    "UnrankedType",
    "Use",
    "Value",
    "bind",
    "clone_graph",
    "complete",
    "difference",
    "from_torch",
    "infer_node",
    "infer_types",
    "new_symbols",
    "parse_graph",
    "print_graph",
    "print_node",
    "structurally_equal",
    "substitute_type",
    "symbol",
    "to_networkx",
    "types_known_equal",
    "verify",
    "verify_node",
    "verify_nodes",
    "walk",
]
