"""The rules of arithmetic, powers and numbers, one by one: the graph before, the graph after, and the counts."""

from __future__ import annotations

import pytest

from graphopt.passes.canonicalize import Canonicalize

F = "input %x: f32[N, 4]\ninput %y: f32[N, 4]\n"
INTS = "input %x: i64[N, 4]\ninput %y: i64[N, 4]\n"

REWRITES = [
    ("add-zero", F, "%r = aten.add.Scalar(%x) {other=0}", "%x"),
    ("add-zero", F + "constant %z: f32[4] = (0.0, 0.0, 0.0, 0.0)\n", "%r = aten.add.Tensor(%z, %x)", "%x"),
    ("add-zero", INTS, "%r = aten.add.Scalar(%x) {other=0, alpha=3}", "%x"),
    ("add-negative-zero", F, "%r = aten.add.Scalar(%x) {other=-0.0}", "%x"),
    ("sub-zero", F, "%r = aten.sub.Scalar(%x) {other=0.0}", "%x"),
    ("sub-negative-zero", F, "%r = aten.sub.Scalar(%x) {other=-0.0}", "%x"),
    ("mul-one", F, "%r = aten.mul.Scalar(%x) {other=1}", "%x"),
    ("mul-one", F + "constant %o: f32[] = 1.0\n", "%r = aten.mul.Tensor(%o, %x)", "%x"),
    ("div-one", F, "%r = aten.div.Scalar(%x) {other=1.0}", "%x"),
    ("mul-minus-one", F, "%r = aten.mul.Scalar(%x) {other=-1}", "%r = aten.neg(%x)"),
    ("div-minus-one", F, "%r = aten.div.Scalar(%x) {other=-1}", "%r = aten.neg(%x)"),
    ("zero-minus", F + "constant %z: f32[] = 0.0\n", "%r = aten.sub.Tensor(%z, %x)", "%r = aten.neg(%x)"),
    ("rsub-zero", F, "%r = aten.rsub.Scalar(%x) {other=0}", "%r = aten.neg(%x)"),
    ("neg-neg", F, "%a = aten.neg(%x)\n%r = aten.neg(%a)", "%x"),
    ("add-neg", F, "%a = aten.neg(%y)\n%r = aten.add.Tensor(%a, %x)", "%r = aten.sub.Tensor(%x, %y)"),
    ("sub-neg", F, "%a = aten.neg(%y)\n%r = aten.sub.Tensor(%x, %a)", "%r = aten.add.Tensor(%x, %y)"),
    ("neg-sub", F, "%a = aten.sub.Tensor(%x, %y)\n%r = aten.neg(%a)", "%r = aten.sub.Tensor(%y, %x)"),
    ("neg-rsub", F, "%a = aten.rsub.Scalar(%x) {other=2.5}\n%r = aten.neg(%a)", "%r = aten.sub.Scalar(%x) {other=2.5}"),
    (
        "mul-neg-neg",
        F,
        "%a = aten.neg(%x)\n%b = aten.neg(%y)\n%r = aten.mul.Tensor(%a, %b)",
        "%r = aten.mul.Tensor(%x, %y)",
    ),
    (
        "div-neg-neg",
        F,
        "%a = aten.neg(%x)\n%b = aten.neg(%y)\n%r = aten.div.Tensor(%a, %b)",
        "%r = aten.div.Tensor(%x, %y)",
    ),
    ("abs-neg", F, "%a = aten.neg(%x)\n%r = aten.abs(%a)", "%r = aten.abs(%x)"),
    (
        "mul-zero",
        INTS,
        "%r = aten.mul.Scalar(%x) {other=0}",
        "%r = aten.full() {size=(N, 4), fill_value=0, dtype=i64}",
    ),
    (
        "mul-zero",
        "input %x: bool[N, 4]\n",
        "%c = aten._to_copy(%x) {dtype=f32}\n%s = aten.sigmoid(%c)\n%r = aten.mul.Scalar(%s) {other=0.0}",
        "%r = aten.full() {size=(N, 4), fill_value=0, dtype=f32}",
    ),
    ("sub-self", INTS, "%r = aten.sub.Tensor(%x, %x)", "%r = aten.full() {size=(N, 4), fill_value=0, dtype=i64}"),
    ("pow-one", F, "%r = aten.pow.Tensor_Scalar(%x) {exponent=1.0}", "%x"),
    ("pow-two", F, "%r = aten.pow.Tensor_Scalar(%x) {exponent=2}", "%r = aten.mul.Tensor(%x, %x)"),
    ("pow-two", INTS, "%r = aten.pow.Tensor_Scalar(%x) {exponent=2}", "%r = aten.mul.Tensor(%x, %x)"),
    ("pow-half", F, "%r = aten.pow.Tensor_Scalar(%x) {exponent=0.5}", "%r = aten.sqrt(%x)"),
    ("pow-minus-half", F, "%r = aten.pow.Tensor_Scalar(%x) {exponent=-0.5}", "%r = aten.rsqrt(%x)"),
    ("pow-minus-one", F, "%r = aten.pow.Tensor_Scalar(%x) {exponent=-1}", "%r = aten.reciprocal(%x)"),
    (
        "pow-zero",
        F,
        "%r = aten.pow.Tensor_Scalar(%x) {exponent=0}",
        "%r = aten.full() {size=(N, 4), fill_value=1, dtype=f32}",
    ),
    ("reciprocal-sqrt", F, "%a = aten.sqrt(%x)\n%r = aten.reciprocal(%a)", "%r = aten.rsqrt(%x)"),
    ("one-over", F + "constant %o: f32[] = 1.0\n", "%r = aten.div.Tensor(%o, %x)", "%r = aten.reciprocal(%x)"),
    ("square-of-abs", F, "%a = aten.abs(%x)\n%r = aten.mul.Tensor(%a, %a)", "%r = aten.mul.Tensor(%x, %x)"),
    ("div-power-of-two", F, "%r = aten.div.Scalar(%x) {other=8}", "%r = aten.mul.Scalar(%x) {other=0.125}"),
    ("div-power-of-two", F, "%r = aten.div.Scalar(%x) {other=-0.5}", "%r = aten.mul.Scalar(%x) {other=-2.0}"),
    (
        "merge-sums",
        F,
        "%a = aten.add.Scalar(%x) {other=1.5}\n%r = aten.add.Scalar(%a) {other=2}",
        "%r = aten.add.Scalar(%x) {other=3.5}",
    ),
    (
        "merge-sums",
        INTS,
        "%a = aten.sub.Scalar(%x) {other=5}\n%r = aten.add.Scalar(%a) {other=2}",
        "%r = aten.add.Scalar(%x) {other=-3}",
    ),
    (
        "merge-products",
        F,
        "%a = aten.mul.Scalar(%x) {other=3.0}\n%r = aten.mul.Scalar(%a) {other=5.0}",
        "%r = aten.mul.Scalar(%x) {other=15.0}",
    ),
    (
        "merge-products",
        F,
        "%a = aten.div.Scalar(%x) {other=3.0}\n%r = aten.div.Scalar(%a) {other=5.0}",
        "%r = aten.div.Scalar(%x) {other=15.0}",
    ),
    (
        "merge-products",
        F,
        "%a = aten.div.Scalar(%x) {other=3.0}\n%r = aten.mul.Scalar(%a) {other=6.0}",
        "%r = aten.mul.Scalar(%x) {other=2.0}",
    ),
    (
        "merge-products",
        INTS,
        "%a = aten.mul.Scalar(%x) {other=3}\n%r = aten.mul.Scalar(%a) {other=-2}",
        "%r = aten.mul.Scalar(%x) {other=-6}",
    ),
    *(
        (
            "number-operand",
            f"{F}constant %c: f32{shape} = {number}\n",
            f"%r = aten.{name}(%x, %c)",
            f"%r = aten.{name.partition('.')[0]}.Scalar(%x) {{other=0.75}}",
        )
        for name in ("add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor", "gt.Tensor", "le.Tensor")
        for shape, number in (("[]", "0.75"), ("[1]", "(0.75,)"))
    ),
]


@pytest.mark.parametrize(("rule", "inputs", "before", "after"), REWRITES)
def test_rewrite(check, rule: str, inputs: str, before: str, after: str) -> None:
    ending = f"return {after}" if after.startswith("%x") else f"{after}\nreturn %r"
    check(Canonicalize(), f"{inputs}{before}\nreturn %r", inputs + ending, applied={rule: 1})


DECLINED = [
    ("mul by zero may be NaN", F, "%r = aten.mul.Scalar(%x) {other=0}", "not proved finite"),
    ("sigmoid passes NaN", F, "%s = aten.sigmoid(%x)\n%r = aten.mul.Scalar(%s) {other=0}", "not proved finite"),
    (
        "int64 overflows float16",
        INTS,
        "%s = aten._to_copy(%x) {dtype=f16}\n%r = aten.mul.Scalar(%s) {other=0}",
        "not proved finite",
    ),
    (
        "number beyond float16",
        "input %x: bool[4]\n",
        "%c = aten.where.Scalar(%x) {self=1.0, other=1e+06}\n%h = aten._to_copy(%c) {dtype=f16}\n"
        "%r = aten.mul.Scalar(%h) {other=0}",
        "not proved finite",
    ),
    ("inf − inf", F, "%r = aten.sub.Tensor(%x, %x)", "not proved finite"),
    ("int + 0.0 is a float", INTS, "%r = aten.add.Scalar(%x) {other=0.0}", "type would change"),
    ("int / 1 is a float", INTS, "%r = aten.div.Scalar(%x) {other=1}", "type would change"),
    (
        "broadcast",
        "input %x: f32[4]\nconstant %z: f32[2, 4] = ((0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0))\n",
        "%r = aten.add.Tensor(%x, %z)",
        "type would change",
    ),
    (
        "cancelling terms",
        F,
        "%a = aten.add.Scalar(%x) {other=1000000.0}\n%r = aten.sub.Scalar(%a) {other=999999.0}",
        "cancel",
    ),
    (
        "extreme factors",
        F,
        "%a = aten.mul.Scalar(%x) {other=1e+30}\n%r = aten.mul.Scalar(%a) {other=1e-30}",
        "extreme",
    ),
    (
        "number outside the type",
        "input %x: i8[4]\n",
        "%a = aten.add.Scalar(%x) {other=100}\n%r = aten.add.Scalar(%a) {other=100}",
        "does not fit",
    ),
    (
        "half precision",
        "input %x: f16[4]\n",
        "%r = aten.pow.Tensor_Scalar(%x) {exponent=0.5}",
        "half precision",
    ),
]


@pytest.mark.parametrize(("inputs", "before", "reason"), [d[1:] for d in DECLINED], ids=[d[0] for d in DECLINED])
def test_declined(check, inputs: str, before: str, reason: str) -> None:
    check(Canonicalize(), f"{inputs}{before}\nreturn %r", declined=reason)


UNTOUCHED = [
    ("alpha", F, "%a = aten.neg(%y)\n%r = aten.add.Tensor(%x, %a) {alpha=2}"),
    ("negative zero is not zero", F, "%r = aten.mul.Scalar(%x) {other=0.5}"),
    ("no power of two", F, "%r = aten.div.Scalar(%x) {other=3}"),
    ("rounded division", F, '%r = aten.div.Scalar_mode(%x) {other=1, rounding_mode="floor"}'),
    ("mixed types", INTS, "%a = aten.add.Scalar(%x) {other=0.5}\n%r = aten.add.Scalar(%a) {other=1}"),
    ("shared difference", F, "%a = aten.sub.Tensor(%x, %y)\n%b = aten.neg(%a)\n%r = aten.mul.Tensor(%a, %b)"),
]


@pytest.mark.parametrize(("inputs", "before"), [u[1:] for u in UNTOUCHED], ids=[u[0] for u in UNTOUCHED])
def test_untouched(check, inputs: str, before: str) -> None:
    check(Canonicalize(), f"{inputs}{before}\nreturn %r")


def test_updated_buffer_is_no_number(check) -> None:
    check(
        Canonicalize(),
        """
        input %x: f32[]
        buffer %total: f32[] = 0.0
        %r = aten.add.Tensor(%x, %total)
        return %r
        update "total" = %r""",
    )


def test_trained_bias_of_zeros_stays(check) -> None:
    from graphopt.passmanager import PassContext

    text = """
        input %x: f32[N, 2]
        parameter %b: f32[2] requires_grad = (0.0, 0.0)
        %r = aten.add.Tensor(%x, %b)
        return %r"""
    check(Canonicalize(), text, context=PassContext(trainable=True))
    check(
        Canonicalize(),
        text,
        """
        input %x: f32[N, 2]
        parameter %b: f32[2] requires_grad = (0.0, 0.0)
        return %x""",
        applied={"add-zero": 1},
    )


def test_rules_reach_into_regions(check) -> None:
    check(
        Canonicalize(),
        """
        input %p: bool[]
        input %x: f32[4]
        %a = higher_order.cond(%p, %x) [
        graph then {
          input %x: f32[4]
          %u = aten.mul.Scalar(%x) {other=1}
          return %u
        }
        graph else {
          input %x: f32[4]
          return %x
        }
        ]
        return %a""",
        """
        input %p: bool[]
        input %x: f32[4]
        %a = higher_order.cond(%p, %x) [
        graph then {
          input %x: f32[4]
          return %x
        }
        graph else {
          input %x: f32[4]
          return %x
        }
        ]
        return %a""",
        applied={"mul-one": 1},
    )
