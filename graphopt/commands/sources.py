"""What commands start from: a model built by Python code, or a graph from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphopt.errors import GraphOptError
from graphopt.ir import Graph
from graphopt.model_source import resolve_model
from graphopt.passmanager import read_reproducer
from graphopt.passmanager.samples import synthesize
from graphopt.serialization import load_graph

TEXT = (".gir", ".txt")
"""Suffixes of graphs in text form, reproducers included."""


@dataclass
class Source:
    """A module, a graph or the path of an ONNX file, with its example inputs; of a graph they are flat, and None if the
    file has none."""

    model: Any
    args: tuple[Any, ...] | None
    kwargs: dict[str, Any] = field(default_factory=dict)

    def inputs(self, text: str) -> tuple[Any, ...]:
        """The positional inputs; for a graph without any they are made up.

        Raises:
            GraphOptError: they cannot be made up.
        """
        if self.args is not None:
            return self.args
        made = synthesize(self.model)
        if made is None:
            raise GraphOptError(
                f"{text} brings no sample inputs, and they cannot be made up for inputs that are not all "
                "floating-point tensors; give the original model"
            )
        return tuple(made)


def read_source(text: str, *, trust: bool = False, values: Sequence[str] = ()) -> Source:
    """Return the model or graph that `text` names: what `resolve_model` takes, or a graph in text form.

    values: inputs of an ONNX file.

    Raises:
        GraphOptError: no such file or function; a file that cannot be read.
    """
    path = Path(text)
    if path.suffix in TEXT:
        recorded = read_reproducer(path)
        return Source(recorded.graph, _complete(recorded.samples))
    if path.suffix == ".gopt":
        return Source(_saved(path), None)
    source = resolve_model(text, values, trust=trust).opened(trust)
    return Source(source.model, source.args, source.kwargs)


def _saved(path: Path) -> Graph:
    if not path.exists():
        raise GraphOptError(f"no such file: {path}")
    return load_graph(path)[0]


def _complete(samples: list[list[Any]]) -> tuple[Any, ...] | None:
    whole = [sample for sample in samples if all(value is not None for value in sample)]
    return tuple(whole[0]) if whole else None
