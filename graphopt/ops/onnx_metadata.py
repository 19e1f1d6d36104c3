"""What an ONNX file says of a model besides what it computes; the front end reads it, and emission writes it back.

It is kept on the graph as JSON values: `graph.metadata["onnx"]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from graphopt.ir import Graph

if TYPE_CHECKING:
    import onnx

KEY = "onnx"
OWN_PRODUCER = "graphopt"
PRODUCER_PROPERTY = "graphopt.source_producer"
"""The entry of a file's `metadata_props` that names the producer of the file that it was made from."""


@dataclass(frozen=True)
class Note:
    """What is said of one thing: its doc string, and its metadata."""

    doc: str = ""
    properties: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(proto: Any) -> Note:
        """Read it from a protocol buffer that has both."""
        return Note(proto.doc_string, {entry.key: entry.value for entry in proto.metadata_props})

    def __bool__(self) -> bool:
        return bool(self.doc or self.properties)

    def write(self, proto: Any) -> None:
        """Write it into a protocol buffer that has both."""
        if self.doc:
            proto.doc_string = self.doc
        for key, value in self.properties.items():
            entry = proto.metadata_props.add()
            entry.key, entry.value = key, value


@dataclass(frozen=True)
class OnnxMetadata:
    """What a file says.

    opset: of the standard domain. producer: its name and version. graph_name: as the file has it.
    model, graph: what is said of the whole. values: of inputs, outputs and initializers, nodes: of nodes, by name.
    dims: the file's name of a dim by the symbol for it, where these differ.
    """

    opset: int = 0
    producer: str = ""
    domain: str = ""
    model_version: int = 0
    graph_name: str = ""
    model: Note = Note()
    graph: Note = Note()
    values: dict[str, Note] = field(default_factory=dict)
    nodes: dict[str, Note] = field(default_factory=dict)
    dims: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(model: onnx.ModelProto, opset: int, dims: dict[str, str]) -> OnnxMetadata:
        """Read what a model says."""
        graph = model.graph
        return OnnxMetadata(
            opset,
            " ".join([text for text in (model.producer_name, model.producer_version) if text]),
            model.domain,
            model.model_version,
            graph.name,
            Note.of(model),
            Note.of(graph),
            _notes([(v.name, v) for v in (*graph.input, *graph.output, *graph.initializer)]),
            _notes([(node.name, node) for node in graph.node if node.name]),
            dims,
        )

    @staticmethod
    def on(graph: Graph) -> OnnxMetadata | None:
        """What the file that a graph was read from says; None for a graph that comes from elsewhere."""
        found = graph.metadata.get(KEY)
        if found is None:
            return None
        parts = {name: value for name, value in found.items() if name not in ("model", "graph", "values", "nodes")}
        return OnnxMetadata(
            **parts,
            model=Note(**found["model"]),
            graph=Note(**found["graph"]),
            values={name: Note(**note) for name, note in found["values"].items()},
            nodes={name: Note(**note) for name, note in found["nodes"].items()},
        )

    def put_on(self, graph: Graph) -> None:
        """Keep it on a graph."""
        graph.metadata = {**graph.metadata, KEY: asdict(self)}

    def model_note(self) -> Note:
        """What is said of a model that was made from this one; the original's producer becomes a property of it."""
        if not self.producer or self.producer.split()[0] == OWN_PRODUCER or PRODUCER_PROPERTY in self.model.properties:
            return self.model
        return replace(self.model, properties={**self.model.properties, PRODUCER_PROPERTY: self.producer})


def _notes(named: Iterable[tuple[str, Any]]) -> dict[str, Note]:
    notes: Mapping[str, Note] = {name: Note.of(proto) for name, proto in named}
    return {name: note for name, note in notes.items() if note}
