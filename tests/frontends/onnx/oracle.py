"""One ONNX node, read and interpreted, against ONNX Runtime with its optimizations off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper

from graphopt.analysis import Interpreter
from graphopt.frontends.onnx import read_onnx
from graphopt.ir import Graph


def one_node(
    operator: str,
    inputs: Mapping[str, np.ndarray],
    attributes: Mapping[str, Any],
    opset: int,
    constants: Mapping[str, np.ndarray] = {},
    symbolic: Mapping[str, Sequence[str | int]] = {},
    names: Sequence[str] | None = None,
    outputs: Sequence[str] = ("y",),
    domain: str = "",
) -> onnx.ModelProto:
    """A model of one node.

    constants: operands that are stored. symbolic: shapes of inputs, if not those of the arrays. names: the node's
    operands in order, if not the inputs and then the constants; "" is an absent one.
    """
    infos = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), symbolic.get(name, list(array.shape))
        )
        for name, array in inputs.items()
    ]
    operands = list(names) if names is not None else [*inputs, *constants]
    node = helper.make_node(operator, operands, list(outputs), domain=domain, **attributes)
    stored = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    results = [helper.make_empty_tensor_value_info(name) for name in outputs if name]
    graph = helper.make_graph([node], "g", infos, results, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 10
    return model


def expected_of(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What ONNX Runtime computes."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(inputs)))


def agrees(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray], tolerance: float = 1e-4) -> Graph:
    """Read and interpret the model, hold the results against ONNX Runtime's, and return the graph."""
    graph = read_onnx(model)
    results = Interpreter(graph).run(*[torch.from_numpy(array) for array in inputs.values()])
    for result, wanted in zip(results, expected_of(model, inputs), strict=True):
        torch.testing.assert_close(
            result, torch.from_numpy(wanted), rtol=tolerance, atol=tolerance, equal_nan=True, check_stride=False
        )
    return graph


def is_translated(graph: Graph) -> bool:
    """True if no node stayed as the file has it."""
    return not any(node.op.name.startswith("onnx.") for node in graph)
