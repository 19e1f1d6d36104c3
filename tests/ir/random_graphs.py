"""Random graphs over a few operators of their own, with everything that the text form can say."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import strategies as st

from graphopt.errors import UnknownNameError
from graphopt.ir import (
    UNKNOWN,
    Attributes,
    Constant,
    ConstantKind,
    DType,
    Graph,
    Location,
    Node,
    NoneType,
    Op,
    OptionalType,
    Param,
    ParamKind,
    ScalarKind,
    ScalarType,
    SequenceType,
    Symbol,
    TensorType,
    Trait,
    Type,
    UnrankedType,
    Value,
    complete,
    from_torch,
)
from graphopt.ir.dims import Dim, dim_max, dim_min, floordiv, from_symbol, mod


def _attribute(name: str, default: Any = None) -> Param:
    return Param(name, ParamKind.ATTRIBUTE, "anything", default)


OPS = {
    op.name: op
    for op in (
        Op("test.source", (_attribute("a"), _attribute("b"))),
        Op("test.pair", (Param("x", ParamKind.OPERAND), _attribute("a", 1), _attribute("b", -0.0))),
        Op(
            "test.optional",
            (Param("x", ParamKind.OPERAND), Param("y", ParamKind.OPTIONAL), Param("z", ParamKind.OPTIONAL)),
        ),
        Op("test.many", (Param("xs", ParamKind.VARIADIC, "Tensor[]"), _attribute("a", "none"))),
        Op("test.same", (Param("x", ParamKind.OPERAND),), infer=lambda call: call.operand_types),  # type: ignore[arg-type, return-value]
        Op("test.two words", (Param("xs", ParamKind.VARIADIC, "Tensor[]"),), open=True),
        Op("test.block", (Param("xs", ParamKind.VARIADIC, "Tensor[]"),), frozenset({Trait.REGION})),
    )
}

SYMBOLS = (
    Symbol("s0"),
    Symbol("batch", 1),
    Symbol("even", 2, 64, 2),
    Symbol("low", -5, 7),
    Symbol("two words"),
    Symbol('quo"te', 0, 9),
    Symbol("none"),
    Symbol("f32", 1),
    Symbol("inf"),
    Symbol("dim"),
    Symbol("max", 3),
    Symbol("größe"),
    Symbol("a.b"),
    Symbol("1st"),
    Symbol("return"),
)


def resolve(name: str) -> Op:
    """The operator of a name."""
    if name not in OPS:
        raise UnknownNameError(f"Unknown operator {name!r}.")
    return OPS[name]


TEXTS = st.one_of(
    st.sampled_from(["x", "layer.0.weight", "two words", 'quo"te', "back\\slash", "line\nbreak", "é", "%x", "7", "//"]),
    st.text(max_size=5).filter(lambda text: all(ord(c) < 0xD800 or ord(c) > 0xDFFF for c in text)),
)
FLOATS = st.floats(allow_nan=False) | st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 1e-300, 1e16])


@st.composite
def dims(draw: Any, symbols: tuple[Symbol, ...] = SYMBOLS) -> Dim:
    """A size: a number, or an expression over a few symbols."""
    kind = draw(st.integers(0, 5))
    if kind < 2 or not symbols:
        return int(draw(st.sampled_from([3, 1, 0, 2, 16, 10**12])))
    result: Dim = from_symbol(draw(st.sampled_from(symbols)))
    for _ in range(draw(st.integers(0, 3))):
        other: Dim = draw(st.one_of(st.integers(-3, 5), st.sampled_from(symbols).map(from_symbol)))
        operation = draw(st.sampled_from(["+", "*", "//", "%", "max", "min"]))
        if operation == "+":
            result = result + other
        elif operation == "*":
            result = result * other
        elif operation in ("//", "%"):
            positive = abs(other) + 1 if isinstance(other, int) else dim_max(other, 1)
            result = floordiv(result, positive) if operation == "//" else mod(result, positive)
        else:
            result = (dim_max if operation == "max" else dim_min)(result, other)
    return result


@st.composite
def types(draw: Any, depth: int = 1) -> Type:
    """A type of any kind."""
    kind = draw(st.integers(0, 8 if depth else 6))
    if kind <= 3:
        dtype = draw(st.sampled_from(list(DType)))
        device = draw(st.sampled_from(["cpu", "cpu", "cuda", "cuda:1", "meta"]))
        return TensorType(dtype, tuple(draw(st.lists(dims(), max_size=3))), device)
    if kind == 4:
        value = draw(st.none() | dims())
        return ScalarType(draw(st.sampled_from(list(ScalarKind))), value)
    if kind == 5:
        return NoneType()
    if kind == 6:
        return UnrankedType(draw(st.sampled_from(list(DType))))
    return (SequenceType if kind == 7 else OptionalType)(draw(types(depth - 1)))


ATTRIBUTES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | FLOATS
    | st.builds(complex, FLOATS, FLOATS)
    | TEXTS
    | st.binary(max_size=8)
    | st.sampled_from(list(DType))
    | dims(),
    lambda items: st.lists(items, max_size=3).map(tuple),
    max_leaves=6,
)

LOCATIONS = st.just(UNKNOWN) | st.builds(
    Location, TEXTS, st.integers(-1, 10**6), TEXTS, st.lists(TEXTS, max_size=2).map(tuple)
)

_TENSOR_DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.float8_e4m3fn,
]


@st.composite
def constants(draw: Any) -> Constant:
    """A stored tensor, small enough to be printed or not."""
    dtype = draw(st.sampled_from(_TENSOR_DTYPES))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    seed = draw(st.integers(0, 9))
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 10
    if values.numel() and dtype.is_floating_point and draw(st.booleans()):
        values.reshape(-1)[0] = draw(st.sampled_from([math.nan, math.inf, -0.0]))
    kind = draw(st.sampled_from(list(ConstantKind)))
    names = tuple(draw(st.lists(TEXTS, max_size=2)))
    return Constant(values.to(dtype), kind, names, draw(st.booleans()), draw(st.booleans()))


@st.composite
def graphs(draw: Any, depth: int = 1, max_nodes: int = 5) -> Graph:
    """A graph with inputs, constants, nodes (with regions, down to `depth`), outputs and updates."""
    graph = Graph(draw(st.sampled_from(["main", "then", "two words", "é"])))
    for name in draw(st.lists(TEXTS.filter(bool), unique=True, max_size=3)):
        graph.add_input(name, draw(types()))
    names = {value.name for value in graph.inputs}
    for name in draw(st.lists(TEXTS.filter(bool), unique=True, max_size=2)):
        if name not in names:
            constant = draw(constants())
            tensor = constant.tensor
            graph.add_constant(name, TensorType(from_torch(tensor.dtype), tuple(tensor.shape)), constant)
    pool: list[Value] = [*graph.inputs, *graph.constants.values()]
    for _ in range(draw(st.integers(0, max_nodes))):
        pool.extend(graph.append(draw(nodes(pool, depth))).results)
    outputs = draw(st.lists(st.sampled_from(pool), max_size=3)) if pool else []
    targets = [value.name for value in (*graph.inputs, *graph.constants.values())]
    updated = draw(st.lists(st.sampled_from(targets), unique=True, max_size=2)) if targets else []
    graph.set_outputs(outputs, {name: draw(st.sampled_from(pool)) for name in updated})
    return graph


@st.composite
def nodes(draw: Any, pool: list[Value], depth: int) -> Node:
    """A node on values of the pool."""
    usable = [
        op for op in OPS.values() if pool or op.name in ("test.source", "test.many", "test.block", "test.two words")
    ]
    op = draw(st.sampled_from([o for o in usable if depth or o.name != "test.block"]))
    operands: list[Value | None] = []
    for param in op.operand_params:
        if param.kind is ParamKind.VARIADIC:
            operands += draw(st.lists(st.sampled_from(pool), max_size=3)) if pool else []
        elif param.kind is ParamKind.OPERAND or (pool and draw(st.booleans())):
            operands.append(draw(st.sampled_from(pool)))
        else:
            operands.append(None)
    given = {p.name: draw(ATTRIBUTES) for p in op.attribute_params if draw(st.booleans())}
    if op.open:
        given |= draw(
            st.dictionaries(TEXTS.filter(lambda name: name != "operand_segment_sizes"), ATTRIBUTES, max_size=2)
        )
    attributes: Attributes = complete(op, given)
    regions = ()
    if op.has(Trait.REGION):
        regions = tuple(draw(st.lists(graphs(depth=depth - 1, max_nodes=2), min_size=1, max_size=2)))
    result_types = [operands[0].type] if op.infer and operands[0] else draw(st.lists(types(), max_size=2))
    names = draw(st.lists(st.just("") | TEXTS.filter(lambda t: not t.isdigit()), min_size=2, max_size=2))
    return Node(op, operands, attributes, result_types, regions=regions, location=draw(LOCATIONS), names=names)
