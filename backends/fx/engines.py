"""The engines that run FX modules: PyTorch eager, and inductor with frozen weights."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Sequence
from typing import Any

import torch

from graphopt.backends.fx.emit import emit_fx
from graphopt.ir import Graph, TensorType, walk
from graphopt.targets import Executable

_COMPILERS = ("g++", "clang++", "c++")
_SHAPES_REMEMBERED = 4096


class EagerEngine:
    """PyTorch eager: the FX module, without autograd.

    share_weights: run on the graph's own tensors; otherwise each is copied once.
    """

    name = "eager"

    def __init__(self, *, share_weights: bool = False) -> None:
        self.share_weights = share_weights

    def missing(self) -> str | None:
        """None: eager mode is always there."""
        return None

    def unsupported(self, graph: Graph) -> str | None:
        """Return the first operator or dtype that PyTorch cannot express, or None."""
        return _unsupported(graph)

    def load(self, graph: Graph) -> Executable:
        """Emit the graph. Raises what `emit_fx` raises."""
        return _Eager(emit_fx(graph, share_weights=self.share_weights, flat=True))


class InductorEngine:
    """`torch.compile` by inductor with frozen weights: constants are folded and packed for the kernels.

    Code is generated at the first run (seconds to minutes). A dim that takes a second size is then compiled for
    all sizes.
    """

    name = "inductor"

    def __init__(self, *, share_weights: bool = False) -> None:
        self.share_weights = share_weights

    def missing(self) -> str | None:
        """Return what is missing to compile the generated C++, or None."""
        named = os.environ.get("CXX")
        if any(shutil.which(compiler) for compiler in ([named] if named else _COMPILERS)):
            return None
        return f"no C++ compiler ({named or ', '.join(_COMPILERS)}) is on the PATH; install g++, or set CXX"

    def unsupported(self, graph: Graph) -> str | None:
        """Return the first operator or dtype that PyTorch cannot express, or None."""
        return _unsupported(graph)

    def load(self, graph: Graph) -> Executable:
        """Emit the graph and wrap it. Raises what `emit_fx` raises."""
        return _Inductor(emit_fx(graph, share_weights=self.share_weights, flat=True))


class _Eager:
    def __init__(self, module: torch.fx.GraphModule) -> None:
        self._forward = module.forward

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        with torch.no_grad():
            return list(self._forward(*inputs))


class _Inductor:
    def __init__(self, module: torch.fx.GraphModule) -> None:
        self._compiled = torch.compile(module)
        self._seen: set[Any] = set()
        self._lock = threading.Lock()

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        layout = _layout(inputs)
        with torch.no_grad():
            if layout in self._seen:
                return list(self._compiled(*inputs))
            return self._compile_and_run(inputs, layout)

    def _compile_and_run(self, inputs: Sequence[Any], layout: Any) -> list[Any]:
        """Run inputs of a new layout, for which code may be generated: only then does the setting matter."""
        import torch._inductor.config as inductor

        with self._lock, inductor.patch(freezing=True):
            outputs = list(self._compiled(*inputs))
        if len(self._seen) >= _SHAPES_REMEMBERED:
            self._seen.clear()
        self._seen.add(layout)
        return outputs


def _layout(inputs: Sequence[Any]) -> tuple[Any, ...]:
    """What generated code depends on."""
    return tuple([(x.dtype, x.shape, x.stride()) if isinstance(x, torch.Tensor) else x for x in inputs])


def _unsupported(graph: Graph) -> str | None:
    for value in (*graph.inputs, *graph.constants.values()):
        if isinstance(value.type, TensorType):
            try:
                _ = value.type.dtype.torch
            except TypeError as error:
                return f"%{value.name}: {error}"
    for node in walk(graph):
        if node.op.evaluate is None:
            return f"{node.op.name} has no PyTorch implementation (from {node.location})"
    return None
