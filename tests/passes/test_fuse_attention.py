from __future__ import annotations

import pytest

from graphopt.passes.fuse_attention import FuseAttention

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
    ("mask may be −∞", QKV + MASK + attention("", "SCORES, %b"), "not proved finite"),
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
    ("negative scale", QKV + attention("aten.mul.Scalar(%s) {other=-1.0}"), "no scaled product"),
]


@pytest.mark.parametrize(("text", "reason"), [d[1:] for d in DECLINED], ids=[d[0] for d in DECLINED])
def test_declined(check, text: str, reason: str) -> None:
    check(FuseAttention(), text, declined=reason, special=False)


def test_probabilities_that_are_returned_stay(check) -> None:
    check(FuseAttention(), QKV + attention("").replace("return %r", "return %r, %p"), special=False)
