"""Graphs of fixed sizes as Core ML models, by coremltools. They run on macOS and iOS, and are written anywhere."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from graphopt.backends.fx.fixed import fixed_module, why_not_fixed
from graphopt.errors import EmissionError, TargetError
from graphopt.ir import Graph
from graphopt.ir.files import replaceable
from graphopt.targets import Executable

EXTRA = "pip install graphopt[coreml]"
SUFFIX = ".mlpackage"
_POOLS = tuple(f"aten.{kind}_pool{dims}d." for kind in ("max", "avg") for dims in (1, 2, 3))


def save_coreml(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write a graph as an ML program in a `.mlpackage` folder, in f32. It is replaced only once all is written.

    Inputs keep their names; whole numbers are of 32 bits, which is what the format has.

    Raises:
        TargetError: coremltools is not installed.
        EmissionError: another suffix; the graph has dynamic sizes or state, or coremltools cannot convert it.
    """
    target = Path(path)
    if target.suffix != SUFFIX:
        raise EmissionError(f"cannot write {target.name!r}: an ML program is a folder whose name ends in {SUFFIX}")
    if not target.is_dir():
        target = replaceable(target)
    model = convert(graph)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / f"model{SUFFIX}"
        model.save(str(made))
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(made, target)


def convert(graph: Graph) -> Any:
    """Return a graph as a `coremltools.models.MLModel`.

    Raises:
        TargetError: coremltools is not installed.
        EmissionError: the graph has dynamic sizes or state, or coremltools cannot convert it.
    """
    if find_spec("coremltools") is None:
        raise TargetError(f"coremltools is not installed; run `{EXTRA}`")
    module, inputs = fixed_module(graph)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coremltools

        try:
            program = torch.export.export(module, inputs).run_decompositions({})
            _complete(program.graph)
            return coremltools.convert(
                program,
                minimum_deployment_target=coremltools.target.iOS17,
                compute_precision=coremltools.precision.FLOAT32,
                skip_model_load=True,
            )
        except Exception as error:  # its own errors and those of torch.export share no base
            raise EmissionError(f"coremltools cannot convert the graph: {type(error).__name__}: {error}") from error


def _complete(graph: torch.fx.Graph) -> None:
    """Write the strides of pools, which are their windows where they are left out: coremltools wants them."""
    for node in graph.nodes:
        if str(node.target).startswith(_POOLS) and len(node.args) == 2 and "stride" not in node.kwargs:
            node.args = (*node.args, node.args[1])


@dataclass(frozen=True)
class CoreMlEngine:
    """Runs graphs of fixed sizes in Core ML, on macOS."""

    name: str = "coreml"

    def missing(self) -> str | None:
        """Return why Core ML cannot run here and what remedies it, or None."""
        if find_spec("coremltools") is None:
            return f"coremltools not installed; run `{EXTRA}`"
        if sys.platform != "darwin":
            return (
                "Core ML runs on macOS alone; here its files are written, by graphopt.backends.coreml.save_coreml or "
                "`graphopt compile -o model.mlpackage --target eager`"
            )
        return None

    def unsupported(self, graph: Graph) -> str | None:
        """Return why the format cannot hold the graph, or None. What only coremltools knows, `load` says."""
        return self.missing() or why_not_fixed(graph)

    def load(self, graph: Graph) -> Executable:
        """Convert the graph and load it.

        Raises:
            TargetError: Core ML does not run here.
            EmissionError: coremltools cannot convert the graph.
        """
        absent = self.missing()
        if absent is not None:
            raise TargetError(f"engine 'coreml' cannot run: {absent}")
        import coremltools

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"model{SUFFIX}"
            save_coreml(graph, path)
            return _CoreMl(coremltools.models.MLModel(str(path)))


class _CoreMl:
    def __init__(self, model: Any) -> None:
        spec = model.get_spec()
        self._model = model
        self._taken = [entry.name for entry in spec.description.input]
        self._given = [entry.name for entry in spec.description.output]

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Run on flat inputs in graph order; return the flat outputs."""
        arrays = {name: given.detach().contiguous().numpy() for name, given in zip(self._taken, inputs)}
        found = self._model.predict(arrays)
        return [torch.as_tensor(found[name]) for name in self._given]
