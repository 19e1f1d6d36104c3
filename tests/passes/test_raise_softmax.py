from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ops import parse
from graphopt.passes.raise_softmax import RaiseSoftmax
from graphopt.rewrite import Contract
from graphopt.testing import assert_equivalent

X = "input %x: f32[N, 4, 8]\n"
SHIFT = [
    "%a = aten.amax(%x) {dim=(1,), keepdim=true}\n%s = aten.sub.Tensor(%x, %a)\n%e = aten.exp(%s)\n",
    "%e = aten.exp(%x)\n",
]
TOTAL = "%t = aten.sum.dim_IntList(%e) {dim=(1,), keepdim=true}\n"
QUOTIENT = ["%r = aten.div.Tensor(%e, %t)\n", "%i = aten.reciprocal(%t)\n%r = aten.mul.Tensor(%i, %e)\n"]


@pytest.mark.parametrize(("shift", "quotient"), list(product(SHIFT, QUOTIENT)))
def test_softmax(check, shift: str, quotient: str) -> None:
    check(
        RaiseSoftmax(),
        X + shift + TOTAL + quotient + "return %r",
        X + "%r = aten.softmax.int(%x) {dim=1}\nreturn %r",
        applied={"raise-softmax": 1},
        special=False,
    )


LOGARITHMS = [
    SHIFT[0] + TOTAL + "%l = aten.log(%t)\n%r = aten.sub.Tensor(%s, %l)\n",
    SHIFT[1] + TOTAL + "%l = aten.log(%t)\n%r = aten.sub.Tensor(%x, %l)\n",
    "%l = aten.logsumexp(%x) {dim=(1,), keepdim=true}\n%r = aten.sub.Tensor(%x, %l)\n",
    "%p = aten.softmax.int(%x) {dim=1}\n%r = aten.log(%p)\n",
]


@pytest.mark.parametrize("body", LOGARITHMS)
def test_log_softmax(check, body: str) -> None:
    check(
        RaiseSoftmax(),
        X + body + "return %r",
        X + "%r = aten.log_softmax.int(%x) {dim=1}\nreturn %r",
        applied={"raise-log-softmax": 1},
        special=False,
    )


def test_a_sum_over_other_dims_stays(check) -> None:
    check(RaiseSoftmax(), X + SHIFT[0] + TOTAL.replace("(1,)", "(1, 2)") + QUOTIENT[0] + "return %r", special=False)


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    data=st.data(),
    shift=st.sampled_from(SHIFT),
    end=st.sampled_from([*QUOTIENT, "%l = aten.log(%t)\n%r = aten.sub.Tensor(%x, %l)\n"]),
)
@settings(max_examples=25, deadline=None)
def test_any_shape_and_axis(shape: list[int], data: st.DataObject, shift: str, end: str) -> None:
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    text = f"input %x: f32{shape}\n" + (shift + TOTAL + end).replace("(1,)", f"({dim},)") + "return %r"
    graph = parse(text)
    after = RaiseSoftmax()(graph)
    assert_equivalent(graph, after, contract=Contract.REASSOCIATING, special=False)
    if "sub.Tensor(%x, %l)" not in text or "amax" not in text:
        assert [node.op.base.removeprefix("aten.") for node in after] in (["softmax"], ["log_softmax"])
