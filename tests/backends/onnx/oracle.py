"""Running a graph in ONNX Runtime with its own optimizations off, and holding it against the interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import onnxruntime
import torch

from graphopt.analysis import run_graph
from graphopt.backends.onnx import emit_onnx
from graphopt.ir import Graph

TOLERANCES = {
    torch.float16: (2e-3, 2e-3),
    torch.bfloat16: (2e-2, 2e-2),
    torch.float32: (1e-5, 1e-5),
    torch.float64: (1e-6, 1e-6),
}


def checked(graph: Graph, **options: Any) -> onnx.ModelProto:
    """Emit a graph and let the checker have its say."""
    model = emit_onnx(graph, **options)
    onnx.checker.check_model(model, full_check=True)
    return model


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A session without graph optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_session(loaded: onnxruntime.InferenceSession, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Feed tensors by position."""
    wanted = {i.name for i in loaded.get_inputs()}
    names = [i.name for i in loaded.get_inputs()]
    feeds = {name: tensor.numpy() for name, tensor in zip(names, inputs) if name in wanted}
    return [torch.from_numpy(array) if hasattr(array, "dtype") else array for array in loaded.run(None, feeds)]


def assert_matches(
    graph: Graph, inputs: Sequence[torch.Tensor], results: Sequence[torch.Tensor], scale: float = 1.0
) -> None:
    """Hold results against the interpreter's: types, shapes, and values within rounding."""
    expected = run_graph(graph, *inputs)
    assert len(expected) == len(results)
    for index, (want, have) in enumerate(zip(expected, results)):
        want = torch.as_tensor(want)
        assert have.dtype == want.dtype, f"result {index} is {have.dtype}, should be {want.dtype}"
        assert have.shape == want.shape, f"result {index} is {tuple(have.shape)}, should be {tuple(want.shape)}"
        rtol, atol = (scale * t for t in TOLERANCES.get(want.dtype, (0.0, 0.0)))
        torch.testing.assert_close(have, want, rtol=rtol, atol=atol, equal_nan=True)
