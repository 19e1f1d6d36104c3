"""Losses over classes, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.frontends.onnx.oracle import agrees, one_node

RNG = np.random.default_rng(3)
SHAPES: dict[int, tuple[int, ...]] = {2: (4, 5), 3: (4, 5, 3), 4: (4, 5, 2, 3), 5: (2, 5, 2, 3, 2)}


@given(
    operator=st.sampled_from(["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"]),
    rank=st.sampled_from(sorted(SHAPES)),
    reduction=st.sampled_from(["none", "mean", "sum"]),
    weighted=st.booleans(),
    ignored=st.sampled_from([None, 0, 2, -5]),
    narrow=st.booleans(),
    logs=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_losses(
    operator: str, rank: int, reduction: str, weighted: bool, ignored: int | None, narrow: bool, logs: bool
) -> None:
    shape = SHAPES[rank]
    scores = RNG.standard_normal(shape).astype(np.float32)
    target = RNG.integers(0, shape[1], (shape[0], *shape[2:])).astype(np.int32 if narrow else np.int64)
    if ignored is not None:
        target.reshape(-1)[0] = ignored
        target.reshape(-1)[1] = 1
    attributes: dict[str, Any] = {"reduction": reduction}
    if ignored is not None:
        attributes["ignore_index"] = ignored
    weights = {"w": RNG.random(shape[1]).astype(np.float32) + 0.1} if weighted else {}
    outputs = ("y", "log_prob") if logs and operator == "SoftmaxCrossEntropyLoss" else ("y",)
    batch = {"x": ["batch", *shape[1:]], "t": ["batch", *shape[2:]]}
    model = one_node(operator, {"x": scores, "t": target}, attributes, 13, weights, batch, outputs=outputs)
    graph = agrees(model, {"x": scores, "t": target})
    whole = "aten.cross_entropy_loss" if operator.startswith("Softmax") and len(outputs) == 1 else "aten.nll_loss_nd"
    assert whole in [node.op.name for node in graph]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_logarithms_alone_leave_the_loss_out(reduction: str) -> None:
    scores = RNG.standard_normal((3, 4)).astype(np.float32)
    inputs = {"x": scores, "t": np.array([0, 3, 1])}
    model = one_node("SoftmaxCrossEntropyLoss", inputs, {"reduction": reduction}, 13, outputs=("y", "log_prob"))
    del model.graph.output[0]
    agrees(model, inputs)
