"""Attention over packed heads: the rule, the operator, and what ONNX Runtime makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.analysis.cost import graph_cost
from graphopt.backends.onnx import emit_onnx
from graphopt.backends.onnx.engine import OnnxRuntimeEngine
from graphopt.ir import Graph
from graphopt.ops import parse
from graphopt.passes.legalize import Legalize
from graphopt.rewrite import Contract
from graphopt.testing import assert_equivalent


def onnxruntime(graph: Graph, opset: int = 20) -> Callable[..., list[Any]]:
    executable = OnnxRuntimeEngine(optimization="off", opset=opset).load(graph)
    return lambda *inputs: executable.run(inputs)


MERGE = "%t = aten.transpose.int(%a) {dim0=1, dim1=2}\n%r = aten.reshape(%t) {shape=(N, 5, 12)}\nreturn %r"
SPLIT = "%{0}1 = aten.reshape(%{0}) {{shape=(N, {1}, {2}, 4)}}\n%{0}2 = aten.transpose.int(%{0}1) {{dim0=1, dim1=2}}\n"
INPUTS = "input %q: f32[N, 5, 12]\ninput %k: f32[N, 7, {0}]\ninput %v: f32[N, 7, {0}]\n"


def splits(shared: int) -> str:
    return SPLIT.format("q", 5, 3) + SPLIT.format("k", 7, shared) + SPLIT.format("v", 7, shared)


@pytest.mark.parametrize("shared", [3, 1])
@pytest.mark.parametrize("mask", ["", "input %m: bool[N, 1, 1, 7]\n", "input %m: f32[5, 7]\n"])
def test_heads_that_are_split_and_merged(check, shared: int, mask: str) -> None:
    inputs = INPUTS.format(4 * shared) + mask
    given = "%m" if mask else "none"
    grouped = ", enable_gqa=true" if shared == 1 else ""
    attend = f"%a = aten.scaled_dot_product_attention(%q2, %k2, %v2, {given}) {{scale=0.5{grouped}}}\n"
    packed = f"%r = graphopt.attention(%q, %k, %v, {given}) {{q_heads=3, kv_heads={shared}, scale=0.5}}\n"
    check(
        Legalize(target="onnxruntime"),
        inputs + splits(shared) + attend + MERGE,
        inputs + packed + "return %r",
        applied={"pack-attention": 1},
        special=False,
    )


KEPT = "".join(f"%{n} = aten.reshape(%{n}0) {{shape=(N, 3, 5, 4)}}\n" for n in "qkv")
PIECES = [
    "%q, %k, %v = aten.unbind.int(%p) {dim=0}\n",
    "".join(f"%{n} = aten.select.int(%p) {{dim=0, index={i}}}\n" for i, n in enumerate("qkv")),
    "%q0, %k0, %v0 = aten.split_with_sizes(%p) {split_sizes=(1, 1, 1), dim=0}\n" + KEPT,
    "".join(f"%{n}0 = aten.slice.Tensor(%p) {{start={i}, end={i + 1}}}\n" for i, n in enumerate("qkv")) + KEPT,
]


@pytest.mark.parametrize("pieces", PIECES)
def test_pieces_of_one_tensor(check, pieces: str) -> None:
    inputs = "input %x: f32[N, 5, 36]\n"
    body = (
        "%s = aten.reshape(%x) {shape=(N, 5, 3, 3, 4)}\n%p = aten.permute(%s) {dims=(2, 0, 3, 1, 4)}\n"
        f"{pieces}"
        "%a = aten.scaled_dot_product_attention(%q, %k, %v) {is_causal=true}\n"
    )
    check(
        Legalize(target="onnxruntime"),
        inputs + body + MERGE,
        inputs + "%q, %k, %v = aten.split_with_sizes(%x) {split_sizes=(12, 12, 12), dim=-1}\n"
        "%r = graphopt.attention(%q, %k, %v) {q_heads=3, kv_heads=3, is_causal=true}\nreturn %r",
        applied={"pack-attention": 1},
        special=False,
    )


def test_other_targets_keep_their_heads(check) -> None:
    text = INPUTS.format(12) + splits(3) + "%a = aten.scaled_dot_product_attention(%q2, %k2, %v2)\n" + MERGE
    for target in ("cpu", "fx", "onnx"):
        check(Legalize(target=target), text, special=False)


def test_heads_that_come_apart_stay_apart(check) -> None:
    inputs = "input %q2: f32[N, 3, 5, 4]\ninput %k2: f32[N, 3, 7, 4]\ninput %m: bool[1, 1, 5, 7]\n"
    check(
        Legalize(target="onnxruntime"),
        inputs + "%a = aten.scaled_dot_product_attention(%q2, %k2, %k2, %m)\n" + MERGE,
        inputs + "%a = graphopt.attention(%q2, %k2, %k2, %m)\n" + MERGE,
        applied={"whole-attention": 1},
        special=False,
    )


def test_other_types_and_ranks_stay(check) -> None:
    for type_ in ("f64[N, 3, 5, 4]", "f32[3, 5, 4]"):
        text = f"input %q: {type_}\n%a = aten.scaled_dot_product_attention(%q, %q, %q)\nreturn %a"
        check(Legalize(target="onnxruntime"), text, special=False)


@given(
    sizes=st.tuples(*[st.integers(1, 4)] * 5),
    groups=st.integers(1, 3),
    causal=st.booleans(),
    mask=st.sampled_from([None, "bool", "f32"]),
    rank=st.integers(2, 4),
)
@settings(max_examples=25, deadline=None)
def test_onnx_runtime_agrees(sizes: tuple[int, ...], groups: int, causal: bool, mask: str | None, rank: int) -> None:
    """Rows whose keys are all hidden included."""
    batch, length, keys, shared, width = sizes
    shape = [batch, 1, 1 if length % 2 else length, keys][4 - rank :]
    masks = f"input %m: {mask}{shape}\n" if mask and not causal else ""
    graph = parse(
        f"input %q: f32[{batch}, {length}, {groups * shared * width}]\n"
        f"input %k: f32[{batch}, {keys}, {shared * width}]\n"
        f"input %v: f32[{batch}, {keys}, {shared * width}]\n{masks}"
        f"%r = graphopt.attention(%q, %k, %v, {'%m' if masks else 'none'}) "
        f"{{q_heads={groups * shared}, kv_heads={shared}, is_causal={str(causal and not masks).lower()}}}\nreturn %r"
    )
    assert_equivalent(graph, onnxruntime(graph))
    assert [node.op_type for node in emit_onnx(graph).graph.node][-1] == "Attention"


def test_attention_is_an_operator_from_opset_23_on() -> None:
    graph = parse(
        "input %q: f32[N, 3, 5, 4]\ninput %k: f32[N, 3, 7, 4]\ninput %m: bool[1, 1, 1, 7]\n"
        "%r = aten.scaled_dot_product_attention(%q, %k, %k, %m)\nreturn %r"
    )
    assert "Attention" in {node.op_type for node in emit_onnx(graph, opset=23).graph.node}
    assert "Softmax" in {node.op_type for node in emit_onnx(graph).graph.node}
    hidden = torch.zeros(1, 1, 1, 7, dtype=torch.bool)
    q, k = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 7, 4)
    (result,) = onnxruntime(graph, 23)(q, k, hidden)
    assert not result.any()


RMS = (
    "input %x: f32[N, 6]\nparameter %w: f32[6]\n"
    "%r = aten.rms_norm(%x, %w) {normalized_shape=(6,), eps=0.001}\nreturn %r"
)


def test_rms_norm_is_an_operator_from_opset_23_on() -> None:
    graph = parse(RMS)
    assert [node.op_type for node in emit_onnx(graph, opset=23).graph.node] == ["RMSNormalization"]
    assert_equivalent(graph, onnxruntime(graph, 23))
    bare = parse(RMS.replace("(%x, %w)", "(%x)"))
    assert_equivalent(bare, onnxruntime(bare, 23))


def test_indices_that_onnx_wraps_itself() -> None:
    graph = parse(
        "input %i: i64[N, 3]\nparameter %w: f32[9, 4]\n%a = aten.add.Scalar(%i) {other=9}\n"
        "%b = aten.lt.Scalar(%i) {other=0}\n%c = aten.where.self(%b, %a, %i)\n%r = aten.embedding(%w, %c)\nreturn %r"
    )
    assert [node.op_type for node in emit_onnx(graph).graph.node] == ["Gather"]
    index = torch.tensor([[-9, -1, 0], [8, 3, -4]])
    (result,) = onnxruntime(graph)(index)
    assert torch.equal(result, graph.constants["w"].constant.tensor[index])


def test_the_rewrite_is_the_same_function() -> None:
    text = INPUTS.format(4) + splits(1) + "%a = aten.scaled_dot_product_attention(%q2, %k2, %v2) {enable_gqa=true}\n"
    graph = parse(text + MERGE)
    assert_equivalent(graph, Legalize(target="onnxruntime")(graph), contract=Contract.REASSOCIATING, special=False)


def test_the_work_is_that_of_the_heads() -> None:
    text = INPUTS.format(12).replace("[N", "[2") + splits(3).replace("(N", "(2")
    attend = "%a = aten.scaled_dot_product_attention(%q2, %k2, %v2)\n" + MERGE.replace("(N", "(2")
    before = parse(text + attend)
    after = Legalize(target="onnxruntime")(before)
    assert [node.name for node in after] == ["graphopt.attention"]
    assert graph_cost(after).flops == graph_cost(before).flops
