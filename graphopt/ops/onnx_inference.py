"""ONNX's own shape inference, which ends the process for some damaged models where it should raise.

Its `Slice` asserts that the size of what it slices is not negative, and a failed assertion cannot be caught. A node's
operands have sizes of the IR, which are none; what is computed inside of a graph that the node holds may have any (a
padding that takes away more than there is). So a model that slices there is handed to a process of its own, whose
memory is limited where the system can.
"""

from __future__ import annotations

import subprocess
import sys
from functools import lru_cache
from typing import TYPE_CHECKING

from graphopt.errors import TypeInferenceError
from graphopt.ops.onnx_nested import graphs_of

if TYPE_CHECKING:
    import onnx

SECONDS = 120
"""How long the other process may take."""

_ABORTING = frozenset(["Slice"])
_CHILD = """
import sys, onnx
from onnx import shape_inference
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
except ImportError:
    pass
model, data_prop = onnx.ModelProto.FromString(sys.stdin.buffer.read()), sys.argv[1] == "True"
try:
    found = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=data_prop)
except Exception as error:
    sys.exit(f"refused: {error}")
sys.stdout.buffer.write(found.SerializeToString())
"""


def infer_shapes(model: onnx.ModelProto, *, data_prop: bool = True) -> onnx.ModelProto:
    """Return a model with the types of its values.

    data_prop: follow the contents of small integer tensors, too.

    Raises:
        TypeInferenceError: ONNX refuses the model.
    """
    from onnx import ModelProto, shape_inference

    if any(_may_abort(graph) for node in model.graph.node for graph in graphs_of(node)):
        return ModelProto.FromString(_apart(model.SerializeToString(deterministic=True), data_prop))
    try:
        return shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=data_prop)
    except (shape_inference.InferenceError, ValueError, RuntimeError, MemoryError) as error:
        raise TypeInferenceError(f"ONNX refuses the node: {_reason(str(error))}") from error


def _may_abort(graph: onnx.GraphProto) -> bool:
    return any(node.op_type in _ABORTING or any(map(_may_abort, graphs_of(node))) for node in graph.node)


@lru_cache(maxsize=64)
def _apart(model: bytes, data_prop: bool) -> bytes:
    """Infer in a process of its own: a file is often read more than once, so answers are kept."""
    command = [sys.executable, "-c", _CHILD, str(data_prop)]
    try:
        run = subprocess.run(command, input=model, capture_output=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TypeInferenceError(f"ONNX's shape inference did not end: {error}") from error
    if run.returncode < 0:
        raise TypeInferenceError("ONNX refuses the node: its shape inference broke off")
    if run.returncode:
        raise TypeInferenceError(f"ONNX refuses the node: {_reason(run.stderr.decode(errors='replace'))}")
    return run.stdout


def _reason(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "it gives no reason"
