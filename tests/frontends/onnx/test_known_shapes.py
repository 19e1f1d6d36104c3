"""What is computed from sizes is known as dims; sizes that are computed from data become symbols."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import parser

from graphopt.analysis import Interpreter
from graphopt.backends.onnx import emit_onnx
from graphopt.errors import GraphOptError
from graphopt.frontends.onnx import read_onnx
from graphopt.ir import Graph
from tests.frontends.onnx.oracle import expected_of

HEADER = '<ir_version: 10, opset_import: ["" : 18]>\n'


def model(text: str, inputs: str = "float[N, C, 4] x", output: str = "float y") -> onnx.ModelProto:
    return parser.parse_model(f"{HEADER}main ({inputs}) => ({output}) {{ {text} }}")


def check(proto: onnx.ModelProto, *arrays: np.ndarray) -> Graph:
    """Hold the graph, and the file that it is written to, to ONNX Runtime on the original."""
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    inputs = dict(zip([v.name for v in proto.graph.input], arrays))
    graph = read_onnx(proto)
    assert not [node for node in graph if node.op.name.startswith("onnx.")]
    (wanted,) = expected_of(proto, inputs)
    (got,) = Interpreter(graph).run(*map(torch.from_numpy, arrays))
    torch.testing.assert_close(got, torch.from_numpy(wanted))
    (again,) = expected_of(emit_onnx(graph), inputs)
    np.testing.assert_allclose(again, wanted, rtol=1e-5)
    return graph


TARGETS = {
    "scattered": """s = Shape(x) i = Constant<value = int64[1,1] {2}>()
        u = Constant<value = int64[1] {-1}>() t = ScatterND(s, i, u)""",
    "split": "s = Shape(x) a, b, c = Split<num_outputs = 3>(s) t = Concat<axis = 0>(b, a, c)",
    "tiled": """s = Shape<start = 0, end = 1>(x) d = Tile(s, two) q = Constant<value = int64[1] {1}>()
        h = Gather(d, q) t = Concat<axis = 0>(h, minus)""",
    "chosen": """s = Shape(x) m = Constant<value = int64[3] {-1, -1, -1}>() e = Equal(s, m)
        o = Constant<value = int64[3] {1, 1, 1}>() t = Where(e, o, s)""",
    "filled": """s = Shape(x) p = Constant<value = int64[1] {1}>() f = ConstantOfShape<value = int64[1] {1}>(p)
        h = Slice(s, zero, two) a, b = Split<num_outputs = 2>(h) n = Mul(b, four) k = Mul(f, a)
        t = Concat<axis = 0>(k, n)""",
    "reduced": """s = Shape<start = 1>(x) p = ReduceProd<keepdims = 1>(s) t = Concat<axis = 0>(minus, p)""",
    "transposed": """s = Shape(x) k = Constant<value = int64[2] {1, -1}>() r = Slice(s, zero, two)
        g = Reshape(r, k) h = Transpose(g) f = Reshape(h, flat) t = Concat<axis = 0>(f, minus)""",
}
CONSTANTS = """zero = Constant<value = int64[1] {0}>() two = Constant<value = int64[1] {2}>()
    four = Constant<value = int64[1] {4}>() minus = Constant<value = int64[1] {-1}>()
    flat = Constant<value = int64[1] {-1}>() """


@pytest.mark.parametrize("name", TARGETS)
def test_targets_of_a_reshape_vanish(name: str) -> None:
    graph = check(model(f"{CONSTANTS} {TARGETS[name]} y = Reshape(x, t)"), np.random.rand(3, 5, 4).astype(np.float32))
    assert len(graph) <= 1


def test_expanded_by_known_sizes() -> None:
    text = f"{CONSTANTS} s = Shape(x) t = Concat<axis = 0>(two, s) y = Expand(x, t)"
    graph = check(model(text), np.random.rand(3, 5, 4).astype(np.float32))
    assert str(graph.outputs[0].type) == "f32[2, N, C, 4]"


@pytest.mark.parametrize("kind", ["int64", "int32", "float", "double"])
@pytest.mark.parametrize(("first", "last", "step"), [(0, 7, 2), (5, -4, -3), (3, 3, 1), (4, 1, 1)])
def test_ranges_that_are_computed(kind: str, first: int, last: int, step: int) -> None:
    text = "b = Neg(m) a = Abs(b) first, last, step = Split<num_outputs = 3>(n) k = Constant<value = int64[1] {0}>() \
        f = Squeeze(first, k) l = Squeeze(last, k) s = Squeeze(step, k) r = Range(f, l, s) y = Add(r, a)"
    proto = model(text, f"{kind}[3] n, {kind} m", f"{kind}[K] y")
    dtype = {"float": "float32", "double": "float64"}.get(kind, kind)
    check(proto, np.array([first, last, step], dtype=dtype), np.array(2, dtype=dtype))


def test_tensors_of_computed_shapes() -> None:
    text = "z = Constant<value = int64[1] {0}>() n = ReduceMax<keepdims = 1>(x) p = Abs(n) f = ConstantOfShape(p) \
        c = Cast<to = 1>(z) e = Expand(c, p) y = Add(f, e)"
    graph = check(model(text, "int64[K] x", "float[L] y"), np.array([2, -1, 4]))
    assert str(graph.outputs[0].type) == "f32[u0]"


def test_choices_that_are_not_known_are_computed() -> None:
    text = "o = Constant<value = int64[3] {1, 2, 3}>() s = Shape(x) c = Greater(z, o) y = Where(c, s, o)"
    check(
        model(text, "float[N, C, 4] x, int64[3] z", "int64[3] y"),
        np.zeros((2, 3, 4), dtype=np.float32),
        np.array([0, 5, 1]),
    )


def test_an_index_that_no_size_has_is_refused_by_name() -> None:
    text = "s = Shape(x) i = Constant<value = int64 {7}>() y = Gather(s, i)"
    with pytest.raises(GraphOptError, match=r"Gather"):
        read_onnx(model(text, output="int64 y"))
