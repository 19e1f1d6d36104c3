"""The rules of logic, comparison, selection, casts and clamps, one by one."""

from __future__ import annotations

import pytest

from graphopt.ir import DType
from graphopt.ops import parse
from graphopt.passes.canonicalize import Canonicalize
from graphopt.passes.rules.casts import merges

F = "input %x: f32[N, 4]\ninput %y: f32[N, 4]\n"
INTS = "input %x: i64[N, 4]\ninput %y: i64[N, 4]\n"
B = "input %x: bool[N, 4]\ninput %y: bool[N, 4]\n"
TRUE = "constant %t: bool[] = true\n"
FALSE = "constant %f: bool[4] = (false, false, false, false)\n"

REWRITES = [
    ("not-not", B, "%a = aten.logical_not(%x)\n%r = aten.logical_not(%a)", "%x"),
    ("bitwise-not-not", INTS, "%a = aten.bitwise_not(%x)\n%r = aten.bitwise_not(%a)", "%x"),
    ("not-eq", F, "%a = aten.eq.Tensor(%x, %y)\n%r = aten.logical_not(%a)", "%r = aten.ne.Tensor(%x, %y)"),
    ("not-ne", F, "%a = aten.ne.Scalar(%x) {other=3}\n%r = aten.logical_not(%a)", "%r = aten.eq.Scalar(%x) {other=3}"),
    ("not-lt", INTS, "%a = aten.lt.Tensor(%x, %y)\n%r = aten.logical_not(%a)", "%r = aten.ge.Tensor(%x, %y)"),
    ("not-ge", INTS, "%a = aten.ge.Tensor(%x, %y)\n%r = aten.logical_not(%a)", "%r = aten.lt.Tensor(%x, %y)"),
    (
        "not-gt",
        INTS,
        "%a = aten.gt.Scalar(%x) {other=1}\n%r = aten.logical_not(%a)",
        "%r = aten.le.Scalar(%x) {other=1}",
    ),
    ("not-le", INTS, "%a = aten.le.Tensor(%x, %y)\n%r = aten.logical_not(%a)", "%r = aten.gt.Tensor(%x, %y)"),
    ("and-true", B + TRUE, "%r = aten.logical_and(%x, %t)", "%x"),
    ("or-false", B + FALSE, "%r = aten.logical_or(%f, %x)", "%x"),
    ("xor-false", B + FALSE, "%r = aten.logical_xor(%x, %f)", "%x"),
    ("and-self", B, "%r = aten.logical_and(%x, %x)", "%x"),
    ("or-self", B, "%r = aten.logical_or(%x, %x)", "%x"),
    ("bitwise-and-self", INTS, "%r = aten.bitwise_and.Tensor(%x, %x)", "%x"),
    ("bitwise-or-self", INTS, "%r = aten.bitwise_or.Tensor(%x, %x)", "%x"),
    ("bitwise-or-zero", INTS, "%r = aten.bitwise_or.Scalar(%x) {other=0}", "%x"),
    ("bitwise-xor-zero", INTS, "%r = aten.bitwise_xor.Scalar(%x) {other=0}", "%x"),
    ("bitwise-and-true", B + TRUE, "%r = aten.bitwise_and.Tensor(%t, %x)", "%x"),
    ("maximum-self", F, "%r = aten.maximum(%x, %x)", "%x"),
    ("minimum-self", F, "%r = aten.minimum(%x, %x)", "%x"),
    ("where-same", F + "input %c: bool[4]\n", "%r = aten.where.self(%c, %x, %x)", "%x"),
    (
        "where-not",
        F + "input %c: bool[4]\n",
        "%n = aten.logical_not(%c)\n%r = aten.where.self(%n, %x, %y)",
        "%r = aten.where.self(%c, %y, %x)",
    ),
    ("where-constant", F + TRUE, "%r = aten.where.self(%t, %x, %y)", "%x"),
    ("where-constant", F + FALSE, "%r = aten.where.self(%f, %y, %x)", "%x"),
    (
        "where-negative",
        "input %x: i64[4]\n",
        "%i = aten.arange.start_step() {start=0, end=4, step=1, dtype=i64}\n%a = aten.add.Scalar(%i) {other=3}\n"
        "%n = aten.lt.Scalar(%a) {other=0}\n%r = aten.where.self(%n, %x, %a)",
        "%i = aten.arange.start_step() {start=0, end=4, step=1, dtype=i64}\n%r = aten.add.Scalar(%i) {other=3}",
    ),
    ("masked-fill-nothing", F + FALSE, "%r = aten.masked_fill.Scalar(%x, %f) {value=-inf}", "%x"),
    (
        "compare-self",
        INTS,
        "%r = aten.eq.Tensor(%x, %x)",
        "%r = aten.full() {size=(N, 4), fill_value=true, dtype=bool}",
    ),
    (
        "compare-self",
        INTS,
        "%r = aten.lt.Tensor(%x, %x)",
        "%r = aten.full() {size=(N, 4), fill_value=false, dtype=bool}",
    ),
    ("merge-clamps", F, "%a = aten.relu(%x)\n%r = aten.relu(%a)", "%r = aten.relu(%x)"),
    (
        "merge-clamps",
        F,
        "%a = aten.relu(%x)\n%r = aten.clamp(%a) {min=-1.0, max=6.0}",
        "%r = aten.clamp(%x) {min=0, max=6.0}",
    ),
    ("merge-clamps", F, "%a = aten.relu(%x)\n%r = aten.relu6(%a)", "%r = aten.relu6(%x)"),
    ("merge-clamps", F, "%a = aten.relu6(%x)\n%r = aten.clamp_max(%a) {max=9}", "%r = aten.relu6(%x)"),
    (
        "merge-clamps",
        F,
        "%a = aten.clamp(%x) {min=0, max=1}\n%r = aten.clamp(%a) {min=2, max=3}",
        "%r = aten.clamp(%x) {min=2, max=2}",
    ),
    (
        "merge-clamps",
        F,
        "%a = aten.clamp(%x) {min=5, max=1}\n%r = aten.hardtanh(%a) {min_val=-2.0, max_val=3.0}",
        "%r = aten.clamp(%x) {min=5, max=1}",
    ),
    (
        "merge-clamps",
        F,
        "%a = aten.clamp_min(%x) {min=-2}\n%r = aten.clamp_max(%a) {max=3}",
        "%r = aten.clamp(%x) {min=-2, max=3}",
    ),
    (
        "merge-clamps",
        F,
        "%a = aten.clamp_min(%x) {min=-2}\n%r = aten.clamp_min(%a) {min=0}",
        "%r = aten.clamp_min(%x) {min=0}",
    ),
    (
        "merge-clamps",
        INTS,
        "%a = aten.clamp(%x) {min=-1}\n%r = aten.clamp(%a) {max=2}",
        "%r = aten.clamp(%x) {min=-1, max=2}",
    ),
    ("clamp-of-range", F, "%a = aten.sigmoid(%x)\n%r = aten.clamp(%a) {min=0.0, max=1.0}", "%r = aten.sigmoid(%x)"),
    ("clamp-of-range", F, "%a = aten.abs(%x)\n%r = aten.relu(%a)", "%r = aten.abs(%x)"),
    ("abs-of-range", F, "%a = aten.relu(%x)\n%r = aten.abs(%a)", "%r = aten.relu(%x)"),
    ("abs-of-range", F, "%a = aten.exp(%x)\n%r = aten.abs(%a)", "%r = aten.exp(%x)"),
    ("unlimited-clamp", F, "%r = aten.clamp(%x) {min=-inf, max=inf}", "%x"),
    (
        "extremum-to-clamp",
        F + "constant %k: f32[4] = (2.0, 2.0, 2.0, 2.0)\n",
        "%r = aten.maximum(%x, %k)",
        "%r = aten.clamp(%x) {min=2.0}",
    ),
    ("extremum-to-clamp", F + "constant %k: f32[] = 0.0\n", "%r = aten.maximum(%k, %x)", "%r = aten.relu(%x)"),
    (
        "extremum-to-clamp",
        F + "constant %k: f32[] = -1.0\n",
        "%r = aten.minimum(%x, %k)",
        "%r = aten.clamp(%x) {max=-1.0}",
    ),
    ("noop-cast", F, "%r = aten._to_copy(%x) {dtype=f32}", "%x"),
    ("noop-cast", "input %x: f32[N, 4, 3, 2]\n", '%r = aten._to_copy(%x) {memory_format="channels_last"}', "%x"),
    ("merge-casts", F, "%a = aten._to_copy(%x) {dtype=f64}\n%r = aten._to_copy(%a) {dtype=f32}", "%x"),
    (
        "merge-casts",
        F,
        "%a = aten._to_copy(%x) {dtype=f64}\n%r = aten._to_copy(%a) {dtype=f16}",
        "%r = aten._to_copy(%x) {dtype=f16}",
    ),
    (
        "merge-casts",
        INTS,
        "%a = aten._to_copy(%x) {dtype=i32}\n%r = aten._to_copy(%a) {dtype=i8}",
        "%r = aten._to_copy(%x) {dtype=i8}",
    ),
    (
        "merge-casts",
        B,
        "%a = aten._to_copy(%x) {dtype=f16}\n%r = aten._to_copy(%a) {dtype=i32}",
        "%r = aten._to_copy(%x) {dtype=i32}",
    ),
]


@pytest.mark.parametrize(("rule", "inputs", "before", "after"), REWRITES)
def test_rewrite(check, rule: str, inputs: str, before: str, after: str) -> None:
    ending = f"return {after}" if after.startswith("%x") else f"{after}\nreturn %r"
    check(Canonicalize(), f"{inputs}{before}\nreturn %r", inputs + ending, applied={rule: 1})


STAY = [
    # May be negative: an input; what is subtracted; a narrower type, which wraps.
    "%a = aten.sub.Scalar(%i) {other=1}",
    "%a = aten.add.Tensor(%i, %x)",
    "%b = aten.mul.Scalar(%i) {other=100}\n%a = aten._to_copy(%b) {dtype=i8}",
]


@pytest.mark.parametrize("index", STAY)
def test_numbers_that_may_be_negative(index: str) -> None:
    graph = parse(
        "input %x: i64[4]\n%i = aten.arange.start_step() {start=0, end=4, step=1, dtype=i64}\n"
        f"{index}\n%n = aten.lt.Scalar(%a) {{other=0}}\n%w = aten.neg(%a)\n%r = aten.where.self(%n, %w, %a)\nreturn %r"
    )
    assert any(node.op.base == "aten.where" for node in Canonicalize()(graph))


DECLINED = [
    ("NaN and <", F, "%a = aten.lt.Tensor(%x, %y)\n%r = aten.logical_not(%a)", "NaN"),
    ("NaN = NaN", F, "%r = aten.eq.Tensor(%x, %x)", "NaN"),
    (
        "where broadcasts",
        "input %x: f32[4]\ninput %c: bool[N, 4]\n",
        "%r = aten.where.self(%c, %x, %x)",
        "type would change",
    ),
    (
        "float to int to bool",
        F,
        "%a = aten._to_copy(%x) {dtype=i32}\n%r = aten._to_copy(%a) {dtype=bool}",
        "f32 → i32 → bool",
    ),
    ("limits promote", INTS, "%a = aten.clamp(%x) {min=0.5}\n%r = aten.clamp(%a) {max=2.0}", "change the type"),
    (
        "narrowing float",
        F,
        "%a = aten._to_copy(%x) {dtype=f16}\n%r = aten._to_copy(%a) {dtype=f32}",
        "f32 → f16 → f32",
    ),
]


@pytest.mark.parametrize(("inputs", "before", "reason"), [d[1:] for d in DECLINED], ids=[d[0] for d in DECLINED])
def test_declined(check, inputs: str, before: str, reason: str) -> None:
    check(Canonicalize(), f"{inputs}{before}\nreturn %r", declined=reason)


UNTOUCHED = [
    ("logical not of a number", F, "%a = aten.logical_not(%x)\n%r = aten.logical_not(%a)"),
    ("clamp tighter than the range", F, "%a = aten.sigmoid(%x)\n%r = aten.clamp(%a) {min=0.25, max=1.0}"),
    ("abs of a clamp below zero", F, "%a = aten.clamp(%x) {min=-1.0}\n%r = aten.abs(%a)"),
    ("and of integers", INTS + TRUE, "%r = aten.logical_and(%x, %t)"),
    ("promoted maximum", INTS + "constant %k: f32[] = 1.0\n", "%r = aten.maximum(%x, %k)"),
]


@pytest.mark.parametrize(("inputs", "before"), [u[1:] for u in UNTOUCHED], ids=[u[0] for u in UNTOUCHED])
def test_untouched(check, inputs: str, before: str) -> None:
    check(Canonicalize(), f"{inputs}{before}\nreturn %r")


def test_cast_chains_against_brute_force() -> None:
    """Every chain that the proof allows gives the same values as the single cast, NaN and infinities included."""
    import torch

    values = [0.0, -0.0, 1.0, -1.0, 0.5, 255.0, 256.0, 65504.0, 1e10, 3e38, float("inf"), float("-inf"), float("nan")]
    integers = [0, 1, -1, 127, -128, 128, 255, 256, 32767, 65535, 2**24 + 1, 2**31 - 1, -(2**31)]
    kinds = [
        DType.BOOL,
        DType.I8,
        DType.U8,
        DType.I16,
        DType.I32,
        DType.I64,
        DType.F16,
        DType.BF16,
        DType.F32,
        DType.F64,
    ]
    allowed = 0
    for a in kinds:
        source = torch.tensor(
            values if a.is_floating else integers, dtype=torch.float64 if a.is_floating else torch.int64
        )
        x = source.to(a.torch)
        for b in kinds:
            for c in kinds:
                if merges(a, b, c):
                    allowed += 1
                    chain, single = x.to(b.torch).to(c.torch), x.to(c.torch)
                    assert torch.equal(chain.nan_to_num(7), single.nan_to_num(7)), (a, b, c)
    assert allowed > 250
