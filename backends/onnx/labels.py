"""Names and doc strings of nodes: those that they have in the file that the graph was read from, where they come from
one, else the name of the first result and the source line."""

from __future__ import annotations

from graphopt.backends.onnx.records import Body
from graphopt.ir import UNKNOWN
from graphopt.ops.onnx_metadata import Note, OnnxMetadata


def label(body: Body, metadata: OnnxMetadata | None) -> None:
    """Give the operations of a body, and of those in it, names and notes. Their outputs have names already."""
    _label_body(body, metadata, {})


def _label_body(body: Body, metadata: OnnxMetadata | None, taken: dict[str, int]) -> None:
    for operation in body.operations:
        location = operation.origin.location if operation.origin is not None else UNKNOWN
        wanted = location.scope if metadata is not None and not location.file else ""
        first = bool(wanted) and wanted not in taken
        operation.name = _claimed(wanted or operation.outputs[0].name, taken)
        if metadata is None or not wanted:
            operation.note = Note("" if location == UNKNOWN else str(location))
        elif location.rules:
            operation.note = Note(str(location))
        elif first:
            operation.note = metadata.nodes.get(wanted, Note())
        for inner in operation.bodies():
            _label_body(inner, metadata, taken)


def _claimed(wanted: str, taken: dict[str, int]) -> str:
    name = wanted
    while name in taken:
        taken[wanted] += 1
        name = f"{wanted}_{taken[wanted]}"
    taken[name] = 0
    return name
