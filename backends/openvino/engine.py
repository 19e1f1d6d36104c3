"""OpenVINO as an engine on the CPU.

It computes f32 in f32: bf16 units and dynamic quantization of activations, which it would use on its own, are off. Its
CPU plug-in has no 64-bit kernels: f64 would be computed in f32, so graphs of it are refused; i64 is computed in i32, so
inputs are held to that range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

import torch

from graphopt.backends.onnx.engine import foreign_device, graph_types, packed_border, threads_text
from graphopt.errors import EmissionError, TargetError
from graphopt.ir import DType, Graph, ScalarType, TensorType

if TYPE_CHECKING:
    from graphopt.backends.openvino.executable import OpenVinoExecutable

EXTRA = "pip install graphopt[openvino]"
_WIDE = frozenset({DType.F64, DType.C64, DType.C128})
_NO_ARRAYS = frozenset({DType.BF16, DType.F8E4M3FN, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ, DType.STRING})
"""What NumPy, by which tensors are handed over, has no arrays of."""


@dataclass(frozen=True)
class OpenVinoEngine:
    """Runs graphs in OpenVINO on the CPU, tuned for latency.

    threads: how many one run uses; None leaves it to PyTorch's setting. opset: the version of the ONNX operators that
    it reads.
    """

    threads: int | None = None
    opset: int = 20
    name: str = "openvino"
    packages: ClassVar[tuple[str, ...]] = ("openvino", "onnx")

    @property
    def settings(self) -> str:
        """The number of threads, where it is not PyTorch's."""
        return threads_text(self.threads)

    def variants(self, graph: Graph) -> Sequence[OpenVinoEngine]:
        """One thread, which saves small models the waiting for others."""
        return () if self.threads or torch.get_num_threads() == 1 else (replace(self, threads=1),)

    def missing(self) -> str | None:
        """Return why OpenVINO cannot run here and what remedies it, or None."""
        absent = [name for name in self.packages if find_spec(name) is None]
        return f"{' and '.join(absent)} not installed; run `{EXTRA}`" if absent else None

    def unsupported(self, graph: Graph) -> str | None:
        """Return why OpenVINO cannot run the graph, or None. What only OpenVINO itself knows, `load` says."""
        reason = self.missing() or foreign_device(graph) or packed_border(graph) or _foreign_type(graph)
        if reason is None and not graph.returned:
            return "the model returns no tensor, so there is nothing for OpenVINO to compute; use target='fx'"
        return reason

    def load(self, graph: Graph) -> OpenVinoExecutable:
        """Emit the graph as ONNX, in memory, and load that.

        Raises:
            TargetError: OpenVINO is not installed.
            EmissionError: the graph has something that ONNX or OpenVINO cannot express.
        """
        absent = self.missing()
        if absent is not None:
            raise TargetError(f"engine 'openvino' cannot run: {absent}")
        reason = self.unsupported(graph)
        if reason is not None:
            raise EmissionError(reason)
        from graphopt.backends.openvino.executable import load

        return load(graph, self)


def _foreign_type(graph: Graph) -> str | None:
    """Say what OpenVINO would compute in another type, or which tensor cannot be handed over."""
    wide = next((t for t in graph_types(graph) if isinstance(t, TensorType) and t.dtype in _WIDE), None)
    if wide is not None:
        return f"the graph computes {wide!r}, and OpenVINO would do so in f32; use target='onnxruntime'"
    buffers = [graph.constants[name] for name in graph.mutations if name in graph.constants]
    for value in (*graph.inputs, *buffers, *graph.returned):
        if not isinstance(value.type, TensorType | ScalarType):
            return f"%{value.name} is {value.type!r}, which OpenVINO has no tensor for"
        if isinstance(value.type, TensorType) and value.type.dtype in _NO_ARRAYS:
            return f"%{value.name} is {value.type!r}, and PyTorch and OpenVINO share no tensors of such elements"
    return None
