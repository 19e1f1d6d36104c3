"""What steps wait for besides what they read, so that no device holds more than it may.

In the order of the graph a device holds its peak at most. Two things hold more: a copy that comes to it before it is as
far as the graph says, and one that leaves it later. Each is let go ahead by one step of the device where the bytes fit
between its peak and its limit; else it waits, or is waited for. All waits are for steps before: nothing locks up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphopt.analysis.sizes import TypeSizes
from graphopt.backends.devices.steps import Compute, Step, Transfer


def paced(steps: Sequence[Step], slack: Mapping[str, int | None], sizes: TypeSizes) -> list[tuple[int, ...]]:
    """Return, for each step, the numbers of steps that it has to wait for.

    slack: how many bytes each device may hold beyond its peak in the order of the graph; None for any number.

    A copy to a device may begin while the step of the device before it runs; a copy from one may end while the step
    behind it runs.
    """
    return _Pacing(steps, slack, sizes).waits


class _Pacing:
    def __init__(self, steps: Sequence[Step], slack: Mapping[str, int | None], sizes: TypeSizes) -> None:
        self.slack = slack
        self.done: dict[str, list[int]] = {}
        self.used: dict[tuple[str, int], int] = {}
        self.leaving: dict[str, list[tuple[int, int]]] = {}
        self.waits: list[tuple[int, ...]] = []
        for number, step in enumerate(steps):
            if isinstance(step, Transfer):
                size = sizes.bytes(step.taken.type)
                self.waits.append(self._comes(step.device, size))
                self.leaving.setdefault(step.source, []).append((number, size))
            else:
                self.waits.append(self._starts(step, number))

    def _comes(self, device: str, size: int) -> tuple[int, ...]:
        """A copy to a device: it waits for the step before the last, or for the last."""
        done = self.done.get(device, [])
        if self.slack[device] is None or not done:
            return ()
        if self._fits(device, len(done) - 1, size):
            return tuple(done[-2:-1])
        return (done[-1],)

    def _starts(self, step: Compute, number: int) -> tuple[int, ...]:
        """A step of a device: it waits for the copies away from it that may hold no bytes any longer."""
        device = step.device
        done = self.done.setdefault(device, [])
        found, late = [], []
        for copy, size in self.leaving.pop(device, []) if self.slack[device] is not None else ():
            if size and self._fits(device, len(done), size):
                late.append((copy, 0))
            else:
                found.append(copy)
        if late:
            self.leaving[device] = late
        done.append(number)
        return tuple(found)

    def _fits(self, device: str, position: int, size: int) -> bool:
        """Take bytes beyond the peak for the time of one step of a device."""
        most, used = self.slack[device], self.used.get((device, position), 0)
        if most is not None and used + size > most:
            return False
        self.used[device, position] = used + size
        return True
