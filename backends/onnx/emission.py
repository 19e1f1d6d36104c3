"""A graph lowered to ONNX operations, on its way into a file or a session."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from graphopt.backends.onnx.declared import declared_opset
from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.model import DEFAULT_OPSET, build
from graphopt.backends.onnx.opaque import opset_for
from graphopt.backends.onnx.records import Body
from graphopt.backends.onnx.serialize import WriteData, drop_dead, to_model, used_initializers
from graphopt.errors import EmissionError
from graphopt.ir import Graph
from graphopt.ir.memory import collection_paused
from graphopt.ops.onnx_metadata import OnnxMetadata

LOWEST_LOWERED, HIGHEST_OPSET = 18, 28
"""Operations are lowered for an opset of this range; a file may say a lower one, if they mean the same there."""
LOWEST_OPSET = 11


@dataclass
class Emission:
    """The operations of a graph, without what no output needs.

    opset: that the file says. note: why it is another than that of the file which the graph was read from.
    """

    body: Body
    opset: int
    name: str
    metadata: OnnxMetadata | None = None
    note: str = ""

    @staticmethod
    def of(graph: Graph, opset: int | None = None) -> Emission:
        """Lower a graph.

        opset: by default that of the file which the graph was read from, or a later one that an operation needs.

        Raises:
            EmissionError: a node that ONNX cannot express, or not in this opset.
        """
        metadata = OnnxMetadata.on(graph)
        source = metadata.opset if metadata is not None else 0
        wanted = opset or source or DEFAULT_OPSET
        if opset is not None and not LOWEST_OPSET <= opset <= HIGHEST_OPSET:
            raise EmissionError(f"opset {opset} is not supported; choose one from {LOWEST_OPSET} to {HIGHEST_OPSET}")
        least = max(wanted, LOWEST_LOWERED)
        written = least if opset is not None else opset_for(graph, least)
        with collection_paused():
            body = build(graph, Emitter(written))
            drop_dead(body)
            declared, reason = declared_opset(body, written, wanted) if wanted < written else (written, "")
        if opset is not None and declared != opset:
            raise EmissionError(
                f"the model cannot be written in opset {opset}: {reason} as it is used here needs opset {declared}"
            )
        note = (
            f"opset {declared}: the file has {source}, but {reason} as it is used here needs {declared}"
            if reason
            else ""
        )
        return Emission(body, declared, graph.name, metadata, note)

    @property
    def sizes(self) -> list[int]:
        """The bytes of each initializer."""
        tensors = [t.data for t in used_initializers(self.body) if t.data is not None]
        return [tensor.numel() * tensor.element_size() for tensor in tensors]

    def to_model(self, write_data: WriteData | None = None) -> onnx.ModelProto:
        """Write it as a model. write_data: fills in the elements of an initializer."""
        with collection_paused():
            return to_model(self.body, self.opset, self.name, write_data, self.metadata)
