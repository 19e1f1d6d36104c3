"""Branches of an If that differ in rank: the one under which the rest of the file is valid is taken."""

from __future__ import annotations

import onnx
import pytest
import torch
from onnx import numpy_helper

from graphopt.analysis import Interpreter
from graphopt.errors import GraphOptError
from graphopt.frontends.onnx import read_onnx
from tests.frontends.onnx.models import agree, body, info, model, node, ops, stored

GENERATOR = torch.Generator().manual_seed(0)


def squeezed(after: list[onnx.NodeProto], *tensors: onnx.TensorProto) -> onnx.ModelProto:
    """`x.squeeze(-1)` of x [N, 3, L], as PyTorch's exporter writes it where L is not known; then `after`, s to y."""
    nodes = [
        node("Shape", "x", "shape", start=2),
        node("Equal", "shape one", "c"),
        node(
            "If",
            "c",
            "s",
            then_branch=body([node("Squeeze", "x last", "r")], [], [info("r", None)]),
            else_branch=body([node("Identity", "x", "i")], [], [info("i", None)]),
        ),
        *after,
    ]
    constants = [stored("one", [1], "int64"), stored("last", [-1], "int64"), *tensors]
    return model(body(nodes, [info("x", ("N", 3, "L"))], [info("y", (1, 1, "N", 5))], *constants))


def recurrent() -> onnx.ModelProto:
    """A recurrent layer takes [time, N, 3], so s must be [N, 3]."""
    weights = [
        numpy_helper.from_array(torch.randn(shape, generator=GENERATOR).numpy(), name)
        for name, shape in (("wx", (1, 5, 3)), ("wr", (1, 5, 5)))
    ]
    after = [node("Unsqueeze", "s first", "t"), node("RNN", "t wx wr", "y", hidden_size=5)]
    return squeezed(after, stored("first", [0], "int64"), *weights)


@pytest.mark.parametrize("batch", [1, 4])
def test_the_branch_that_leaves_the_rest_valid_is_taken(batch: int) -> None:
    graph = agree(recurrent(), torch.randn(batch, 3, 1, generator=GENERATOR))
    assert not any(name.startswith("onnx.") or name == "higher_order.cond" for name in ops(graph))


def test_sizes_that_choose_the_other_branch_fail() -> None:
    with pytest.raises(GraphOptError, match="reshape"):
        Interpreter(read_onnx(recurrent())).run(torch.randn(2, 3, 4, generator=GENERATOR))


def test_where_both_are_valid_the_if_stays() -> None:
    assert "onnx.If" in ops(read_onnx(squeezed([node("Relu", "s", "y")])))
