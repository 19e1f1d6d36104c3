"""Operators outside of the table, through PyTorch's exporter."""

from __future__ import annotations

import pytest
import torch

from graphopt.backends.onnx import emit_onnx, long_tail
from graphopt.backends.onnx.registry import lowered_ops
from graphopt.errors import EmissionError
from graphopt.ops import parse
from tests.backends.onnx.cases import SIZES, case_inputs, make_case
from tests.backends.onnx.oracle import assert_matches, checked, run_session, session

LINES = [
    "linalg_det(f32[N, 3, 3])",
    "sinc(f32[N, M])",
    "logcumsumexp(f32[N, 3]) {dim=1}",
    "trace(f32[3, 3])",
    "soft_margin_loss(f32[N], f32[N])",
]


@pytest.mark.parametrize("line", LINES)
def test_the_exporter_translates_the_rest(line: str) -> None:
    case = make_case(line)
    assert case.op not in lowered_ops()
    loaded = session(checked(case.graph))
    for sizes in SIZES if case.graph.symbols() else SIZES[:1]:
        inputs = case_inputs(case, sizes)
        assert_matches(case.graph, inputs, run_session(loaded, inputs))


def test_a_translation_is_kept_and_its_names_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    translate = long_tail._translate
    monkeypatch.setattr(long_tail, "_translate", lambda *args: calls.append(args) or translate(*args))
    monkeypatch.setattr(long_tail, "_cache", {})
    graph = parse("""
        input %x: f32[N, 3]
        %a = special_erfcx(%x)
        %b = special_erfcx(%a)
        %c = special_erfcx(%b)
        return %c""")
    x = torch.rand(4, 3)
    assert_matches(graph, [x], run_session(session(checked(graph)), [x]), scale=10)
    assert len(calls) == 1


def test_a_translation_that_gives_other_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = emit_onnx(parse("input %x: f32[5]\n%y = relu(%x)\nreturn %y"))
    monkeypatch.setattr(long_tail, "_export", lambda *_: wrong)
    monkeypatch.setattr(long_tail, "_cache", {})
    with pytest.raises(EmissionError, match="gives other numbers"):
        emit_onnx(parse("input %x: f32[5]\n%y = sinc(%x)\nreturn %y"))


@pytest.mark.parametrize("text", ["polar(%x, %x)", "view_as_complex(%y)"])
def test_complex_numbers_are_refused(text: str) -> None:
    with pytest.raises(EmissionError, match=r"complex.* no ONNX form"):
        emit_onnx(parse(f"input %x: f32[3]\ninput %y: f32[3, 2]\n%z = {text}\nreturn %z"))
