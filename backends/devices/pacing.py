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
    """done: the steps of each device so far. leaving: the copies away from a device that none of its steps has waited
    for, each with the position of the step that it may outlast the start of, -1 for none."""

    def __init__(self, steps: Sequence[Step], slack: Mapping[str, int | None], sizes: TypeSizes) -> None:
        self.slack = slack
        self.done: dict[str, list[int]] = {}
        self.leaving: dict[str, list[tuple[int, int]]] = {}
        self.used: dict[tuple[str, int], int] = {}
        self.waits: list[tuple[int, ...]] = []
        for number, step in enumerate(steps):
            if isinstance(step, Transfer):
                size = sizes.bytes(step.taken.type)
                self.waits.append(self._comes(step.device, size))
                self._leaves(step.source, number, size)
            else:
                self.waits.append(self._starts(step, number))

    def _comes(self, device: str, size: int) -> tuple[int, ...]:
        """A copy to a device waits for the step before the last where it fits beside the last, else for the last."""
        done = self.done.get(device, [])
        if self.slack[device] is None:
            return ()
        early = bool(done) and self._fits(device, len(done) - 1, size)
        place = len(done) - early
        return (*done[max(place - 1, 0) : place], *self._gone(device, place))

    def _leaves(self, device: str, number: int, size: int) -> None:
        """A copy away from a device may go on while the next step runs where its source fits beside that."""
        if self.slack[device] is not None:
            place = len(self.done.get(device, []))
            last = place if self._fits(device, place, size) else -1
            self.leaving.setdefault(device, []).append((number, last))

    def _starts(self, step: Compute, number: int) -> tuple[int, ...]:
        """A step waits for the copies away from its device that may hold no bytes any longer."""
        done = self.done.setdefault(step.device, [])
        waits = self._gone(step.device, len(done))
        self.leaving[step.device] = [(n, last) for n, last in self.leaving.get(step.device, []) if n not in waits]
        done.append(number)
        return waits

    def _gone(self, device: str, place: int) -> tuple[int, ...]:
        """The copies that must be complete before a position of the device."""
        return tuple(number for number, last in self.leaving.get(device, []) if last < place)

    def _fits(self, device: str, position: int, size: int) -> bool:
        """Take bytes beyond the peak for the time of one step of a device."""
        most, used = self.slack[device], self.used.get((device, position), 0)
        if most is not None and used + size > most:
            return False
        self.used[device, position] = used + size
        return True
