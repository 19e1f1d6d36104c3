from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ops import parse
from graphopt.passes.raise_normalization import RaiseNormalization
from graphopt.rewrite import Contract
from graphopt.testing import assert_equivalent

X = "input %x: f32[N, 5, 8]\n"
MEAN = "%m = aten.mean.dim(%x) {dim=(-1,), keepdim=true}\n"
CENTRED = "%d = aten.sub.Tensor(%x, %m)\n"
LAST = "{dim=(-1,), keepdim=true}"
VARIANCE = [
    f"%q = aten.mul.Tensor(%d, %d)\n%v = aten.mean.dim(%q) {LAST}\n",
    f"%q = aten.pow.Tensor_Scalar(%d) {{exponent=2}}\n%v = aten.mean.dim(%q) {LAST}\n",
    f"%q = aten.mul.Tensor(%x, %x)\n%s = aten.mean.dim(%q) {LAST}\n%t = aten.mul.Tensor(%m, %m)\n"
    "%v = aten.sub.Tensor(%s, %t)\n",
    "%v = aten.var.correction(%x) {dim=(-1,), correction=0, keepdim=true}\n",
]
EPS = "%e = aten.add.Scalar(%v) {other=0.0009765625}\n"
QUOTIENT = [
    "%o = aten.sqrt(%e)\n%n = aten.div.Tensor(%d, %o)\n",
    "%o = aten.rsqrt(%e)\n%n = aten.mul.Tensor(%o, %d)\n",
    "%o = aten.sqrt(%e)\n%i = aten.reciprocal(%o)\n%n = aten.mul.Tensor(%d, %i)\n",
]
SHAPE = "{normalized_shape=(8,), eps=0.0009765625}"


@pytest.mark.parametrize(("variance", "quotient"), list(product(VARIANCE, QUOTIENT)))
def test_layer_norm(check, variance: str, quotient: str) -> None:
    check(
        RaiseNormalization(),
        X + MEAN + CENTRED + variance + EPS + quotient + "return %n",
        X + f"%n = aten.layer_norm(%x) {SHAPE}\nreturn %n",
        applied={"raise-layer-norm": 1},
        special=False,
    )


VECTORS = "parameter %w: f32[8]\nparameter %b: f32[8]\n"


def test_scale_and_shift_join(check) -> None:
    body = MEAN + CENTRED + VARIANCE[0] + EPS + QUOTIENT[0]
    check(
        RaiseNormalization(),
        X + VECTORS + body + "%s = aten.mul.Tensor(%w, %n)\n%r = aten.add.Tensor(%s, %b)\nreturn %r",
        X + VECTORS + f"%r = aten.layer_norm(%x, %w, %b) {SHAPE}\nreturn %r",
        applied={"raise-layer-norm": 1, "scale-into-norm": 1, "shift-into-norm": 1},
        special=False,
    )


def test_the_form_of_keras(check) -> None:
    body = MEAN + CENTRED + VARIANCE[0] + EPS + "%o = aten.rsqrt(%e)\n%s = aten.mul.Tensor(%o, %w)\n"
    body += "%y = aten.mul.Tensor(%x, %s)\n%z = aten.mul.Tensor(%m, %s)\n%c = aten.sub.Tensor(%b, %z)\n"
    check(
        RaiseNormalization(),
        X + VECTORS + body + "%r = aten.add.Tensor(%y, %c)\nreturn %r",
        X + VECTORS + f"%r = aten.layer_norm(%x, %w, %b) {SHAPE}\nreturn %r",
        applied={"raise-scaled-layer-norm": 1},
        special=False,
    )


ROOT_MEAN_SQUARE = f"%q = aten.mul.Tensor(%x, %x)\n%v = aten.mean.dim(%q) {LAST}\n" + EPS


RMS = ROOT_MEAN_SQUARE + "%o = aten.rsqrt(%e)\n%n = aten.mul.Tensor(%x, %o)\n"
SCALED = "%r = aten.mul.Tensor(%w, %n)\n"


@pytest.mark.parametrize(
    "quotient",
    ["%o = aten.rsqrt(%e)\n%n = aten.mul.Tensor(%x, %o)\n", "%o = aten.sqrt(%e)\n%n = aten.div.Tensor(%x, %o)\n"],
)
def test_rms_norm(check, quotient: str) -> None:
    check(
        RaiseNormalization(),
        X + VECTORS + ROOT_MEAN_SQUARE + quotient + "%r = aten.mul.Tensor(%w, %n)\nreturn %r",
        X + VECTORS + f"%r = aten.rms_norm(%x, %w) {SHAPE}\nreturn %r",
        applied={"raise-rms-norm": 1, "scale-into-norm": 1},
        special=False,
    )


def test_half_precision_is_widened_by_the_norm_itself(check) -> None:
    half = "input %h: f16[N, 5, 8]\n"
    body = "%x = aten._to_copy(%h) {dtype=f32}\n" + ROOT_MEAN_SQUARE
    body += "%o = aten.rsqrt(%e)\n%n = aten.mul.Tensor(%x, %o)\n%r = aten._to_copy(%n) {dtype=f16}\nreturn %r"
    check(
        RaiseNormalization(),
        half + body,
        half + f"%r = aten.rms_norm(%h) {SHAPE}\nreturn %r",
        applied={"raise-rms-norm": 1, "norm-in-half": 1},
        special=False,
    )


def test_reshapes_of_the_other_dims_go(check) -> None:
    body = f"%a = aten.reshape(%x) {{shape=(5*N, 8)}}\n%n = aten.layer_norm(%a) {SHAPE}\n"
    check(
        RaiseNormalization(),
        X + body + "%r = aten.reshape(%n) {shape=(N, 5, 8)}\nreturn %r",
        X + f"%r = aten.layer_norm(%x) {SHAPE}\nreturn %r",
        applied={"norm-of-reshaped": 1},
        special=False,
    )


OUTSIDE = "%o = aten.sqrt(%v)\n%e = aten.add.Scalar(%o) {other=0.001}\n%n = aten.div.Tensor(%d, %e)\nreturn %n"


def test_eps_outside_the_root_is_another_function(check) -> None:
    check(RaiseNormalization(), X + MEAN + CENTRED + VARIANCE[0] + OUTSIDE, special=False)


def test_means_over_other_dims_stay(check) -> None:
    text = (X + MEAN + CENTRED + VARIANCE[0] + EPS + QUOTIENT[0] + "return %n").replace("(-1,)", "(1,)")
    check(RaiseNormalization(), text, declined="not over the last dims", special=False)


def test_an_unbiased_variance_is_another_function(check) -> None:
    text = X + MEAN + CENTRED + VARIANCE[3].replace("correction=0", "correction=1") + EPS + QUOTIENT[0] + "return %n"
    check(RaiseNormalization(), text, special=False)


def test_a_scale_of_each_row_stays_outside(check) -> None:
    rows = "input %s: f32[N, 5, 1]\n"
    body = MEAN + CENTRED + VARIANCE[0] + EPS + QUOTIENT[0] + "%r = aten.mul.Tensor(%n, %s)\nreturn %r"
    check(
        RaiseNormalization(),
        X + rows + body,
        X + rows + f"%n = aten.layer_norm(%x) {SHAPE}\n%r = aten.mul.Tensor(%n, %s)\nreturn %r",
        applied={"raise-layer-norm": 1},
        declined="one number for each place",
        special=False,
    )


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    data=st.data(),
    form=st.sampled_from([MEAN + CENTRED + v + EPS + q for v in VARIANCE for q in QUOTIENT] + [RMS, RMS + SCALED]),
    eps=st.floats(2.0**-20, 1),
)
@settings(max_examples=25, deadline=None)
def test_any_shape_and_trailing_dims(shape: list[int], data: st.DataObject, form: str, eps: float) -> None:
    count = data.draw(st.integers(1, len(shape)))
    dims = data.draw(st.permutations(range(-count, 0)))
    text = f"input %x: f32{shape}\ninput %w: f32{shape[-count:]}\n" + form.replace("0.0009765625", repr(eps))
    graph = parse(text.replace("(-1,)", repr(tuple(dims))) + ("return %r" if form.endswith(SCALED) else "return %n"))
    after = RaiseNormalization()(graph)
    assert_equivalent(graph, after, contract=Contract.REASSOCIATING, special=False)
    assert [node.op.base for node in after] == [
        "aten.layer_norm" if "%m" in form or "var." in form else "aten.rms_norm"
    ]
