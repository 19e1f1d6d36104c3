"""The ONNX project's own node tests: read into the IR and run, each gives the expected answer or is refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from graphopt.analysis import Interpreter
from graphopt.errors import GraphOptError
from graphopt.frontends.onnx import read_onnx
from graphopt.frontends.onnx.application import NeedsValue
from graphopt.ir import Graph

TORCH_DTYPES = {
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e4m3fnuz": torch.float8_e4m3fnuz,
    "float8_e5m2": torch.float8_e5m2,
    "float8_e5m2fnuz": torch.float8_e5m2fnuz,
    "float8_e8m0fnu": torch.float8_e8m0fnu,
}
STORED = {
    "int4": torch.int8,
    "int2": torch.int8,
    "uint4": torch.uint8,
    "uint2": torch.uint8,
    "float4_e2m1fn": torch.float8_e4m3fn,
    "float6_e2m3fn": torch.float8_e4m3fn,
    "float6_e3m2fn": torch.float8_e4m3fn,
}
UNSEEDED = ("bernoulli", "dropout", "random")


def tensor(array: Any) -> torch.Tensor:
    if isinstance(array, onnx.TensorProto):
        array = onnx.numpy_helper.to_array(array)
    if not isinstance(array, np.ndarray | np.generic):
        raise TypeError("a sequence or an optional is no tensor")
    array = np.asarray(array)
    if array.dtype.name in TORCH_DTYPES:
        bits = array.view(np.int16 if array.dtype.itemsize == 2 else np.uint8)
        return torch.from_numpy(bits.copy()).view(TORCH_DTYPES[array.dtype.name])
    if array.dtype.name in STORED:
        return torch.from_numpy(array.astype(np.float32)).to(STORED[array.dtype.name])
    return torch.from_numpy(array.copy())


def read(model: Any, inputs: list[Any]) -> Graph:
    """Read a model; inputs whose contents decide shapes are given theirs."""
    names = [value.name for value in model.graph.input]
    values: dict[str, torch.Tensor] = {}
    while True:
        try:
            return read_onnx(model, values)
        except GraphOptError as error:
            cause = error.__cause__
            if not isinstance(cause, NeedsValue) or cause.name not in names or cause.name in values:
                raise
            values[cause.name] = tensor(inputs[names.index(cause.name)])


def outcome(case: Any) -> str:
    inputs, expected = case.data_sets[0]
    try:
        given = [tensor(array) for array in inputs]
        results = Interpreter(read(case.model, inputs)).run(*given)
        answers = [tensor(array) for array in expected]
    except (GraphOptError, TypeError):  # TypeError: arrays that PyTorch has no tensors of
        return "refused"
    for result, wanted in zip(results, answers):
        if result.dtype != wanted.dtype or result.shape != wanted.shape:
            return f"wrong: {result.dtype}{list(result.shape)} for {wanted.dtype}{list(wanted.shape)}"
        loose = wanted.dtype.itemsize < 4 and wanted.is_floating_point()
        close = torch.allclose(
            result.double(), wanted.double(), rtol=max(case.rtol, 1e-3), atol=1e-2 if loose else 1e-5, equal_nan=True
        )
        if not close:
            return "wrong numbers"
    return "passed"


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    from onnx.backend.test.case.node import collect_testcases

    cases = [case for case in collect_testcases(None) if not any(word in case.name for word in UNSEEDED)]
    return {case.name: outcome(case) for case in cases}


def test_no_answer_is_wrong(outcomes: dict[str, str]) -> None:
    assert {name: text for name, text in outcomes.items() if text.startswith("wrong")} == {}


def test_most_cases_are_answered(outcomes: dict[str, str]) -> None:
    assert Counter(outcomes.values())["passed"] >= 1650
