"""ONNX Runtime as an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

import torch

from graphopt.errors import EmissionError, TargetError
from graphopt.ir import Graph, TensorType, Type, walk
from graphopt.ops.quantization import is_packed
from graphopt.targets import Kernel

if TYPE_CHECKING:
    from graphopt.backends.onnx.session import OnnxRuntimeExecutable

LEVELS = {
    "off": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}


@dataclass(frozen=True)
class OnnxRuntimeEngine:
    """Runs graphs in ONNX Runtime on the CPU.

    threads: how many one run uses; None leaves it to PyTorch's setting. optimization: which of ONNX Runtime's own graph
    optimizations run: "off", "basic", "extended" or "all". share_weights: read the caller's tensors in place instead of
    copying them once; then they must not change while the executable lives. opset: the version of the operators.
    spinning: let threads that wait keep their cores busy; it pays unless another engine has work for them.
    """

    threads: int | None = None
    optimization: str = "all"
    spinning: bool = True
    share_weights: bool = False
    opset: int = 20
    name: str = "onnxruntime"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")

    def __post_init__(self) -> None:
        if self.optimization not in LEVELS:
            raise TargetError(f"unknown optimization level {self.optimization!r}; choose one of {', '.join(LEVELS)}")

    @property
    def settings(self) -> str:
        """The number of threads, where it is not PyTorch's, and whether they don't spin."""
        return ", ".join(filter(None, [threads_text(self.threads), "" if self.spinning else "no spinning"]))

    def variants(self, graph: Graph) -> Sequence[OnnxRuntimeEngine]:
        """One thread, which saves small models the waiting for others."""
        return () if self.threads or torch.get_num_threads() == 1 else (replace(self, threads=1),)

    def beside_others(self) -> OnnxRuntimeEngine:
        """As it should be where other engines run parts of the same model: its threads don't spin."""
        return replace(self, spinning=False)

    def missing(self) -> str | None:
        """Return why ONNX Runtime cannot run here and what remedies it, or None."""
        absent = [name for name in self.packages if find_spec(name) is None]
        if not absent:
            return None
        return f"{' and '.join(absent)} not installed; run `pip install graphopt[onnx]`"

    def unsupported(self, graph: Graph) -> str | None:
        """Return why ONNX Runtime cannot run the graph, or None. Costs an emission without weights."""
        reason = self.missing() or foreign_device(graph) or packed_border(graph)
        if reason is not None:
            return reason
        if not graph.returned:
            return "the model returns no tensor, so there is nothing for ONNX Runtime to compute; use target='fx'"
        try:
            return self._no_kernel(graph)
        except EmissionError as error:
            return str(error)

    def load(self, graph: Graph) -> OnnxRuntimeExecutable:
        """Emit the graph and load it into a session.

        Raises:
            TargetError: ONNX Runtime is not installed.
            EmissionError: the graph has something that ONNX or ONNX Runtime cannot express.
        """
        absent = self.missing()
        if absent is not None:
            raise TargetError(f"engine 'onnxruntime' cannot run: {absent}")
        reason = foreign_device(graph) or packed_border(graph)
        if reason is not None:
            raise EmissionError(reason)
        from graphopt.backends.onnx.session import load

        return load(graph, self)

    def kernels(self, graph: Graph) -> list[Kernel]:
        """Load the graph and return the operators that ONNX Runtime runs after its own optimizations.

        Raises:
            EmissionError: the graph has something that ONNX or ONNX Runtime cannot express.
        """
        from graphopt.backends.onnx.optimized import kernels

        return kernels(graph, self)

    def _no_kernel(self, graph: Graph) -> str | None:
        from graphopt.backends.onnx.emitter import Emitter
        from graphopt.backends.onnx.kernels import without_kernel
        from graphopt.backends.onnx.model import build
        from graphopt.backends.onnx.opaque import opset_for
        from graphopt.backends.onnx.serialize import drop_dead

        body = build(graph, Emitter(opset_for(graph, self.opset), widen_floats=True))
        drop_dead(body)
        return without_kernel(body)


def threads_text(threads: int | None) -> str:
    """A number of threads in words, "" for that of PyTorch."""
    return f"{threads} thread{'s' * (threads > 1)}" if threads else ""


def foreign_device(graph: Graph) -> str | None:
    """Say which other device than the CPU the graph has tensors on, if it has."""
    for device in (t.device for t in graph_types(graph) if isinstance(t, TensorType)):
        if device != "cpu":
            return f"the graph has tensors on {device!r}, and this engine runs on the CPU; move the model there first"
    return None


def packed_border(graph: Graph) -> str | None:
    """Say which input or output has elements of less than a byte, if one has."""
    for value in (*graph.inputs, *graph.returned):
        if isinstance(value.type, TensorType) and is_packed(value.type.dtype):
            return (
                f"%{value.name} is {value.type!r}, and PyTorch and ONNX Runtime share no tensors of such elements; "
                "quantize and dequantize inside of the model"
            )
    return None


def graph_types(graph: Graph) -> list[Type]:
    """The types of all values of a graph and its regions."""
    values = [*graph.inputs, *graph.constants.values()]
    return [v.type for v in values] + [r.type for node in walk(graph) for r in node.results]
