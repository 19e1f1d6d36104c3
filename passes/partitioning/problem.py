"""The partition problem in numbers, without graph or target.

Nodes 0 … n−1 run in this order, node i on device x_i in c[i, x_i] seconds. A tensor is made by a node, or comes from
the caller (producer −1), on the home device 0; node n stands for the caller who reads what is returned, there as well.
Where a consumer is on another device than the producer, the tensor is copied there once, right after it was made:
latency[a, b] + size · per_byte[a, b] seconds. So on device b it lives

    from step p to the last consumer on b        (on the producer's own device at least at step p),

and the memory of b is the weights that its nodes read, plus the most that lives there at any step. A view shares the
memory of what it views, on the device that made the view.

Objectives:

    serial      Σ c[i, x_i] + all copies                        one thing at a time
    latency     the end of the last node or copy, where devices overlap; each runs its nodes in order
    throughput  the busiest device or link: the time between two results of a pipeline. A stage is a device, and
                tensors move forward only

A weight that k devices read is stored k times, which costs (k − 1) loads of it, spread over `runs` runs: it is
duplicated only where that is cheaper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Objective = Literal["serial", "latency", "throughput"]
OBJECTIVES: tuple[Objective, ...] = ("serial", "latency", "throughput")
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

HOME = 0
CALLER = -1


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value: its producer (−1: the caller), bytes, and consumers in order (n: the caller).

    base: the tensor whose memory it shares where both are made, or −1. moves: whether it has to be copied at all; a
    number in Python does not.
    """

    producer: int
    size: int
    consumers: tuple[int, ...]
    base: int = -1
    moves: bool = True


@dataclass(frozen=True, slots=True)
class Weight:
    """A stored tensor: bytes, and the nodes that read it."""

    size: int
    consumers: tuple[int, ...]


@dataclass(frozen=True)
class Problem:
    """See the module.

    seconds: [n, D], inf where a device cannot run a node. latency, per_byte: [D, D], zero on the diagonal.
    limits: bytes [D]. busy: seconds that a device may work in a run [D]. extra: bytes that a node needs while it runs
    [n]. runs: how many runs the load of a duplicated weight is spread over.
    """

    seconds: Floats
    tensors: tuple[Tensor, ...]
    weights: tuple[Weight, ...]
    latency: Floats
    per_byte: Floats
    limits: Floats
    busy: Floats
    extra: Floats
    runs: float = 1000.0
    memo: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Limits are divided by. Sizes are whole numbers of bytes, so less than one byte allows no more than none.
        object.__setattr__(self, "limits", np.maximum(self.limits, 0.5))
        object.__setattr__(self, "busy", np.maximum(self.busy, 1e-15))

    @property
    def nodes(self) -> int:
        """n."""
        return int(self.seconds.shape[0])

    @property
    def devices(self) -> int:
        """D."""
        return int(self.seconds.shape[1])

    @property
    def is_bounded(self) -> bool:
        """Whether memory or energy is limited."""
        return bool(np.isfinite(self.limits).any() or np.isfinite(self.busy).any())

    def reordered(self, order: Ints) -> Problem:
        """The problem with node order[k] in place k."""
        position = np.empty(self.nodes + 1, dtype=np.int64)
        position[order] = np.arange(self.nodes)
        position[self.nodes] = self.nodes

        def moved(nodes: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(sorted(int(position[node]) for node in nodes))

        return replace(
            self,
            seconds=self.seconds[order],
            extra=self.extra[order],
            tensors=tuple(
                replace(
                    t,
                    producer=t.producer if t.producer < 0 else int(position[t.producer]),
                    consumers=moved(t.consumers),
                )
                for t in self.tensors
            ),
            weights=tuple(replace(w, consumers=moved(w.consumers)) for w in self.weights),
        )

    def transfer(self, tensor: Tensor, source: int, sink: int) -> float:
        """Seconds that a copy takes."""
        if source == sink or not tensor.moves:
            return 0.0
        return float(self.latency[source, sink] + tensor.size * self.per_byte[source, sink])

    @cached_property
    def loads(self) -> Floats:
        """What each copy of a weight besides the first costs in a run, in seconds."""
        slowest = float(self.per_byte.max()) if self.devices > 1 else 0.0
        return np.array([weight.size * slowest / self.runs for weight in self.weights], dtype=float)

    @cached_property
    def edges(self) -> list[tuple[int, int]]:
        """Pairs (producer, consumer) of nodes, each once."""
        found = {(t.producer, c): None for t in self.tensors if t.producer >= 0 for c in t.consumers if c < self.nodes}
        return list(found)

    @cached_property
    def reads(self) -> list[list[int]]:
        """For each node, the tensors that it reads."""
        found: list[list[int]] = [[] for _ in range(self.nodes)]
        for index, tensor in enumerate(self.tensors):
            for consumer in tensor.consumers:
                if consumer < self.nodes:
                    found[consumer].append(index)
        return found

    @cached_property
    def made(self) -> list[list[int]]:
        """For each node, the tensors that it makes."""
        found: list[list[int]] = [[] for _ in range(self.nodes)]
        for index, tensor in enumerate(self.tensors):
            if tensor.producer >= 0:
                found[tensor.producer].append(index)
        return found

    @cached_property
    def stored(self) -> list[list[int]]:
        """For each node, the weights that it reads."""
        found: list[list[int]] = [[] for _ in range(self.nodes)]
        for index, weight in enumerate(self.weights):
            for consumer in weight.consumers:
                if consumer < self.nodes:
                    found[consumer].append(index)
        return found

    def place(self, tensor: Tensor, assignment: Sequence[int] | Ints) -> int:
        """The device that a tensor is made on."""
        return HOME if tensor.producer < 0 else int(assignment[tensor.producer])
