"""Which storage is on which simulated device, who wrote it, and how many bytes each device holds."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from graphopt.backends.devices.clocks import Stamp


@dataclass
class Entry:
    """A storage on a device. writer: what has to be waited for before it is read; None for what is always there."""

    storage: StorageWeakRef
    device: str
    size: int
    writer: Stamp | None


class Ledger:
    """The storages that are alive. Two tensors that share memory are one entry.

    peaks: the most bytes at the end of any node. within: the most at any time, with what kernels take and give back.
    """

    def __init__(self, devices: Iterable[str]) -> None:
        self._entries: dict[int, Entry] = {}
        self._lock = threading.Lock()
        self.peaks = dict.fromkeys(devices, 0)
        self.within = dict(self.peaks)

    def enter(self, tensor: torch.Tensor, device: str, writer: Stamp | None) -> None:
        """Note where a tensor is. What is noted already stays."""
        storage = tensor.untyped_storage()
        with self._lock:
            found = self._entries.get(storage._cdata)
            if found is None or found.storage.expired():
                self._entries[storage._cdata] = Entry(StorageWeakRef(storage), device, storage.nbytes(), writer)

    def find(self, tensor: torch.Tensor) -> Entry | None:
        """Where a tensor is; None for one that is no device's."""
        with self._lock:
            found = self._entries.get(tensor.untyped_storage()._cdata)
            return None if found is None or found.storage.expired() else found

    def forget(self, tensor: torch.Tensor) -> None:
        """No longer count a tensor."""
        with self._lock:
            self._entries.pop(tensor.untyped_storage()._cdata, None)

    def held(self) -> dict[str, int]:
        """The bytes that each device holds."""
        total = dict.fromkeys(self.peaks, 0)
        with self._lock:
            for key in [key for key, entry in self._entries.items() if entry.storage.expired()]:
                del self._entries[key]
            for entry in self._entries.values():
                total[entry.device] += entry.size
        return total

    def measure(self, *, inside: bool = False) -> None:
        """Look how much is held, at the end of a node, or inside of one."""
        for name, size in self.held().items():
            self.within[name] = max(self.within[name], size)
            if not inside:
                self.peaks[name] = max(self.peaks[name], size)

    def take_peaks(self) -> dict[str, int]:
        """Return the peaks, and begin anew."""
        found, self.peaks = self.peaks, dict.fromkeys(self.peaks, 0)
        self.within = dict(self.peaks)
        return found
