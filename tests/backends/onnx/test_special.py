"""Lowerings that one line of text cannot test: random numbers, control flow, numbers, assertions, grouped products."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch

import graphopt
from graphopt.analysis import run_graph
from graphopt.backends.onnx import OnnxRuntimeEngine, save_onnx
from graphopt.ir import Attributes, Graph, Node
from graphopt.ops import get_op, parse
from tests.backends.onnx.cases import SIZES, case_inputs, make_case
from tests.backends.onnx.oracle import assert_matches, checked, run_session, session


def run(graph: Graph, *inputs: torch.Tensor) -> list[torch.Tensor]:
    return run_session(session(checked(graph)), inputs)


RANDOM = {
    "rand() {size=(40, 50)}": (0.5, 1 / 12),
    "rand_like(%x)": (0.5, 1 / 12),
    "randn() {size=(40, 50)}": (0.0, 1.0),
    "randn_like(%x)": (0.0, 1.0),
    "randn_like(%x) {dtype=f64}": (0.0, 1.0),
    "bernoulli(%p)": (0.25, 3 / 16),
    "bernoulli.p(%x) {p=0.25}": (0.25, 3 / 16),
    "randint() {high=5, size=(40, 50)}": (2.0, 2.0),
    "randint.low() {low=2, high=5, size=(40, 50)}": (3.0, 2 / 3),
    "randint_like(%x) {high=5}": (2.0, 2.0),
    "randint_like.low_dtype(%x) {low=2, high=5}": (3.0, 2 / 3),
}


@pytest.mark.parametrize("call", RANDOM)
def test_random_numbers_have_the_moments_of_their_distribution(call: str) -> None:
    graph = parse(f"input %x: f32[N, 50]\ninput %p: f32[N, 50]\n%y = {call}\nreturn %y")
    x, p = torch.zeros(40, 50), torch.full((40, 50), 0.25)
    (expected,) = run_graph(graph, x, p)
    (got,) = run(graph, x, p)
    mean, variance = RANDOM[call]
    assert got.dtype == expected.dtype and got.shape == expected.shape
    assert abs(float(got.double().mean()) - mean) < 0.15
    assert abs(float(got.double().var()) - variance) < 0.25 * max(variance, 0.1)


COND = """
input %x: f32[N, 3]
parameter %w: f32[3, 3]
%s = sum(%x)
%p = gt.Scalar(%s) {other=0}
%y: f32[N, 3] = higher_order.cond(%p, %x, %w) [
  graph yes {
    input %a: f32[N, 3]
    input %b: f32[3, 3]
    constant %c: f32[3] = (1.0, 2.0, 3.0)
    %m = matmul(%a, %b)
    %r = add.Tensor(%m, %c)
    return %r
  }
  graph no {
    input %a: f32[N, 3]
    input %b: f32[3, 3]
    return %a
  }
]
return %y
"""


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("size", [2, 4])
def test_cond_runs_one_branch(sign: float, size: int) -> None:
    graph = parse(COND)
    x = sign * torch.rand(size, 3)
    assert_matches(graph, [x], run(graph, x))


OWN_WEIGHTS = """
input %x: f32[N, 600]
parameter %shared: f32[600]
parameter %own: f32[600]
%n = sum(%x)
%p = gt.Scalar(%n) {other=0}
%y: f32[N, 600] = higher_order.cond(%p, %x, %shared, %own) [
  graph yes {
    input %a: f32[N, 600]
    input %b: f32[600]
    input %c: f32[600]
    %m = mul.Tensor(%a, %b)
    %r = add.Tensor(%m, %c)
    return %r
  }
  graph no {
    input %a: f32[N, 600]
    input %b: f32[600]
    input %c: f32[600]
    %r = add.Tensor(%a, %b)
    return %r
  }
]
return %y
"""


@pytest.mark.parametrize("external", [False, True])
def test_what_one_branch_alone_uses_is_stored_in_it(tmp_path: Path, external: bool) -> None:
    """A runtime passes a branch what it uses of the graph around, at each run."""
    graph, path = parse(OWN_WEIGHTS), tmp_path / "model.onnx"
    model = save_onnx(graph, path, external)
    (node,) = [n for n in model.graph.node if n.op_type == "If"]
    assert "shared" in [t.name for t in model.graph.initializer]
    assert {a.name: [t.name for t in a.g.initializer] for a in node.attribute} == {
        "then_branch": ["own"],
        "else_branch": [],
    }
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for x in (torch.rand(2, 600), -torch.rand(3, 600)):
        assert_matches(graph, [x], run_session(session, [x]))
        assert_matches(graph, [x], run_graph(graphopt.trace(path), x))


WHILE = """
input %x: f32[N, 3]
input %n: i64[]
%zero = full() {size=(), fill_value=0, dtype=i64}
%i: i64[], %y: f32[N, 3] = higher_order.while_loop(%zero, %x, %n) [
  graph condition {
    input %i: i64[]
    input %v: f32[N, 3]
    input %limit: i64[]
    %go = lt.Tensor(%i, %limit)
    return %go
  }
  graph body {
    input %i: i64[]
    input %v: f32[N, 3]
    input %limit: i64[]
    %next = add.Scalar(%i) {other=1}
    %doubled = mul.Scalar(%v) {other=2}
    %expanded = expand(%next) {size=(N, 3)}
    %sum = add.Tensor(%doubled, %expanded)
    return %next, %sum
  }
]
return %i, %y
"""


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_while_loop_runs_until_its_condition_fails(steps: int) -> None:
    graph = parse(WHILE)
    for size in (1, 4):
        x = torch.randn(size, 3)
        value = x
        for i in range(steps):
            value = value * 2 + (i + 1)
        count, result = run(graph, x, torch.tensor(steps))
        assert int(count) == steps
        torch.testing.assert_close(result, value)


def test_a_number_taken_from_a_tensor_gives_a_size() -> None:
    graph = parse("""
        input %n: i64[]
        %k: int(u0) = _local_scalar_dense(%n)
        %y: f32[u0, 2] = ones() {size=(u0, 2)}
        return %y""")
    for size in (0, 3):
        (result,) = run(graph, torch.tensor(size))
        assert result.shape == (size, 2)


def test_item_and_sym_size_are_numbers() -> None:
    graph = parse("""
        input %x: f32[N, 1]
        input %n: f32[1]
        %k: float = item(%n)
        %s: int(N) = sym_size.int(%x) {dim=0}
        return %k, %s""")
    value, size = run(graph, torch.zeros(4, 1), torch.tensor([2.5]))
    assert (float(value), int(size)) == (2.5, 4)


@pytest.mark.parametrize("name", ["aten._assert_async", "aten._assert_async.msg", "aten._assert_tensor_metadata"])
def test_assertions_leave_no_trace(name: str) -> None:
    graph = parse("input %x: bool[]\n%y = logical_not(%x)\nreturn %y")
    attributes = {"assert_msg": "must hold"} if name.endswith("msg") else {}
    graph.append(Node(get_op(name), [graph.inputs[0]], Attributes(attributes)))
    assert [node.op_type for node in checked(graph).graph.node] == ["Not"]


EMPTY = [
    "empty.memory_format() {size=(N, 2)} -> f32[N, 2]",
    "empty_like(f32[N, 2]) {dtype=i64} -> i64[N, 2]",
    "empty_permuted() {size=(3, 2), physical_layout=(1, 0)} -> f32[3, 2]",
    "empty_strided() {size=(3, 2), stride=(1, 3)} -> f32[3, 2]",
    "new_empty(f32[N]) {size=(N, 2)} -> f32[N, 2]",
    "new_empty_strided(f32[N]) {size=(3, 2), stride=(1, 3)} -> f32[3, 2]",
]


@pytest.mark.parametrize("line", EMPTY)
def test_empty_tensors_have_their_type_and_any_values(line: str) -> None:
    case = make_case(line)
    inputs = case_inputs(case, SIZES[0])
    (expected,), (result,) = run_graph(case.graph, *inputs), run(case.graph, *inputs)
    assert result.dtype == expected.dtype and result.shape == expected.shape


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", ["embedding_bag", "_embedding_bag", "_embedding_bag_forward_only"])
def test_bags_of_embeddings(name: str, mode: int, last: bool) -> None:
    weights = "none" if mode else "%s"
    call = f"{name}(%w, %i, %o, {weights}) {{mode={mode}, include_last_offset={str(last).lower()}}}"
    graph = parse(f"""
        parameter %w: f32[10, 4]
        input %i: i64[N]
        input %o: i64[3]
        input %s: f32[N]
        %y: f32[{2 if last else 3}, 4], %a: i64[N], %b: i64[3], %c: i64[3] = {call}
        return %y""")
    for size, offsets in ((7, [0, 2, 7]), (4, [0, 0, 4])):
        offsets = offsets if last else [0, offsets[1], offsets[2] - 1]
        inputs = [torch.arange(size), torch.tensor(offsets), torch.rand(size)]
        assert_matches(graph, inputs, run(graph, *inputs))


def test_random_orders_are_permutations() -> None:
    (order,) = run(parse("input %x: f32[N]\n%y: i64[N] = randperm() {n=N}\nreturn %y"), torch.zeros(50))
    assert sorted(order.tolist()) == list(range(50)) != order.tolist()


def test_grouped_products_multiply_each_group_by_its_own_weight() -> None:
    pytest.importorskip("transformers.integrations.moe")
    graph = parse("""
        input %x: f32[T, 4]
        parameter %w: f32[3, 4, 5]
        input %ends: i32[3]
        %y: f32[T, 5] = transformers.grouped_mm_fallback(%x, %w, %ends)
        return %y""")
    for size, ends in ((6, [2, 2, 6]), (4, [1, 3, 4])):
        inputs = [torch.randn(size, 4), torch.tensor(ends, dtype=torch.int32)]
        assert_matches(graph, inputs, run(graph, *inputs))


def test_grouped_products_in_bf16() -> None:
    graph = parse("""
        input %x: bf16[8, 16]
        input %w: bf16[3, 16, 8]
        input %ends: i32[3]
        %y: bf16[8, 8] = _grouped_mm(%x, %w, %ends)
        return %y""")
    x, w = torch.randn(8, 16).bfloat16(), torch.randn(3, 16, 8).bfloat16()
    inputs = [x, w, torch.tensor([2, 5, 8], dtype=torch.int32)]
    expected = torch.cat([x[:2] @ w[0], x[2:5] @ w[1], x[5:] @ w[2]])
    (result,) = OnnxRuntimeEngine(threads=1).load(graph).run(inputs)
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("masked", [float("-inf"), torch.finfo(torch.float32).min, -1e30])
def test_rows_of_attention_without_a_key(masked: float, stored: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, 5, 8, generator=generator) for _ in range(3))
    mask = torch.zeros(2, 1, 5, 5)
    mask[1, :, 2] = masked
    mask[0, :, 3, 2:] = masked
    given = "constant %m: f32[2, 1, 5, 5]" if stored else "input %m: f32[2, 1, 5, 5]"
    graph = parse(
        "input %q: f32[2, 2, 5, 8]\ninput %k: f32[2, 2, 5, 8]\ninput %v: f32[2, 2, 5, 8]\n"
        f"{given}\n%y = scaled_dot_product_attention(%q, %k, %v, %m)\nreturn %y",
        {"m": mask} if stored else None,
    )
    inputs = (q, k, v) if stored else (q, k, v, mask)
    (want,) = run_graph(graph, *inputs)
    engine = OnnxRuntimeEngine(threads=1, optimization="off", opset=23)
    (got,) = engine.load(graph).run(inputs)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


FOURIER = {
    "rfft": "%z = fft_rfft(%x) {dim=1}\n%y = view_as_real(%z)",
    "irfft": "%z = view_as_complex(%p)\n%y = fft_irfft(%z) {n=14, dim=1}",
    "fft": "%z = complex(%x, %x)\n%w = fft_fft(%z) {dim=0}\n%y = view_as_real(%w)",
    "ifft": "%z = view_as_complex(%p)\n%w = fft_ifft(%z) {dim=-1}\n%y = view_as_real(%w)",
}


@pytest.mark.parametrize("name", FOURIER)
def test_fourier_transforms(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    graph = parse(f"input %x: f32[5, 8]\ninput %p: f32[5, 8, 2]\n{FOURIER[name]}\nreturn %y")
    inputs = torch.randn(5, 8, generator=generator), torch.randn(5, 8, 2, generator=generator)
    torch.testing.assert_close(run(graph, *inputs)[0], run_graph(graph, *inputs)[0], rtol=1e-4, atol=1e-5)
