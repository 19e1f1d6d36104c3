from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ops import parse
from graphopt.passes.canonicalize import Canonicalize
from graphopt.passes.fuse_attention import FuseAttention
from graphopt.rewrite import Contract
from graphopt.testing import assert_equivalent

QKV = "input %q: f32[N, 2, 5, 8]\ninput %k: f32[N, 2, 7, 8]\ninput %v: f32[N, 2, 7, 3]\n"


def attention(scale: str, mask: str = "", key: str = "%t = aten.transpose.int(%k) {dim0=2, dim1=3}") -> str:
    text = f"{key}\n%s = aten.matmul(%q, %t)\n"
    last = "s"
    if scale:
        text += f"%c = {scale}\n"
        last = "c"
    if mask:
        text += f"%m = aten.add.Tensor({mask.replace('SCORES', '%' + last)})\n"
        last = "m"
    return text + f"%p = aten.softmax.int(%{last}) {{dim=-1}}\n%r = aten.matmul(%p, %v)\nreturn %r"


def test_scale_without_mask(check) -> None:
    check(
        FuseAttention(),
        QKV + attention("aten.div.Scalar(%s) {other=4.0}"),
        QKV + "%r = aten.scaled_dot_product_attention(%q, %k, %v) {scale=0.25}\nreturn %r",
        applied={"raise-attention": 1},
        special=False,
    )


def test_no_scale(check) -> None:
    check(
        FuseAttention(),
        QKV + attention(""),
        QKV + "%r = aten.scaled_dot_product_attention(%q, %k, %v) {scale=1.0}\nreturn %r",
        applied={"raise-attention": 1},
        special=False,
    )


@pytest.mark.parametrize("mask", ["SCORES, %b", "%b, SCORES"])
def test_mask_that_is_finite(check, mask: str) -> None:
    inputs = QKV + "input %keep: bool[N, 1, 1, 7]\n"
    made = "%b = aten.where.Scalar(%keep) {self=0.0, other=-10000.0}\n"
    check(
        FuseAttention(),
        inputs + made + attention("aten.mul.Scalar(%s) {other=0.5}", mask),
        inputs + made + "%r = aten.scaled_dot_product_attention(%q, %k, %v, %b) {scale=0.5}\nreturn %r",
        applied={"raise-attention": 1},
        special=False,
    )


def test_keys_that_come_permuted(check) -> None:
    inputs = QKV.replace("%k: f32[N, 2, 7, 8]", "%k: f32[N, 7, 2, 8]")
    check(
        FuseAttention(),
        inputs + attention("", key="%t = aten.permute(%k) {dims=(0, 2, 3, 1)}"),
        inputs + "%t = aten.transpose.int(%k) {dim0=1, dim1=2}\n"
        "%r = aten.scaled_dot_product_attention(%q, %t, %v) {scale=1.0}\nreturn %r",
        applied={"raise-attention": 1},
        special=False,
    )


MASK = "input %b: f32[N, 1, 1, 7]\n"
DECLINED = [
    ("mask may be −∞", QKV + MASK + attention("", "SCORES, %b"), "may hide every key"),
    ("keys as they are", QKV.replace("2, 7, 8", "2, 8, 7") + attention("", key="%t = aten.relu(%k)"), "not transposed"),
    (
        "softmax over another axis",
        QKV + attention("").replace("dim=-1", "dim=1"),
        "not over the last axis",
    ),
    (
        "batch that broadcasts",
        QKV.replace("%k: f32[N", "%k: f32[1") + attention(""),
        "batch dims",
    ),
    ("negative scale", QKV + attention("aten.mul.Scalar(%s) {other=-1.0}"), "not positive"),
]


@pytest.mark.parametrize(("text", "reason"), [d[1:] for d in DECLINED], ids=[d[0] for d in DECLINED])
def test_declined(check, text: str, reason: str) -> None:
    check(FuseAttention(), text, declined=reason, special=False)


def test_probabilities_that_are_returned_stay(check) -> None:
    check(FuseAttention(), QKV + attention("").replace("return %r", "return %r, %p"), special=False)


def test_scales_at_the_query_and_the_keys_multiply(check) -> None:
    body = (
        "%a = aten.mul.Scalar(%q) {other=0.5}\n%t = aten.transpose.int(%k) {dim0=2, dim1=3}\n"
        "%c = aten.mul.Scalar(%t) {other=0.25}\n%s = aten.matmul(%a, %c)\n%d = aten.div.Scalar(%s) {other=2.0}\n"
        "%p = aten.softmax.int(%d) {dim=3}\n%r = aten.matmul(%p, %v)\nreturn %r"
    )
    check(
        FuseAttention(),
        QKV + body,
        QKV + "%r = aten.scaled_dot_product_attention(%q, %k, %v) {scale=0.0625}\nreturn %r",
        applied={"raise-attention": 1},
        special=False,
    )


ZERO = "constant %zero: f32[] = 0.0\n"
GUARD = "%n = aten.isnan(%p)\n%g = aten.where.self(%n, %zero, %p)\n"


def test_a_guard_against_nan_allows_any_mask(check) -> None:
    text = attention("", "SCORES, %b").replace("%r = aten.matmul(%p", GUARD + "%r = aten.matmul(%g")
    check(
        FuseAttention(),
        QKV + MASK + ZERO + text,
        QKV + MASK + ZERO + "%r = aten.scaled_dot_product_attention(%q, %k, %v, %b) {scale=1.0}\nreturn %r",
        applied={"raise-attention": 1},
        special=False,
    )


def test_two_masks_are_summed(check) -> None:
    more = "input %keep: bool[N, 1, 1, 7]\n%b = aten.where.Scalar(%keep) {self=0.0, other=-10000.0}\n"
    constant = "constant %bias: f32[1, 2, 5, 7]\n"
    text = attention("", "SCORES, %b").replace("softmax.int(%m)", "softmax.int(%m2)")
    text = text.replace("%p =", "%m2 = aten.add.Tensor(%m, %bias)\n%p =")
    check(
        FuseAttention(),
        QKV + constant + more + text,
        QKV + constant + more + "%t = aten.add.Tensor(%bias, %b)\n"
        "%r = aten.scaled_dot_product_attention(%q, %k, %v, %t) {scale=1.0}\nreturn %r",
        applied={"raise-attention": 1},
        special=False,
    )


SQUARE = QKV.replace("2, 7,", "2, 5,")


@pytest.mark.parametrize("hidden", [float("-inf"), torch.finfo(torch.float32).min])
def test_a_stored_causal_mask_becomes_an_attribute(check, hidden: float) -> None:
    inputs = SQUARE + "constant %mask: f32[1, 1, 5, 5]\n"
    check(
        FuseAttention(),
        inputs + attention("aten.mul.Scalar(%s) {other=0.5}", "SCORES, %mask"),
        inputs + "%r = aten.scaled_dot_product_attention(%q, %k, %v) {is_causal=true, scale=0.5}\nreturn %r",
        applied={"raise-attention": 1, "causal-mask": 1},
        tensors={"mask": torch.full((1, 1, 5, 5), hidden).triu(1)},
        special=False,
    )


def test_a_stored_choice_becomes_a_bool_mask(check) -> None:
    choice = "constant %keep: bool[5, 7]\n"
    tensors = {"keep": torch.arange(35).reshape(5, 7) % 3 != 1}
    text = attention("").replace("softmax.int(%s)", "softmax.int(%h)")
    text = text.replace("%p =", "%h = aten.where.ScalarOther(%keep, %s) {other=-inf}\n%p =")
    check(
        FuseAttention(),
        QKV + choice + text,
        QKV + choice + "%r = aten.scaled_dot_product_attention(%q, %k, %v, %keep) {scale=1.0}\nreturn %r",
        applied={"raise-attention": 1},
        tensors=tensors,
        special=False,
    )


def test_a_stored_mask_that_hides_a_whole_row_stays(check) -> None:
    mask = torch.zeros(5, 7)
    mask[2] = float("-inf")
    check(
        FuseAttention(),
        QKV + "constant %b: f32[5, 7]\n" + attention("", "SCORES, %b"),
        tensors={"b": mask},
        declined="may hide every key",
        special=False,
    )


REPEATS = [
    "%{0}1 = aten.repeat_interleave.self_int(%{0}) {{repeats=2, dim=1}}\n",
    "%{0}2 = aten.unsqueeze(%{0}) {{dim=2}}\n%{0}3 = aten.expand(%{0}2) {{size=(N, 2, 2, 7, {1})}}\n"
    "%{0}1 = aten.reshape(%{0}3) {{shape=(N, 4, 7, {1})}}\n",
]


@pytest.mark.parametrize("repeat", REPEATS)
def test_heads_that_share_keys(check, repeat: str) -> None:
    inputs = QKV.replace("%q: f32[N, 2", "%q: f32[N, 4")
    column = "%{0}2 = aten.unsqueeze(%{0}) {{dim=2}}\n"
    single = "%{0}4 = aten.reshape(%{0}2) {{shape=(N, 2, 7, {1})}}\n"
    kept = "%r = aten.scaled_dot_product_attention(%q, %k, %v) "
    if "expand" in repeat:  # the pass leaves the unsqueeze to canonicalization
        kept = (
            column.format("k")
            + column.format("v")
            + single.format("k", 8)
            + single.format("v", 3)
            + kept.replace("%k, %v", "%k4, %v4")
        )
    check(
        FuseAttention(),
        inputs
        + repeat.format("k", 8)
        + repeat.format("v", 3)
        + attention("").replace("%k", "%k1").replace("%v", "%v1"),
        inputs + kept + "{scale=1.0, enable_gqa=true}\nreturn %r",
        applied={"raise-attention": 1, "grouped-heads": 1},
        special=False,
    )


@given(
    sizes=st.tuples(*[st.integers(2, 4)] * 6),
    scales=st.tuples(*[st.sampled_from(["", "mul", "div"])] * 3),
    mask=st.sampled_from(["", "finite", "stored", "guarded"]),
    swapped=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_any_sizes_scales_and_masks(sizes: tuple, scales: tuple, mask: str, swapped: bool) -> None:
    batch, heads, length, keys, width, depth = sizes
    inputs = [
        f"input %q: f32[{batch}, {heads}, {length}, {width}]",
        f"input %k: f32[{batch}, {heads}, {keys}, {width}]",
    ]
    inputs += [f"input %v: f32[{batch}, {heads}, {keys}, {depth}]", "constant %zero: f32[] = 0.0"]
    tensors = {}
    scaled = [
        f"%{name}s = aten.{op}.Scalar(%{name}) {{other={0.5 + index}}}" if op else f"%{name}s = aten.alias(%{name})"
        for index, (name, op) in enumerate(zip(("q", "t", "s"), scales))
    ]
    lines = [
        scaled[0],
        "%t = aten.transpose.int(%k) {dim0=2, dim1=3}",
        scaled[1],
        "%s = aten.matmul(%qs, %ts)",
        scaled[2],
    ]
    if mask == "finite":
        inputs.append(f"input %keep: bool[{batch}, 1, 1, {keys}]")
        lines.append("%m = aten.where.Scalar(%keep) {self=0.0, other=-100.0}")
    elif mask:
        inputs.append(f"{'constant' if mask == 'stored' else 'input'} %m: f32[{length}, {keys}]")
        tensors = {"m": torch.full((length, keys), float("-inf")).triu(1)} if mask == "stored" else {}
    added = ("%m, %ss" if swapped else "%ss, %m") if mask else ""
    lines.append(f"%a = aten.add.Tensor({added})" if mask else "%a = aten.alias(%ss)")
    lines.append("%p = aten.softmax.int(%a) {dim=-1}")
    lines.append(
        "%n = aten.isnan(%p)\n%g = aten.where.self(%n, %zero, %p)" if mask == "guarded" else "%g = aten.alias(%p)"
    )
    text = "\n".join([*inputs, *lines, "%r = aten.matmul(%g, %v)\nreturn %r"])
    graph = Canonicalize()(parse(text, tensors))
    after = FuseAttention()(graph)
    assert_equivalent(graph, after, contract=Contract.REASSOCIATING, special=False)
    assert any("attention" in node.name for node in after) and not any(node.op.base == "aten.softmax" for node in after)
