from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from graphopt.passes.raise_activations import RaiseActivations

X = "input %x: f32[N, 8]\n"
ROOT = 0.7978845834732056  # √(2/π) in single precision


def raised(check, body: str, expected: str, rule: str) -> None:
    lines = body.splitlines(keepends=True)
    inputs = X + "".join(line for line in lines if line.startswith("constant"))
    nodes = "".join(line for line in lines if not line.startswith("constant"))
    check(RaiseActivations(), inputs + nodes, f"{inputs}%r = {expected}\nreturn %r", applied={rule: 1}, special=False)


ERF = [
    "%a = aten.div.Scalar(%x) {other=1.41421354}\n%b = aten.erf(%a)\n",
    "%a = aten.mul.Scalar(%x) {other=0.70710677}\n%b = aten.erf(%a)\n",
    "constant %k: f32[] = 1.4142135\n%a = aten.div.Tensor(%x, %k)\n%b = aten.erf(%a)\n",
]
ONE_PLUS = [
    "%p = aten.add.Scalar(%b) {other=1.0}\n",
    "constant %one: f32[1] = (1.0,)\n%p = aten.add.Tensor(%one, %b)\n",
]
HALVES = [
    "%h = aten.mul.Scalar(%x) {other=0.5}\n%r = aten.mul.Tensor(%h, %p)\nreturn %r",
    "%h = aten.mul.Tensor(%x, %p)\n%r = aten.mul.Scalar(%h) {other=0.5}\nreturn %r",
    "%h = aten.mul.Scalar(%p) {other=0.5}\n%r = aten.mul.Tensor(%h, %x)\nreturn %r",
]


@pytest.mark.parametrize(("erf", "one", "half"), list(product(ERF, ONE_PLUS, HALVES)))
def test_gelu(check, erf: str, one: str, half: str) -> None:
    raised(check, erf + one + half, "aten.gelu(%x)", "raise-gelu")


CUBIC = [
    "%q = aten.pow.Tensor_Scalar(%x) {exponent=3}\n%k = aten.mul.Scalar(%q) {other=0.044715}\n"
    f"%s = aten.add.Tensor(%x, %k)\n%m = aten.mul.Scalar(%s) {{other={ROOT}}}\n",
    "%q = aten.mul.Tensor(%x, %x)\n%w = aten.mul.Tensor(%x, %q)\n%k = aten.mul.Scalar(%w) {other=0.044715}\n"
    f"%s = aten.add.Tensor(%k, %x)\n%m = aten.mul.Scalar(%s) {{other={ROOT}}}\n",
    "%q = aten.mul.Scalar(%x) {other=0.044715}\n%w = aten.mul.Tensor(%q, %x)\n%s = aten.add.Scalar(%w) {other=1}\n"
    f"%c = aten.mul.Scalar(%x) {{other={ROOT}}}\n%m = aten.mul.Tensor(%c, %s)\n",
    "%q = aten.mul.Tensor(%x, %x)\n%w = aten.mul.Scalar(%q) {other=0.03567740813}\n"
    f"%s = aten.add.Scalar(%w) {{other={ROOT}}}\n%m = aten.mul.Tensor(%x, %s)\n",
]


@pytest.mark.parametrize(("cubic", "half"), list(product(CUBIC, HALVES)))
def test_gelu_tanh(check, cubic: str, half: str) -> None:
    body = f"{cubic}%t = aten.tanh(%m)\n%p = aten.add.Scalar(%t) {{other=1.0}}\n{half}"
    raised(check, body, 'aten.gelu(%x) {approximate="tanh"}', "raise-gelu-tanh")


def test_gelu_tanh_by_sigmoid(check) -> None:
    body = (
        CUBIC[0].replace(str(ROOT), str(2 * ROOT)) + "%s2 = aten.sigmoid(%m)\n%r = aten.mul.Tensor(%x, %s2)\nreturn %r"
    )
    raised(check, body, 'aten.gelu(%x) {approximate="tanh"}', "raise-gelu-tanh")


LOGISTIC = "%n = aten.neg(%x)\n%e = aten.exp(%n)\n%d = aten.add.Scalar(%e) {other=1}\n"
SIX = "%a = aten.add.Scalar(%x) {other=3.0}\n%c = aten.clamp(%a) {min=0, max=6}\n"
SIMPLE = [
    (LOGISTIC + "%r = aten.reciprocal(%d)", "aten.sigmoid(%x)", "raise-sigmoid"),
    (LOGISTIC + "%r = aten.div.Tensor(%x, %d)", "aten.silu(%x)", "raise-silu"),
    ("%s = aten.sigmoid(%x)\n%r = aten.mul.Tensor(%s, %x)", "aten.silu(%x)", "raise-silu"),
    (SIX + "%r = aten.div.Scalar(%c) {other=6}", "aten.hardsigmoid(%x)", "raise-hardsigmoid"),
    (SIX + "%r = aten.mul.Scalar(%c) {other=0.16666667}", "aten.hardsigmoid(%x)", "raise-hardsigmoid"),
    (
        "%a = aten.mul.Scalar(%x) {other=0.16666667}\n%b = aten.add.Scalar(%a) {other=0.5}\n"
        "%r = aten.clamp(%b) {min=0, max=1}",
        "aten.hardsigmoid(%x)",
        "raise-hardsigmoid",
    ),
    (
        SIX.replace("aten.clamp(%a) {min=0, max=6}", "aten.relu6(%a)")
        + "%m = aten.mul.Tensor(%x, %c)\n%r = aten.div.Scalar(%m) {other=6}",
        "aten.hardswish(%x)",
        "raise-hardswish",
    ),
    ("%h = aten.hardsigmoid(%x)\n%r = aten.mul.Tensor(%h, %x)", "aten.hardswish(%x)", "raise-hardswish"),
    ("%e = aten.exp(%x)\n%r = aten.log1p(%e)", "aten.softplus(%x)", "raise-softplus"),
    ("%e = aten.exp(%x)\n%p = aten.add.Scalar(%e) {other=1}\n%r = aten.log(%p)", "aten.softplus(%x)", "raise-softplus"),
    ("%s = aten.softplus(%x)\n%t = aten.tanh(%s)\n%r = aten.mul.Tensor(%x, %t)", "aten.mish(%x)", "raise-mish"),
    ("%s = aten.sigmoid(%x)\n%r = aten.log(%s)", "aten.log_sigmoid(%x)", "raise-logsigmoid"),
    (
        "%m = aten.mul.Scalar(%x) {other=0.125}\n%r = aten.maximum(%m, %x)",
        "aten.leaky_relu(%x) {negative_slope=0.125}",
        "raise-leaky-relu",
    ),
    (
        "%m = aten.mul.Scalar(%x) {other=2.0}\n%g = aten.gt.Scalar(%x) {other=0}\n%r = aten.where.self(%g, %x, %m)",
        "aten.leaky_relu(%x) {negative_slope=2.0}",
        "raise-leaky-relu",
    ),
]


@pytest.mark.parametrize(("body", "expected", "rule"), SIMPLE, ids=[f"{s[2]}-{i}" for i, s in enumerate(SIMPLE)])
def test_one_operator(check, body: str, expected: str, rule: str) -> None:
    raised(check, f"{body}\nreturn %r", expected, rule)


OTHER_FUNCTIONS = [
    # 1.702 x is another approximation; 0.2 x + 0.5 another hard sigmoid; a slope of 2 makes the maximum another one.
    "%a = aten.mul.Scalar(%x) {other=1.702}\n%b = aten.sigmoid(%a)\n%r = aten.mul.Tensor(%x, %b)\nreturn %r",
    "%a = aten.mul.Scalar(%x) {other=0.2}\n%b = aten.add.Scalar(%a) {other=0.5}\n"
    "%r = aten.clamp(%b) {min=0, max=1}\nreturn %r",
    "%m = aten.mul.Scalar(%x) {other=2.0}\n%r = aten.maximum(%m, %x)\nreturn %r",
    "%a = aten.div.Scalar(%x) {other=1.4142}\n%b = aten.erf(%a)\n" + ONE_PLUS[0] + HALVES[0],
    ERF[0] + "%p = aten.sub.Scalar(%b) {other=1.0}\n" + HALVES[0],
]


@pytest.mark.parametrize("body", OTHER_FUNCTIONS)
def test_what_is_another_function_stays(check, body: str) -> None:
    check(RaiseActivations(), X + body, special=False)


def test_parts_that_are_returned_stay(check) -> None:
    check(
        RaiseActivations(), X + (ERF[0] + ONE_PLUS[0] + HALVES[0]).replace("return %r", "return %r, %b"), special=False
    )


def test_another_operand_is_not_taken_for_x(check) -> None:
    text = "input %y: f32[N, 8]\n" + X + ERF[0] + ONE_PLUS[0] + HALVES[0].replace("(%x)", "(%y)")
    check(RaiseActivations(), text, special=False)


@pytest.mark.parametrize("number", [math.sqrt(2), 1.41421354, float(torch.tensor(math.sqrt(2), dtype=torch.float16))])
def test_root_two_is_rounded_as_its_type_rounds(number: float) -> None:
    from graphopt.rewrite.pattern import is_rounding_of

    assert is_rounding_of(number, math.sqrt(2)) == (abs(number - math.sqrt(2)) < 1e-6)
