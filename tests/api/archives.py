"""Graphs and archives for the tests of the saved form."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

from torch import Tensor

import graphopt
from graphopt.ir import Constant, ConstantKind, Graph, TensorType, from_torch
from graphopt.serialization import graph_to_bytes, load_graph
from tests.api.models import small


def stored(*tensors: Tensor, **options: Any) -> Graph:
    """A graph that returns stored tensors."""
    graph = Graph()
    values = [
        graph.add_constant(
            f"c{i}", TensorType(from_torch(t.dtype), tuple(t.shape)), Constant(t, ConstantKind.BUFFER, (f"c{i}",))
        )
        for i, t in enumerate(tensors)
    ]
    graph.set_outputs(values)
    return graph


def again(graph: Graph) -> Graph:
    return load_graph(io.BytesIO(graph_to_bytes(graph)))[0]


def rewritten(data: bytes, **files: Any) -> io.BytesIO:
    """The archive with some of its files replaced; None drops one, a function edits the JSON manifest."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            change = files.get(name.partition(".")[0], old.read(name))
            if callable(change):
                manifest = json.loads(old.read(name))
                change = json.dumps(change(manifest) or manifest).encode()
            if change is not None:
                new.writestr(name, change)
    return out


def saved_model() -> bytes:
    """A compiled model in its saved form."""
    model, x = small()
    buffer = io.BytesIO()
    graphopt.compile(model, (x,), target="eager")._save(buffer)
    return buffer.getvalue()
