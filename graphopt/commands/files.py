"""Files that commands write; each is replaced only once all is written."""

from __future__ import annotations

from pathlib import Path

from graphopt.ir import Graph
from graphopt.serialization import atomic_write, pack_constants


def write_graph(path: Path, graph: Graph) -> None:
    """Write the text form, and the weights that are not in the text to a `.safetensors` file beside it."""
    with atomic_write(path.with_suffix(".safetensors")) as file:
        file.write(pack_constants(graph))
    write_text(path, f"{graph}\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file; it is replaced only once all is written."""
    with atomic_write(path) as file:
        file.write(text.encode())
