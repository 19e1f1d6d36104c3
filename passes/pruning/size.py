"""Multiply-adds and parameters of a pruned graph, from its shapes, before it is made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

from graphopt.analysis import CostModel
from graphopt.analysis.channels import ChannelAnalysis
from graphopt.ir import ConstantKind, Dim, Graph, TensorType, Value, clone_graph
from graphopt.passes.pruning.selection import Selection


class Size(NamedTuple):
    """Multiply-adds and parameters."""

    macs: int
    parameters: int


@dataclass(frozen=True)
class LayerRow:
    """A layer: the shape of its weight, its multiply-adds and parameters, before and after."""

    name: str
    operator: str
    shape: tuple[Dim, ...]
    pruned_shape: tuple[Dim, ...]
    macs: int
    pruned_macs: int
    parameters: int
    pruned_parameters: int


class Costs:
    """The size of a graph with channels removed, exact, from shapes alone. O(nodes) a question; no weight is touched.

    sizes: of the symbols.
    """

    def __init__(self, graph: Graph, analysis: ChannelAnalysis, sizes: dict[str, int]) -> None:
        self.analysis = analysis
        self._model = CostModel(sizes)
        self._images: dict[Value, Value] = {}
        self._copy = clone_graph(graph, self._images)

    def size(self, selection: Selection) -> Size:
        """Return the size that the graph has once a selection is removed."""
        with self._shrunk(selection):
            macs = self._model.graph(self._copy, peak=False).macs
            return Size(macs, sum(map(_parameters, self._copy.constants.values())))

    def layers(self, selection: Selection) -> list[LayerRow]:
        """Return a row for each node that multiplies and adds, in the order of the graph."""
        before = self._layers()
        with self._shrunk(selection):
            after = self._layers()
        return [
            LayerRow(name, operator, old.shape, new.shape, old.macs, new.macs, old.parameters, new.parameters)
            for (name, operator, old), (_, _, new) in zip(before, after)
        ]

    def _layers(self) -> list[tuple[str, str, _Extent]]:
        rows = []
        for node in self._copy:
            macs = self._model.node(node).macs
            if macs:
                stored = [v for v in node.inputs if _parameters(v)]
                largest = max(stored, key=_parameters, default=node.results[0])
                shape = tuple(largest.shape)
                name = largest.constant.names[0] if largest.constant and largest.constant.names else largest.name
                rows.append((name, node.op.name, _Extent(shape, macs, sum(map(_parameters, stored)))))
        return rows

    @contextmanager
    def _shrunk(self, selection: Selection) -> Iterator[None]:
        """The copy with the types that are left, while the block runs."""
        shapes = self.analysis.removed(selection).shapes if selection else {}
        for value, shape in shapes.items():
            image = self._images[value]
            assert isinstance(image.type, TensorType)
            image.type = replace(image.type, shape=shape)
        try:
            yield
        finally:
            for value in shapes:
                self._images[value].type = value.type


class _Extent(NamedTuple):
    shape: tuple[Dim, ...]
    macs: int
    parameters: int


def _parameters(value: Value) -> int:
    """The number of elements of a stored parameter."""
    constant = value.constant
    if constant is None or constant.kind is not ConstantKind.PARAMETER or not isinstance(value.type, TensorType):
        return 0
    return prod(d for d in value.type.shape if isinstance(d, int))
