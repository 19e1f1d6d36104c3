"""Multiply-adds and parameters of a pruned graph, from its shapes, before it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

import numpy as np

from graphopt.analysis import CostModel
from graphopt.analysis.channels import ChannelAnalysis
from graphopt.ir import ConstantKind, Dim, Graph, TensorType, Value, clone_graph
from graphopt.ir.dims import product
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
    """The size of a graph with channels removed, exact, from shapes alone. No weight is touched.

    A question costs O(nodes that multiply and add); the other nodes are looked at once. sizes: of the symbols.
    """

    def __init__(self, graph: Graph, analysis: ChannelAnalysis, sizes: dict[str, int]) -> None:
        self.analysis = analysis
        self._model = CostModel(sizes)
        images: dict[Value, Value] = {}
        copy = clone_graph(graph, images)
        self._nodes = [node for node in copy if self._model.node(node).macs]
        self._stored = [value for value in copy.constants.values() if _parameters(value)]
        wanted = {v for node in self._nodes for v in (*node.inputs, *node.results)} | set(self._stored)
        self._dims = [
            (images[value], dim, [(factor.size, factor.atoms) for factor in axis])
            for value, axes in analysis.tracker.values.items()
            if images[value] in wanted
            for dim, axis in enumerate(axes)
            if any(factor.atoms is not None for factor in axis)
        ]

    def size(self, selection: Selection) -> Size:
        """Return the size that the graph has once a selection is removed."""
        with self._shrunk(selection):
            macs = sum(self._model.node(node).macs for node in self._nodes)
            return Size(macs, sum(map(_parameters, self._stored)))

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
        for node in self._nodes:
            stored = [v for v in node.inputs if _parameters(v)]
            largest = max(stored, key=_parameters, default=node.results[0])
            name = largest.constant.names[0] if largest.constant and largest.constant.names else largest.name
            extent = _Extent(tuple(largest.shape), self._model.node(node).macs, sum(map(_parameters, stored)))
            rows.append((name, node.op.name, extent))
        return rows

    @contextmanager
    def _shrunk(self, selection: Selection) -> Iterator[None]:
        """The copy with the types that are left, while the block runs."""
        left = self._left(selection)
        before = {value: value.type for value, _, _ in self._dims}
        for value, dim, factors in self._dims:
            size = product(size if atoms is None else left(atoms) for size, atoms in factors)
            assert isinstance(value.type, TensorType)
            if size is not value.type.shape[dim] and size != value.type.shape[dim]:
                shape = list(value.type.shape)
                shape[dim] = size
                value.type = replace(value.type, shape=tuple(shape))
        try:
            yield
        finally:
            for value, original in before.items():
                value.type = original

    def _left(self, selection: Selection) -> Callable[[np.ndarray], int]:
        """How many slots of a factor stay, given its atoms; each array is looked at once."""
        gone = np.zeros(self.analysis.tracker.atoms.count, dtype=bool)
        for name, chosen in selection.items():
            gone[self.analysis.group(name).atoms[chosen]] = True
        known: dict[int, int] = {}

        def left(atoms: np.ndarray) -> int:
            found = known.get(id(atoms))
            if found is None:
                found = known[id(atoms)] = int((~gone[self.analysis.resolve(atoms)].any(1)).sum())
            return found

        return left


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
