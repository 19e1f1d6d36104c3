"""Branches, and recurrent layers."""

from __future__ import annotations

from graphopt.ir import Graph, TensorType, Value, bind, infer_types
from graphopt.ir.dims import Dim
from graphopt.ir.value import Node
from graphopt.ops import get_op
from graphopt.testing.builder import BOOL, F32, FLOATS, GraphBuilder
from graphopt.testing.domain import BOOL as TRUTH
from graphopt.testing.domain import Domain, symmetric
from graphopt.testing.samplers.table import register_sampler

BRANCH_OPERATORS = ("relu", "neg", "sigmoid", "abs", "tanh")


def branch(b: GraphBuilder, name: str, operands: list[Value]) -> Graph:
    """A region of the operands' types: nothing, or an operator or two of the first operand, then the sum of all."""
    region = Graph(name)
    inputs = [region.add_input(f"{name}_{i}", v.type) for i, v in enumerate(operands)]
    value = inputs[0]
    for _ in range(b.integer(0, 2)):
        value = append(region, b.one(BRANCH_OPERATORS), value)
    for other in inputs[1:]:
        value = append(region, "add.Tensor", value, other)
    region.set_outputs([value])
    return region


def append(region: Graph, op: str, *operands: Value) -> Value:
    op_object = get_op(f"aten.{op}")
    bound, attributes = bind(op_object, operands, {})
    return region.append(Node(op_object, bound, attributes, infer_types(op_object, bound, attributes))).result


@register_sampler("higher_order.cond")
def cond(b: GraphBuilder) -> None:
    x = b.tensor(FLOATS)
    operands = [x, b.like(TensorType(x.dtype, x.shape))] if b.flag() else [x]
    predicate = b.find((BOOL,), (0, 0), exact=True) if b.flag() else None
    if predicate is None:
        if b.domain(x).exact and b.flag():
            predicate = b.emit("any", b.emit("gt.Scalar", x, 0, domain=TRUTH), domain=TRUTH)
        else:
            predicate = b.leaf(TensorType(BOOL, ()))
    regions = (branch(b, "then", operands), branch(b, "otherwise", operands))
    bound = sum(b.domain(v).magnitude for v in operands)
    b.emit(b.op, predicate, operands, regions=regions, domain=symmetric(max(bound, 1.0)))


@register_sampler("lstm.input gru.input")
def recurrent(b: GraphBuilder) -> None:
    """One layer over a short sequence, one or both ways."""
    size, hidden = b.integer(1, 3), b.integer(1, 3)
    steps, batch = b.dim(static=True), b.dim()
    both, batch_first = b.flag(), b.flag()
    ways = 2 if both else 1
    shape: tuple[Dim, ...] = (batch, steps, size) if batch_first else (steps, batch, size)
    x = b.like(TensorType(F32, shape), bound=8.0)
    gates = (4 if b.op.startswith("lstm") else 3) * hidden
    one_way = ((gates, size), (gates, hidden), (gates,), (gates,))
    params = [b.weight(F32, *s) for _ in range(ways) for s in one_way]
    state = b.emit("zeros", (ways, batch, hidden), domain=Domain(0.0, 0.0))
    states: list[Value] | Value = [state, state] if b.op.startswith("lstm") else state
    b.emit(b.op, x, states, params, True, 1, 0.0, False, both, batch_first, domain=symmetric(8.0))
