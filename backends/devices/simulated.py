"""Simulated devices: the CPU runs what is meant for them, and every tensor knows on which of them it is.

An operator whose operands are on another device is an error that names the node; so is one that reads what another lane
writes without having waited for it, whether or not it happens to be there by now. Copies take place in threads, as they
do on devices. Bytes are counted by device.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphopt.backends.devices.clocks import Clock, Mark, Stamp
from graphopt.backends.devices.driver import KERNELS, Function, Lane, Launch, PlacementError
from graphopt.backends.devices.ledger import Ledger
from graphopt.backends.devices.watching import Watching, watched_call
from graphopt.targets import Device

_PLAYED = tuple(kernel for kernel in KERNELS if kernel != "inductor")


class SimulatedDriver:
    """Devices of any kind.

    kernels: which of `KERNELS` they have, CPUs none. ledger: which tensor is where, and how much each device holds.
    """

    def __init__(self, devices: Sequence[Device], kernels: Sequence[str] = _PLAYED) -> None:
        self.kernels = frozenset(kernels)
        self.ledger = Ledger(device.name for device in devices)
        self._hosts = frozenset(device.name for device in devices if device.kind == "cpu")
        self._numbers = itertools.count()

    def where(self, device: str) -> str:
        """The CPU."""
        return "cpu"

    def lane(self, device: str) -> Lane:
        """A clock."""
        return Lane(device, Clock(next(self._numbers)))

    def link(self, source: str, sink: str) -> Lane:
        """A clock."""
        return self.lane(sink)

    @contextmanager
    def on(self, lane: Lane) -> Iterator[None]:
        """Watch what runs in this thread."""
        with Watching(self.ledger, lane.device, lane.native):
            yield

    def record(self, lane: Lane) -> Mark:
        """A mark of the clock."""
        clock: Clock = lane.native
        return clock.record()

    def wait(self, lane: Lane, mark: Mark | None) -> None:
        """The clock knows what the mark knows."""
        if mark is not None:
            lane.native.wait(mark)

    def finish(self, lane: Lane) -> None:
        """Nothing: a lane's thread has done what it was given."""

    def store(self, tensor: torch.Tensor, device: str) -> torch.Tensor:
        """Memory of its own, since two devices may store one weight."""
        stored = tensor.detach().clone(memory_format=torch.preserve_format)
        self.ledger.enter(stored, device, None)
        self.ledger.measure()
        return stored

    def pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy on the host that counts for no device."""
        return tensor.detach().clone()

    def enter(self, tensor: torch.Tensor, device: str) -> torch.Tensor:
        """A copy: the caller's own tensor is on no simulated device."""
        return self.store(tensor, device)

    def leave(self, tensor: torch.Tensor) -> torch.Tensor:
        """An ordinary tensor, which counts no longer."""
        self.ledger.forget(tensor)
        return tensor.clone() if tensor.is_inference() else tensor

    def copy(self, tensor: torch.Tensor, device: str) -> torch.Tensor:
        """A clone that is on the other device."""
        with Watching.paused():
            watching = Watching.current()
            watching.check_read(tensor)
            copied = tensor.clone(memory_format=torch.preserve_format)
            self.ledger.enter(copied, device, watching.clock.stamp())
            self.ledger.measure()
        return copied

    def call(self, function: Function, given: list[Any], lane: Lane) -> list[Any]:
        """Run node by node, so that an error names the node."""
        return watched_call(function, given)

    def opaque(self, function: Function, given: list[Any], lane: Lane) -> list[Any]:
        """Look at what goes in and comes out alone."""
        watching = Watching.current()
        watching.check(given, "its engine")
        with Watching.paused():
            results = list(function(given))
        self._enter(results, lane.device, watching.clock.stamp())
        return results

    def capture(self, function: Launch, lane: Lane) -> tuple[Callable[[], None], Sequence[torch.Tensor]]:
        """What a graph of launches does: the same again, and the results to where they were."""
        outputs = [torch.empty_like(result).copy_(result) for result in function()]

        def replay() -> None:
            for output, result in zip(outputs, function()):
                output.copy_(result)

        return replay, outputs

    def semi_structured(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight as it is."""
        return weight

    def has(self, kernel: str, device: str) -> bool:
        """What the driver was made with."""
        return kernel in self.kernels and device not in self._hosts

    def peaks(self) -> dict[str, int]:
        """What the ledger counted."""
        return self.ledger.take_peaks()

    def _enter(self, results: Sequence[Any], device: str, stamp: Stamp) -> None:
        for tensor in pytree.tree_leaves(list(results)):
            if isinstance(tensor, torch.Tensor):
                self.ledger.enter(tensor, device, stamp)
        self.ledger.measure()


__all__ = ["PlacementError", "SimulatedDriver"]
