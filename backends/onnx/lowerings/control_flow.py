"""Control flow: `cond` is an If, `while_loop` a Loop."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.records import Body, Tensor
from graphopt.backends.onnx.registry import Call, lowers
from graphopt.backends.onnx.shaping import reshape
from graphopt.ir import DType, Expr, Graph, TensorType, Value
from graphopt.ir.dims import Dim


def _types(a: Call) -> tuple[list[DType], list[tuple[Dim, ...]]]:
    types = [t for t in a.types if isinstance(t, TensorType)]
    return [t.dtype for t in types], [t.shape for t in types]


@lowers("higher_order.cond")
def _lower_cond(e: Emitter, a: Call) -> Sequence[Tensor]:
    """The branches read the operands from the graph around them."""
    branches = [_branch(e, region, a.operands, name) for region, name in zip(a.node.regions, ("then", "else"))]
    dtypes, shapes = _types(a)
    predicate = e.cast(reshape(e, a.predicate, ()), DType.BOOL)
    return e.ops("If", predicate, dtypes=dtypes, shapes=shapes, then_branch=branches[0], else_branch=branches[1])


def _branch(e: Emitter, region: Graph, operands: Sequence[Tensor], name: str) -> Body:
    from graphopt.backends.onnx.model import body_outputs

    with e.inside(name) as body:
        body.outputs = body_outputs(e, _inline(e, region, operands))
    return body


def _inline(e: Emitter, region: Graph, operands: Sequence[Tensor]) -> list[Tensor]:
    """Lower a region into the current body with tensors in the place of its inputs; return its outputs."""
    from graphopt.backends.onnx.model import lower_nodes

    for value, tensor in zip(region.inputs, operands):
        _bind_input(e, value, tensor)
    lower_nodes(region, e)
    outputs = [e.tensor(value) for value in region.outputs]
    for node in region:
        for result in node.results:
            e.body.values.pop(result, None)
    return outputs


def _bind_input(e: Emitter, value: Value, tensor: Tensor) -> None:
    """Bind a region's input. The region may name the sizes of the tensor in its own way."""
    e.bind(value, tensor)
    if isinstance(value.type, TensorType):
        for axis, dim in enumerate(value.type.shape):
            if isinstance(dim, Expr):
                e.body.record_dim(dim, tensor, axis)


@lowers("higher_order.while_loop")
def _lower_while_loop(e: Emitter, a: Call) -> Sequence[Tensor]:
    """A Loop tests the condition that its body returns; so the condition is computed once before it, and again at
    the end of the body on the new values. What is not carried is read from around."""
    condition, step = a.node.regions
    dtypes, shapes = _types(a)
    carried = len(dtypes)
    first = _inline(e, condition, a.operands)[0]
    with e.inside("body") as body:
        iteration = Tensor(DType.I64, (), "iteration")
        keep = Tensor(DType.BOOL, (), "keep_going")
        values = [Tensor(t.dtype, s, "carried") for t, s in zip(a.operands[:carried], shapes)]
        body.inputs = [iteration, keep, *values]
        operands = [*values, *a.operands[carried:]]
        results = _inline(e, step, operands)
        again = _inline(e, condition, [*results, *a.operands[carried:]])[0]
        from graphopt.backends.onnx.model import body_outputs

        body.outputs = body_outputs(e, [reshape(e, e.cast(again, DType.BOOL), ()), *results])
    start = reshape(e, e.cast(first, DType.BOOL), ())
    return e.ops("Loop", None, start, *a.operands[:carried], dtypes=dtypes, shapes=shapes, body=body)
