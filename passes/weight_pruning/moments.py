"""What the columns of each layer read on calibration data: second moments, accumulated in one pass over the data.

    gram[g] = Σ x x^T      over all positions x of all batches; its diagonal is the squared norm of each column's input

Memory is bounded by the moments themselves and one piece of one batch; activations are not kept. The sums do not depend
on how the data is split into batches, but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from graphopt.analysis import watch_values
from graphopt.errors import GraphOptError
from graphopt.ir import Graph, Node, Value
from graphopt.passes.weight_pruning.layers import Layer


@dataclass
class Moments:
    """The second moments of what one layer reads.

    squares: [groups, columns], Σ x². gram: [groups, columns, columns], Σ x x^T, or None if it was not asked for.
    count: how many positions were summed. sums: [groups, columns], Σ x, where the gram is kept.
    """

    squares: torch.Tensor
    gram: torch.Tensor | None = None
    count: int = 0
    sums: torch.Tensor | None = None

    def add(self, x: torch.Tensor) -> None:
        """Add positions, [groups, positions, columns]."""
        x = x.to(self.squares.dtype)
        self.count += x.shape[1]
        if self.gram is None:
            self.squares += x.square().sum(1)
        else:
            self.gram.baddbmm_(x.transpose(1, 2), x)
            self.sums = x.sum(1) if self.sums is None else self.sums + x.sum(1)

    def finish(self) -> None:
        """Bring `squares` up to date, and refuse what no weight can be compared by.

        Raises:
            GraphOptError: NaN or infinity.
        """
        if self.gram is not None:
            self.squares = self.gram.diagonal(dim1=1, dim2=2).clone()
        if not bool(self.squares.isfinite().all()):
            raise GraphOptError("what it reads on the calibration data is not finite")


def measure(
    graph: Graph, layers: Sequence[Layer], batches: Iterable[Sequence[Any]], *, gram: bool
) -> dict[Layer, Moments]:
    """Run the graph once on all batches of inputs in graph order; return the moments of layers with known inputs.

    Raises:
        GraphOptError: the inputs of a layer are not finite; the message names it.
    """
    found = {layer: _empty(layer, gram) for layer in layers if any(reader.source for reader in layer.readers)}
    wanted: dict[Value, list[tuple[Layer, Node]]] = {}
    for layer in found:
        for reader in layer.readers:
            if reader.source is not None:
                wanted.setdefault(reader.source, []).append((layer, reader.node))

    def take(value: Value, tensor: Any) -> None:
        for layer, node in wanted.get(value, ()):
            for piece in layer.inputs(node, tensor.detach()):
                found[layer].add(piece)

    def with_constants() -> Iterator[Sequence[Any]]:
        for inputs in batches:
            for value in wanted:
                if value.constant is not None:
                    take(value, value.constant.tensor)
            yield inputs

    watch_values(graph, with_constants(), take)
    for layer, moments in found.items():
        try:
            moments.finish()
        except GraphOptError as error:
            raise GraphOptError(f"{layer.name}: {error}") from error
    return found


def _empty(layer: Layer, gram: bool) -> Moments:
    tensor = layer.tensor
    groups, _, columns = layer.matrix_shape
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    made = torch.zeros(groups, columns, columns, dtype=dtype, device=tensor.device) if gram else None
    return Moments(torch.zeros(groups, columns, dtype=dtype, device=tensor.device), made)
