"""The stored tensors of a device: all there for good, or some of them brought in before each step that reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from graphopt.backends.devices.driver import Driver
from graphopt.backends.devices.prepare import Form, Prepared, Stored
from graphopt.backends.devices.shelves import DiskShelf, HostShelf, Shelf
from graphopt.errors import TargetError
from graphopt.targets import Device


class Store:
    """What a device stores.

    streamed: for each step that has to wait for tensors, which; they come by `bring`, and go after the step.
    """

    def __init__(self, driver: Driver, device: Device, steps: Mapping[int, Prepared], room: int | None) -> None:
        """steps: what runs on the device, by number. room: bytes for tensors; None is any number.

        Raises:
            TargetError: two steps one after another do not fit; says what would do.
        """
        self.driver, self.device = driver, device.name
        self._resident: dict[Stored, torch.Tensor] = {}
        self.streamed: dict[int, list[Stored]] = {}
        self._shelf: Shelf | None = None
        self._place: dict[Stored, int] = {}
        every = dict.fromkeys(stored for step in steps.values() for stored in step.stored)
        if room is None or sum(s.size for s in every) <= room:
            self._resident = {s: s.form.on(driver, device.name, s.tensor) for s in every}
            return
        kept = self._kept(device, steps, room)
        self._resident = {s: s.form.on(driver, device.name, s.tensor) for s in kept}
        self.streamed = {n: [s for s in step.stored if s not in kept] for n, step in steps.items()}
        self.streamed = {n: missing for n, missing in self.streamed.items() if missing}
        shelved = list(dict.fromkeys(s for missing in self.streamed.values() for s in missing))
        self._place = {s: index for index, s in enumerate(shelved)}
        tensors = [s.form.laid_out(s.tensor) for s in shelved]
        self._shelf = DiskShelf(tensors) if device.spill == "disk" else HostShelf(driver, tensors)

    @staticmethod
    def _kept(device: Device, steps: Mapping[int, Prepared], room: int) -> set[Stored]:
        """What stays: as much from the first step on as leaves room for the largest two steps in a row."""
        sizes = [sum(s.size for s in dict.fromkeys(step.stored)) for step in steps.values()]
        most = max(a + b for a, b in zip([0, *sizes], sizes))
        if most > room:
            raise TargetError(
                f"{device.name} has {room:,} bytes for weights beside live values, and weights of two steps in a row, "
                f"the second brought in while the first runs, take {most:,}; {most - room:,} bytes more of memory "
                "would do"
            )
        kept: set[Stored] = set()
        left = room - most
        for stored in dict.fromkeys(s for step in steps.values() for s in step.stored):
            if stored.size <= left:
                kept.add(stored)
                left -= stored.size
        return kept

    def bring(self, step: int) -> dict[Stored, torch.Tensor]:
        """Copy what a step lacks to the device."""
        assert self._shelf is not None
        return {
            s: s.form.made(self.driver, self.driver.copy(self._shelf.take(self._place[s]), self.device))
            for s in self.streamed[step]
        }

    def tensors(self, stored: Sequence[Stored], brought: Mapping[Stored, torch.Tensor]) -> list[torch.Tensor]:
        """What a step reads."""
        return [brought[s] if s in brought else self._resident[s] for s in stored]


__all__ = ["Form", "Store"]
