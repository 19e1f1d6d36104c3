"""What ONNX Runtime makes of a graph: the operators that are left after its own optimizations."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnxruntime

from graphopt.backends.onnx.emit import emit_onnx
from graphopt.backends.onnx.engine import LEVELS
from graphopt.errors import EmissionError
from graphopt.ir import Graph
from graphopt.ops.onnx_runtime import session_options
from graphopt.targets import Kernel

if TYPE_CHECKING:
    from graphopt.backends.onnx.engine import OnnxRuntimeEngine


def kernels(graph: Graph, engine: OnnxRuntimeEngine) -> list[Kernel]:
    """Load a graph and return what runs, as ONNX Runtime writes it down.

    Raises:
        EmissionError: ONNX Runtime refuses the model.
    """
    model = emit_onnx(graph, opset=engine.opset)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        options = session_options(LEVELS[engine.optimization], engine.threads)
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exception classes share no base of their own
            raise EmissionError(f"ONNX Runtime cannot load the graph: {error}") from error
        left = onnx.load(path, load_external_data=False).graph
    return [Kernel(node.op_type, tuple(node.input), tuple(node.output)) for node in left.node]
