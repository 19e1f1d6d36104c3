"""What touches a device, and nothing else does: two drivers do it, CUDA's and that of simulated devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from graphopt.errors import GraphOptError

Function = Callable[[list[Any]], Sequence[Any]]
"""Takes its inputs in a list, which it empties, so that each is freed at its last use."""

Launch = Callable[[], Sequence[torch.Tensor]]

KERNELS = ("graphs", "int8", "fp8", "semi-structured", "inductor")
"""What a device may have besides the operators of PyTorch: graphs of launches, products of 8-bit integers and floats,
weights of which two in four are zero, and a compiler."""


class PlacementError(GraphOptError):
    """An operator on another device than its operands, or one that reads what is not there yet; names the node."""


@dataclass(frozen=True)
class Lane:
    """A queue of work in order: of a device, or of a link between two. native: what the driver has for it."""

    device: str
    native: Any


class Driver(Protocol):
    """The operations on devices. All but `store`, `has` and `peaks` go to the lane that is current in the thread."""

    def where(self, device: str) -> str:
        """What PyTorch calls a device in this process."""
        ...

    def lane(self, device: str) -> Lane:
        """Make a queue of work on a device."""
        ...

    def link(self, source: str, sink: str) -> Lane:
        """Make a queue of copies from one device to another."""
        ...

    def on(self, lane: Lane) -> AbstractContextManager[Any]:
        """Let a lane be current in this thread."""
        ...

    def record(self, lane: Lane) -> Any:
        """Mark what the lane has been given so far."""
        ...

    def wait(self, lane: Lane, mark: Any) -> None:
        """Let what comes next in a lane wait for a mark of another one."""
        ...

    def finish(self, lane: Lane) -> None:
        """Wait until all that the lane was given is done."""
        ...

    def store(self, tensor: torch.Tensor, device: str) -> torch.Tensor:
        """Put a stored tensor on a device, for good."""
        ...

    def pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy in host memory that a device reads by itself, so that transfers wait for nobody."""
        ...

    def enter(self, tensor: torch.Tensor, device: str) -> torch.Tensor:
        """Take a tensor of the caller's that is to be on a device."""
        ...

    def leave(self, tensor: torch.Tensor) -> torch.Tensor:
        """Give a tensor to the caller, for whom it is an ordinary one."""
        ...

    def copy(self, tensor: torch.Tensor, device: str) -> torch.Tensor:
        """Copy a tensor to a device, without waiting for it."""
        ...

    def call(self, function: Function, given: list[Any], lane: Lane) -> list[Any]:
        """Run a function on a device, whose tensors it takes and gives."""
        ...

    def opaque(self, function: Function, given: list[Any], lane: Lane) -> list[Any]:
        """Run what is not made of PyTorch's operators, as `call` does."""
        ...

    def capture(self, function: Launch, lane: Lane) -> tuple[Callable[[], None], Sequence[torch.Tensor]]:
        """Record the launches of a function without arguments; return what launches all of them at once, and where the
        results then are."""
        ...

    def semi_structured(self, weight: torch.Tensor) -> torch.Tensor:
        """The form of a weight with two zeros in four that sparse tensor cores read."""
        ...

    def has(self, kernel: str, device: str) -> bool:
        """Whether a device has one of `KERNELS`."""
        ...

    def peaks(self) -> dict[str, int]:
        """The most bytes that were held on each device at once, since the last call."""
        ...
