"""The roofline: what a machine could do at most with an operator of given FLOPs F and bytes moved B.

time ≥ max(F / peak, B / bandwidth)        attainable FLOP/s = min(peak, bandwidth · F/B)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Peaks:
    """What a device can do: `flops` in FLOP/s, `bandwidth` in bytes/s; `source` says where the numbers are from."""

    flops: float
    bandwidth: float
    device: str = "cpu"
    source: str = "described"

    def attainable(self, flops: float, moved: float) -> float:
        """The most FLOP/s of an operator with so many FLOPs and bytes.

        >>> Peaks(100e9, 10e9).attainable(1e6, 1e6)
        10000000000.0
        """
        return min(self.flops, self.bandwidth * flops / moved) if moved else self.flops

    def seconds(self, flops: float, moved: float) -> float:
        """The least time of an operator with so many FLOPs and bytes."""
        return max(flops / self.flops, moved / self.bandwidth)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def measure_peaks(device: str = "cpu") -> Peaks:
    """What a device was measured to do, in single precision; of the CPU once on each machine, see
    `graphopt.targets.machine`."""
    from graphopt.targets.machine import COPIED, PRODUCT, cpu_device, measure_rates

    if device == "cpu":
        found = cpu_device()
        flops, bandwidth, threads = found.peak["f32"], found.bandwidth, f", {torch.get_num_threads()} threads"
    else:
        rates = measure_rates(device)
        flops, bandwidth, threads = rates["f32"], rates["bandwidth"], ""
    text = f"measured: f32 {PRODUCT}×{PRODUCT} matrix product, copy of {COPIED >> 20} MiB{threads}"
    return Peaks(flops, bandwidth, device, text)
