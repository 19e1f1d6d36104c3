"""The roofline: what a machine could do at most with an operator of given FLOPs F and bytes moved B.

time ≥ max(F / peak, B / bandwidth)        attainable FLOP/s = min(peak, bandwidth · F/B)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from graphopt.timing import median_seconds

_SECONDS = 0.1
_SIDE = 1024
_COPIED = 64 << 20


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
    """Measure a device in about 0.3 s: single-precision FLOP/s by a product of matrices, bandwidth by a large copy."""
    a, b, out = (torch.zeros(_SIDE, _SIDE, device=device) for _ in range(3))
    source, copy = (torch.zeros(_COPIED, dtype=torch.uint8, device=device) for _ in range(2))
    with torch.no_grad():
        product = median_seconds(_finished(lambda: torch.mm(a, b, out=out), device), _SECONDS)
        copied = median_seconds(_finished(lambda: copy.copy_(source), device), _SECONDS)
    threads = f", {torch.get_num_threads()} threads" if device == "cpu" else ""
    text = f"measured: f32 {_SIDE}×{_SIDE} matrix product, copy of {_COPIED >> 20} MiB{threads}"
    return Peaks(2 * _SIDE**3 / product, 2 * _COPIED / copied, device, text)


def _finished(call: Callable[[], Any], device: str) -> Callable[[], Any]:
    """The call, and a wait for the device."""
    if not device.startswith("cuda"):
        return call

    def run() -> None:
        call()
        torch.cuda.synchronize(device)

    return run
