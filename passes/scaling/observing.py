"""Running a graph over calibration data and looking at chosen values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from graphopt.analysis import watch_values
from graphopt.analysis.channels.atoms import Ids
from graphopt.errors import InputError
from graphopt.ir import Graph, Value

Watcher = Callable[[torch.Tensor], None]


def observe(graph: Graph, watchers: dict[Value, list[Watcher]], batches: Iterable[Sequence[Any]]) -> None:
    """Run the graph on each batch and show the values to their watchers.

    Raises:
        InputError: a value that is watched is not finite; the message names it.
    """

    def show(value: Value, tensor: Any) -> None:
        if value not in watchers:
            return
        if not bool(torch.isfinite(tensor).all()):
            where = f" ({value.producer.location})" if value.producer is not None else ""
            raise InputError(f"%{value.name}{where} holds a NaN or an infinity on the calibration data")
        for watcher in watchers[value]:
            watcher(tensor.detach())

    watch_values(graph, batches, show)


class Extent:
    """The least and the greatest number of a value by channel; `channels` broadcast to it."""

    def __init__(self, channels: Ids) -> None:
        self.channels = channels
        self.low: np.ndarray = np.full(channels.shape, np.inf)
        self.high: np.ndarray = np.full(channels.shape, -np.inf)

    def __call__(self, tensor: torch.Tensor) -> None:
        """Take the numbers of a batch."""
        if not tensor.numel():
            return
        dims = [dim for dim, size in enumerate(self.channels.shape) if size == 1]
        low = tensor.amin(dims, keepdim=True) if dims else tensor
        high = tensor.amax(dims, keepdim=True) if dims else tensor
        self.low = np.minimum(self.low, low.double().cpu().numpy())
        self.high = np.maximum(self.high, high.double().cpu().numpy())
