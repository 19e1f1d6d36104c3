"""Random numbers of ONNX have their distributions; dropout and batch normalization in training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from graphopt.analysis import Interpreter
from graphopt.frontends.onnx import read_onnx
from graphopt.ir import Trait
from tests.frontends.onnx.oracle import one_node

MANY = 40_000


def drawn(operator: str, attributes: dict[str, Any], x: np.ndarray | None = None, **options: Any) -> torch.Tensor:
    model = one_node(operator, {} if x is None else {"x": x}, attributes, 22, **options)
    graph = read_onnx(model)
    assert any(node.op.has(Trait.RANDOM) for node in graph)
    torch.manual_seed(0)
    result: torch.Tensor = Interpreter(graph).run(*([] if x is None else [torch.from_numpy(x)]))[0]
    return result


@pytest.mark.parametrize("like", [True, False])
def test_uniform(like: bool) -> None:
    attributes = {"low": -2.0, "high": 4.0, "dtype": 11} | ({} if like else {"shape": [MANY]})
    x = np.zeros(MANY, dtype=np.float32) if like else None
    y = drawn("RandomUniformLike" if like else "RandomUniform", attributes, x)
    assert y.dtype is torch.float64
    assert -2 <= float(y.min()) < -1.99
    assert 3.99 < float(y.max()) <= 4
    assert float(y.mean()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("like", [True, False])
def test_normal(like: bool) -> None:
    attributes = {"mean": 3.0, "scale": 0.5} | ({} if like else {"shape": [MANY]})
    y = drawn("RandomNormalLike" if like else "RandomNormal", attributes, np.zeros(MANY, np.float32) if like else None)
    assert y.dtype is torch.float32
    assert float(y.mean()) == pytest.approx(3, abs=0.02)
    assert float(y.std()) == pytest.approx(0.5, abs=0.02)


def test_bernoulli() -> None:
    y = drawn("Bernoulli", {"dtype": 6}, np.full(MANY, 0.3, dtype=np.float32))
    assert y.dtype is torch.int32
    assert set(y.tolist()) == {0, 1}
    assert float(y.double().mean()) == pytest.approx(0.3, abs=0.02)


def test_multinomial() -> None:
    chances = np.array([0.1, 0.0, 0.6, 0.3], dtype=np.float32)
    with np.errstate(divide="ignore"):
        y = drawn("Multinomial", {"sample_size": MANY, "dtype": 7}, np.log(chances)[None] + 5)
    assert y.dtype is torch.int64
    counts = torch.bincount(y[0], minlength=4).double() / MANY
    torch.testing.assert_close(counts, torch.from_numpy(chances).double(), rtol=0, atol=0.02)


@pytest.mark.parametrize("masked", [True, False])
def test_dropout_in_training(masked: bool) -> None:
    x = np.ones(MANY, dtype=np.float32)
    constants = {"ratio": np.array(0.75, dtype=np.float32), "training": np.array(True)}
    model = one_node("Dropout", {"x": x}, {}, 13, constants, outputs=("y", "mask") if masked else ("y",))
    y, *mask = Interpreter(read_onnx(model)).run(torch.from_numpy(x))
    assert set(y.tolist()) == {0, 4}
    assert float(y.mean()) == pytest.approx(1, abs=0.05)
    assert all(torch.equal(m, y > 0) for m in mask)


@pytest.mark.parametrize("training", [0, 1])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (2, 3, 4, 5)])
def test_batch_normalization(training: int, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    constants = {name: rng.random(3).astype(np.float32) + 0.5 for name in ("scale", "bias", "mean", "var")}
    outputs = ("y", "m", "v") if training else ("y",)
    attributes = {"training_mode": training, "momentum": 0.7, "epsilon": 1e-3}
    model = one_node("BatchNormalization", {"x": x}, attributes, 15, constants, {"x": ["n", *shape[1:]]}, None, outputs)
    results = Interpreter(read_onnx(model)).run(torch.from_numpy(x))
    for got, wanted in zip(results, ReferenceEvaluator(model).run(None, {"x": x}), strict=True):
        torch.testing.assert_close(got, torch.from_numpy(np.asarray(wanted)), rtol=1e-4, atol=1e-5)
