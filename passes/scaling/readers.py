"""Layers that read channels whose scales may move, and what they read on calibration data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from graphopt.analysis.channels.atoms import Ids
from graphopt.ir import DType, Node, Value
from graphopt.passes.scaling.observing import Watcher, observe
from graphopt.passes.scaling.spaces import Factor, Space, Spaces
from graphopt.passes.support.evaluation import evaluate, stored_tensor
from graphopt.passes.support.folds import fold_of

_PRODUCTS = frozenset({"aten.linear", "aten.matmul", "aten.mm", "aten.addmm"})
_CONVOLUTIONS = {"aten.conv1d": 1, "aten.conv2d": 2, "aten.conv3d": 3}


@dataclass(frozen=True, eq=False)
class Reader:
    """A node that sums over channels by a stored weight.

    at: the operand that is the activation; the weight is the next. axis: of its channels, from the end.
    columns: the channel in the space of each of them, 0 where the scale stays.

    Scales by channel are arrays [size of the space + 1], with 1 at 0.
    """

    node: Node
    factor: Factor
    space: Space
    at: int
    axis: int
    columns: Ids

    @property
    def channels(self) -> Ids:
        """The channel in the space of each input of the weight; they broadcast to it."""
        return self.space.local(self.factor.channels)

    @property
    def x(self) -> Value:
        """The activation."""
        value = self.node.operands[self.at]
        assert value is not None
        return value

    @property
    def weight(self) -> torch.Tensor:
        """The stored weight."""
        return stored_tensor(self.factor.constant)

    @property
    def is_product(self) -> bool:
        """True for a product of matrices."""
        return self.node.op.base in _PRODUCTS

    @property
    def matrix(self) -> torch.Tensor:
        """The weight of a product as [inputs, outputs]."""
        return self.weight.t() if self.node.op.base == "aten.linear" else self.weight

    @property
    def output_axis(self) -> int:
        """The axis of outputs of the weight."""
        return 0 if self.node.op.base == "aten.linear" or not self.is_product else 1

    def scaled_weight(self, scales: np.ndarray) -> torch.Tensor:
        """W · s for scales s by channel."""
        own = scales[self.channels]
        weight = self.weight
        return (weight.double() * torch.from_numpy(own).to(weight.device)).to(weight.dtype)

    def by_column(self, scales: np.ndarray, x: torch.Tensor) -> torch.Tensor:
        """Scales by channel in the shape in which they multiply the activation."""
        own = torch.from_numpy(scales[self.columns]).to(x)
        return own.reshape(-1, *[1] * (-1 - self.axis))

    def computed(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """What the node computes from an activation and a weight."""
        operands = [
            None if v is None else stored_tensor(v) if v.constant is not None else x for v in self.node.operands
        ]
        operands[self.at + 1] = weight
        return evaluate(self.node, operands)[0]


def readers_of(spaces: Spaces, space: Space, convolutions: bool = False) -> list[Reader]:
    """The layers that read a space: products of single precision, and convolutions if asked for."""
    found = []
    for factor in space.readers:
        for node in factor.nodes if factor.kind == "layer" else ():
            base = node.op.base
            if base in _PRODUCTS:
                at, axis = int(base == "aten.addmm"), -1
            elif convolutions and base in _CONVOLUTIONS:
                at, axis = 0, -1 - _CONVOLUTIONS[base]
            else:
                continue
            x = node.operands[at]
            if x is None or x.dtype is not DType.F32 or factor.constant.dtype is not DType.F32:
                continue
            found.append(Reader(node, factor, space, at, axis, space.local(spaces.columns(x, axis))))
    return found


class Inputs:
    """What readers of one value read, by column, and what is asked for beyond.

    largest: the greatest magnitudes. mean: the mean magnitudes. gram: Σ x xᵀ over all positions.
    folds: the same for one half of the samples each, so that what is chosen on one can be judged on the other.
    """

    def __init__(self, reader: Reader, gram: bool, keep: int) -> None:
        size = len(reader.columns)
        self.axis = reader.axis
        self.gram: torch.Tensor | None = None
        self._wants_gram = gram
        self.folds = tuple(_Fold(size, reader.is_product, keep // 2) for _ in range(2))
        self._total = np.zeros(size)
        self._positions = self._samples = 0

    @property
    def largest(self) -> np.ndarray:
        """The greatest magnitude by column."""
        return np.maximum(self.folds[0].largest, self.folds[1].largest)

    @property
    def mean(self) -> np.ndarray:
        """E|x| by column."""
        return self._total / max(self._positions, 1)

    def __call__(self, x: torch.Tensor) -> None:
        """Take a batch."""
        if not x.numel():
            return
        x = x if x.dim() + self.axis else x.unsqueeze(0)  # one sample without a dim for samples
        rows = _rows(x, self.axis)
        self._total += rows.abs().sum(0, dtype=torch.float64).cpu().numpy()
        self._positions += len(rows)
        if self._wants_gram:
            own = rows.t() @ rows
            self.gram = own if self.gram is None else self.gram + own
        folds = torch.tensor([fold_of(self._samples + index) for index in range(len(x))])
        for number, fold in enumerate(self.folds):
            if bool((folds == number).any()):
                fold.add(x[folds == number], self.axis)
        self._samples += len(x)


class _Fold:
    """largest: by column. kept: some of what was seen as it is, rows of a product or samples of a convolution."""

    def __init__(self, size: int, is_product: bool, keep: int) -> None:
        self.largest = np.zeros(size)
        self.kept: list[torch.Tensor] = []
        self._is_product, self._keep = is_product, keep

    def add(self, x: torch.Tensor, axis: int) -> None:
        rows = _rows(x, axis)
        self.largest = np.maximum(self.largest, rows.abs().amax(0).double().cpu().numpy())
        if self._keep:
            whole = rows if self._is_product else x
            wanted = max(1, min(len(whole), self._keep // max(whole[0].numel(), 1)))
            self.kept.append(whole[torch.linspace(0, len(whole) - 1, wanted).round().long()].clone())


def _rows(x: torch.Tensor, axis: int) -> torch.Tensor:
    return x.movedim(axis, -1).reshape(-1, x.shape[axis])


def inputs_of(
    spaces: Spaces,
    readers: Sequence[Reader],
    batches: Sequence[Sequence[Any]],
    *,
    gram: Callable[[Reader], bool] = lambda reader: False,
    keep: int = 0,
) -> dict[Reader, Inputs]:
    """Run the graph on batches and return what each reader reads. keep: so many elements of each value at most."""
    found: dict[tuple[Value, int], Inputs] = {}
    watchers: dict[Value, list[Watcher]] = {}
    for reader in readers:
        key = reader.x, reader.axis
        if key not in found:
            found[key] = Inputs(reader, gram(reader), -(-keep // max(len(batches), 1)) if keep else 0)
            watchers.setdefault(reader.x, []).append(found[key])
    observe(spaces.graph, watchers, batches)
    return {reader: found[reader.x, reader.axis] for reader in readers}


def by_channel(space: Space, readers: Sequence[Reader], columns: Sequence[np.ndarray]) -> np.ndarray:
    """The greatest of numbers a column, by channel, [size + 1]."""
    found = np.zeros(space.size + 1)
    for reader, own in zip(readers, columns):
        np.maximum.at(found, reader.columns, own)
    found[0] = 0.0
    return found
