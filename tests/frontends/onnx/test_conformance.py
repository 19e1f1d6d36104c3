"""The ONNX project's own tests, along path a: read into the IR and run as FX modules. The benchmark
`onnx_conformance.py` runs path b too, and says why cases do not pass."""

from __future__ import annotations

import contextlib
import io
import unittest

import pytest
from onnx.backend.test import BackendTest

from graphopt.testing.onnx_backend import FxBackend, OnnxRuntimeBackend
from tests.frontends.onnx.conformance import CONVERTED, Outcome, bars, cases, run

OTHER_ANSWERS = {
    "random numbers of another generator": (
        "test_bernoulli",
        "test_bernoulli_double",
        "test_bernoulli_double_expanded",
        "test_bernoulli_expanded",
        "test_bernoulli_seed",
        "test_bernoulli_seed_expanded",
        "test_training_dropout",
        "test_training_dropout_default",
        "test_training_dropout_default_mask",
        "test_training_dropout_mask",
    ),
    "a unit in the last place of f16": (
        "test_attention_4d_causal_fp16",
        "test_attention_4d_causal_fp16_expanded",
        "test_attention_4d_fp16",
    ),
    "1e-5 in place of 0, where the largest number is 45": ("test_dft_inverse", "test_dft_inverse_opset19"),
    "the runner cannot compare scalars in a sequence": ("test_loop16_seq_none",),
}
"""Cases whose answer is another than the ONNX project asks for, or is taken for one."""


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    with contextlib.redirect_stderr(io.StringIO()):  # FX prints where a generated line failed
        return [run(case, FxBackend) for kind in ("node", *CONVERTED) for case in cases(kind)]


def test_no_answer_is_wrong(outcomes: list[Outcome]) -> None:
    known = {name for names in OTHER_ANSWERS.values() for name in names}
    assert {o.name: o.reason for o in outcomes if o.status == "failed" and o.name not in known} == {}


def test_none_is_refused(outcomes: list[Outcome]) -> None:
    assert {o.name: o.reason for o in outcomes if o.status == "unsupported"} == {}


def test_the_bars_are_held(outcomes: list[Outcome]) -> None:
    assert [bar for bar in bars({"a": outcomes}) if not bar.held] == []


@pytest.mark.parametrize("backend", [FxBackend, OnnxRuntimeBackend])
def test_runs_under_the_projects_own_runner(backend: type[FxBackend]) -> None:
    suite = BackendTest(backend, __name__).include("^test_(relu|split_1d_uneven_split_opset18|reshape_one_dim)_cpu$")
    result = unittest.TestResult()
    suite.test_suite.run(result)
    assert result.errors == result.failures == []
    assert result.testsRun - len(result.skipped) == 3
