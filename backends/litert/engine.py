"""Graphs of fixed sizes as `.tflite` models, by litert-torch, and LiteRT as an engine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from graphopt.backends.fx.fixed import fixed_module, why_not_fixed
from graphopt.errors import EmissionError, InputError, TargetError
from graphopt.ir import Graph
from graphopt.ir.files import replaceable
from graphopt.targets import Executable

EXTRA = "pip install graphopt[litert]"
SUFFIX = ".tflite"


def save_litert(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write a graph as a `.tflite` file, 64-bit inputs and outputs as they are. It is replaced once all is written.

    Raises:
        TargetError: litert-torch is not installed.
        EmissionError: the graph has dynamic sizes or state, or litert-torch cannot convert it.
    """
    target = replaceable(path)
    model = _converted(graph)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / f"model{SUFFIX}"
        model.export(str(made))
        os.replace(made, target)


def _converted(graph: Graph) -> Any:
    absent = LiteRtEngine().missing()
    if absent is not None:
        raise TargetError(f"engine 'litert' cannot run: {absent}")
    module, inputs = fixed_module(graph)
    import litert_torch

    try:
        return litert_torch.convert(module, inputs, enable_x64=True)
    except Exception as error:  # its own errors, those of torch.export and of MLIR share no base
        raise EmissionError(f"litert-torch cannot convert the graph: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class LiteRtEngine:
    """Runs graphs of fixed sizes in LiteRT on the CPU.

    threads: how many one run uses; None leaves it to PyTorch's setting.
    """

    threads: int | None = None
    name: str = "litert"

    def missing(self) -> str | None:
        """Return why LiteRT cannot run here and what remedies it, or None."""
        absent = [name for name in ("litert_torch", "ai_edge_litert") if find_spec(name) is None]
        return f"{' and '.join(absent)} not installed; run `{EXTRA}`" if absent else None

    def unsupported(self, graph: Graph) -> str | None:
        """Return why the format cannot hold the graph, or None. What only litert-torch knows, `load` says."""
        return self.missing() or why_not_fixed(graph)

    def load(self, graph: Graph) -> Executable:
        """Convert the graph and load it.

        Raises:
            TargetError: litert-torch is not installed.
            EmissionError: litert-torch cannot convert the graph.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"model{SUFFIX}"
            save_litert(graph, path)
            return _LiteRt(path.read_bytes(), self.threads or torch.get_num_threads())


class _LiteRt:
    def __init__(self, model: bytes, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_content=model, num_threads=threads)
        self._runner = self._interpreter.get_signature_runner()
        self._taken = sorted(self._runner.get_input_details(), key=_position)
        self._given = sorted(self._runner.get_output_details(), key=_position)
        self._lock = Lock()  # an interpreter holds the tensors of one run

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Run on flat inputs in graph order; return the flat outputs."""
        arrays = {name: inputs[_position(name)].detach().contiguous().numpy() for name in self._taken}
        try:
            with self._lock:
                found = self._runner(**arrays)
        except (ValueError, RuntimeError) as error:
            raise InputError(f"LiteRT cannot run on these inputs: {error}") from error
        return [torch.from_numpy(found[name]) for name in self._given]


def _position(name: str) -> int:
    """The number at the end of `args_3` or `output_0`."""
    return int(name.rpartition("_")[2])
