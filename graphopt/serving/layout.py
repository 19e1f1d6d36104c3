"""Where requests are put together and results taken apart: along one symbol of the types of inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from graphopt.analysis import bind_sizes
from graphopt.errors import GraphOptError, unknown_name
from graphopt.ir import Dim, Graph, Symbol, TensorType, Value
from graphopt.ir.dims import evaluate, linear_in, symbols_of

Number = float | int
Padding = Number | Mapping[str, Number] | None
Sizes = tuple[int, ...]
"""The size of each length symbol of a layout, in its order."""


@dataclass(frozen=True)
class Place:
    """Where a tensor holds the rows of requests, and which of its other axes have a length that differs among them."""

    rows: int
    lengths: tuple[tuple[int, Dim], ...]


@dataclass(frozen=True)
class BatchLayout:
    """How requests are joined along the symbol that counts rows, and the results split.

    lengths: the other symbols of the inputs. padding: for each input what fills it up to a common length; empty if
    only requests of equal lengths may be joined.
    """

    values: tuple[Value, ...]
    inputs: tuple[Place, ...]
    outputs: tuple[Place, ...]
    rows: Symbol
    lengths: tuple[Symbol, ...]
    padding: tuple[Number, ...]

    @classmethod
    def of(cls, graph: Graph, padding: Padding = None) -> BatchLayout:
        """Read the layout off the types of a graph.

        Raises:
            GraphOptError: no symbol counts the rows of all inputs and outputs, or the model keeps state.
            UnknownNameError: padding for an input that the model does not have.
        """
        if graph.mutations:
            raise GraphOptError("a model that updates its buffers or inputs cannot be served: requests would meet")
        rows = _rows(graph)
        inputs = tuple(_place(value, rows, f"input {value.name!r}") for value in graph.inputs)
        outputs = tuple(_place(value, rows, f"output {i}") for i, value in enumerate(graph.outputs))
        lengths = tuple(s for s in graph.symbols() if s is not rows)
        filled = () if padding is None else _padding(graph.inputs, inputs, padding)
        return cls(tuple(graph.inputs), inputs, outputs, rows, lengths, filled)

    def measure(self, flat: Sequence[Any]) -> tuple[int, Sizes]:
        """Return how many rows a request has, and its lengths."""
        sizes = bind_sizes(self.values, flat)
        return sizes[self.rows.name], tuple(sizes[s.name] for s in self.lengths)

    def join(self, requests: Sequence[Sequence[torch.Tensor]], sizes: Sizes) -> list[torch.Tensor]:
        """Return the inputs of all requests as one, each filled up to `sizes`."""
        bound = self._bindings(sizes)
        return [
            self._joined([flat[index] for flat in requests], place, bound, index)
            for index, place in enumerate(self.inputs)
        ]

    def split(
        self, outputs: Sequence[torch.Tensor], rows: Sequence[int], sizes: Sequence[Sizes]
    ) -> list[list[torch.Tensor]]:
        """Return each request's own outputs: its rows, cut to its lengths, in memory of their own."""
        answers: list[list[torch.Tensor]] = []
        start = 0
        for count, own in zip(rows, sizes, strict=True):
            bound = self._bindings(own)
            answers.append([_cut(x, place, start, count, bound).clone() for x, place in zip(outputs, self.outputs)])
            start += count
        return answers

    def _bindings(self, sizes: Sizes) -> dict[str, int]:
        return {symbol.name: size for symbol, size in zip(self.lengths, sizes, strict=True)}

    def _joined(
        self, tensors: Sequence[torch.Tensor], place: Place, bound: Mapping[str, int], index: int
    ) -> torch.Tensor:
        wanted = {axis: evaluate(dim, bound) for axis, dim in place.lengths}
        if all(t.shape[axis] == size for t in tensors for axis, size in wanted.items()):
            return torch.cat(list(tensors), dim=place.rows)
        shape = list(tensors[0].shape)
        shape[place.rows] = sum(t.shape[place.rows] for t in tensors)
        for axis, size in wanted.items():
            shape[axis] = size
        joined = tensors[0].new_full(shape, self.padding[index])
        start = 0
        for tensor in tensors:
            _within(joined, tensor.shape, place.rows, start).copy_(tensor)
            start += tensor.shape[place.rows]
        return joined


def _rows(graph: Graph) -> Symbol:
    """The symbol that is an axis of each input and output by itself, the first axis if there is a choice."""
    shapes = [value.type.shape if isinstance(value.type, TensorType) else () for value in graph.inputs]
    common = [s for s in graph.symbols() if all(any(_is(dim, s) for dim in shape) for shape in shapes)]
    if not shapes or not common:
        listed = ", ".join(f"{value.name}: {value.type!r}" for value in graph.inputs)
        raise GraphOptError(
            f"no dynamic dim is shared by all inputs ({listed}), so requests cannot be joined along one; compile with "
            'dynamic_shapes="batch"'
        )
    leading = [s for s in common if all(_is(shape[0], s) for shape in shapes)]
    return (leading or common)[0]


def _place(value: Value, rows: Symbol, what: str) -> Place:
    shape = value.type.shape if isinstance(value.type, TensorType) else ()
    axes = [axis for axis, dim in enumerate(shape) if _is(dim, rows)]
    others = [(axis, dim) for axis, dim in enumerate(shape) if not isinstance(dim, int) and axis not in axes]
    if len(axes) != 1 or any(rows in symbols_of(dim) for _, dim in others):
        raise GraphOptError(
            f"{what} ({value.type!r}) does not hold the rows of a batch along one axis of size {rows.name}, so the "
            "results of requests that ran together cannot be told apart"
        )
    return Place(axes[0], tuple(others))


def _is(dim: Dim, symbol: Symbol) -> bool:
    linear = None if isinstance(dim, int) else linear_in(dim)
    return linear is not None and linear == (symbol, 1, 0)


def _padding(
    values: Sequence[Value], places: Sequence[Place], padding: Number | Mapping[str, Number]
) -> tuple[Number, ...]:
    if not isinstance(padding, Mapping):
        return tuple(padding for _ in values)
    names = [value.name for value in values]
    for name in padding:
        if name not in names:
            raise unknown_name("input", name, names, "It was given to serve to be padded.")
    missing = [value.name for value, place in zip(values, places) if place.lengths and value.name not in padding]
    if missing:
        raise GraphOptError(f"pad has no value for {', '.join(map(repr, missing))}, of lengths that differ too")
    return tuple(padding.get(name, 0) for name in names)


def _within(joined: torch.Tensor, shape: Sequence[int], rows: int, start: int) -> torch.Tensor:
    """The part of a joined tensor that a request of this shape fills, from its first row on."""
    for axis, size in enumerate(shape):
        joined = joined.narrow(axis, start if axis == rows else 0, size)
    return joined


def _cut(output: torch.Tensor, place: Place, start: int, count: int, bound: Mapping[str, int]) -> torch.Tensor:
    output = output.narrow(place.rows, start, count)
    for axis, dim in place.lengths:
        output = output.narrow(axis, 0, evaluate(dim, bound))
    return output
