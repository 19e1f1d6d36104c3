"""`Gradient` nodes are written out as PyTorch's automatic differentiation has it."""

from __future__ import annotations

import pytest
import torch
from onnx import ModelProto, TensorProto, helper

from graphopt.analysis import Interpreter
from graphopt.errors import GraphOptError
from graphopt.frontends.onnx import read_onnx


def model(shape: list[object]) -> ModelProto:
    """The loss Σ tanh(x·w + b)², and its derivatives by w and b."""
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("ReduceSumSquare", ["t"], ["loss"], keepdims=0),
        helper.make_node(
            "Gradient",
            ["w", "b", "x"],
            ["dw", "db"],
            domain="ai.onnx.preview.training",
            xs=["w", "b"],
            zs=["x"],
            y="loss",
        ),
    ]
    shapes = {"x": shape, "w": [3, 2], "b": [2]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in shapes.items()]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("loss", "dw", "db")]
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("ai.onnx.preview.training", 1)]
    return helper.make_model(helper.make_graph(nodes, "g", inputs, outputs), opset_imports=opsets)


def test_derivatives_of_a_layer() -> None:
    x, w, b = torch.randn(4, 3), torch.randn(3, 2, requires_grad=True), torch.randn(2, requires_grad=True)
    graph = read_onnx(model([4, 3]))
    loss, dw, db = Interpreter(graph).run(x, w.detach(), b.detach())
    wanted = (x @ w + b).tanh().square().sum()
    torch.testing.assert_close(loss, wanted.detach())
    for got, derivative in zip((dw, db), torch.autograd.grad(wanted, (w, b)), strict=True):
        torch.testing.assert_close(got, derivative)


def test_sizes_must_be_known() -> None:
    with pytest.raises(GraphOptError, match="Gradient"):
        Interpreter(read_onnx(model(["batch", 3]))).run(torch.randn(4, 3), torch.randn(3, 2), torch.randn(2))
