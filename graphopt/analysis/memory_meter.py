"""The memory that a run of the interpreter takes, measured: the bytes of the tensors that are alive after each node."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from graphopt.analysis.interpreter import Interpreter
from graphopt.analysis.liveness import last_uses
from graphopt.analysis.placement import type_device
from graphopt.ir import Graph, Node, Type


class MemoryMeter:
    """Runs a graph and follows the storages of its tensors, each counted once, on the device that its type names.

    What a kernel takes and gives back within a node is not seen.

    >>> from graphopt.ops.text import parse
    >>> g = parse('''input %x: f32[256]
    ... %y = aten.neg(%x)
    ... %z = aten.relu(%y)
    ... return %z''')
    >>> MemoryMeter(g).run(torch.ones(256))
    {'cpu': 2048}
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.peaks: dict[str, int] = {}
        self._alive: list[_Held] = []
        self._stored: dict[str, int] = {}
        self._constants: set[tuple[str, int]] = set()
        for value in graph.constants.values():
            if value.num_uses and value.constant is not None:
                device = type_device(value.type) or "cpu"
                self._stored[device] = self._stored.get(device, 0) + value.constant.tensor.nbytes
                self._constants.add((device, value.constant.tensor.untyped_storage().data_ptr()))
        self._last = last_uses(graph)

    def run(self, *inputs: Any) -> dict[str, int]:
        """Run on flat inputs, each of which counts until its last use; return the most bytes on each device, weights
        included."""
        for value, tensor in zip(self.graph.inputs, inputs):
            if value.num_uses:
                self._enter(tensor, value.type, self._last[value])
        self._measure()
        Interpreter(self.graph, observer=self._observe).run(*inputs)
        return self.peaks

    def _observe(self, node: Node, results: Sequence[Any]) -> None:
        for value, result in zip(node.results, results):
            self._enter(result, value.type)
        self._measure()
        self._alive = [held for held in self._alive if held.until is not node]

    def _enter(self, tensor: Any, type_: Type, until: Node | None = None) -> None:
        if isinstance(tensor, torch.Tensor):
            storage = tensor.untyped_storage()
            place = type_device(type_) or "cpu", storage.data_ptr()
            if place not in self._constants:
                self._alive.append(_Held(weakref.ref(tensor), until, place, storage.nbytes()))

    def _measure(self) -> None:
        self._alive = [held for held in self._alive if held.tensor() is not None]
        total = dict(self._stored)
        for (device, _), size in {held.place: held.size for held in self._alive}.items():
            total[device] = total.get(device, 0) + size
        for device, size in total.items():
            self.peaks[device] = max(self.peaks.get(device, 0), size)


class _Held(NamedTuple):
    """A tensor that is alive, until some node if the run does not give it up; where its bytes are, and how many."""

    tensor: weakref.ref[torch.Tensor]
    until: Node | None
    place: tuple[str, int]
    size: int
