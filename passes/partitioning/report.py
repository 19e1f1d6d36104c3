"""What a partition says of itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class DeviceShare:
    """One device: nodes on it, seconds that it works, bytes of weights, the most bytes at once and the limit."""

    name: str
    nodes: int
    seconds: float
    weight_bytes: int
    peak_bytes: int
    limit_bytes: int | None = None


@dataclass
class PartitionReport:
    """How a graph was split.

    cost: seconds by the objective; bound: a lower bound of any split's; gap: (cost − bound) / cost.
    alone: the cost of each device by itself, None where it cannot run everything or runs out of memory.
    copies, copied_bytes, copy_seconds: what crosses in a run. duplicated_bytes: of weights stored more than once.
    segments: sub-graphs that run one after another. method: how it was found, in `seconds` seconds.
    """

    target: str
    objective: str
    cost: float
    bound: float
    gap: float
    method: str
    seconds: float
    devices: list[DeviceShare] = field(default_factory=list)
    alone: dict[str, float | None] = field(default_factory=dict)
    copies: int = 0
    copied_bytes: int = 0
    copy_seconds: float = 0.0
    duplicated_bytes: int = 0
    segments: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        parts = ", ".join(f"{d.name} {d.nodes} nodes" for d in self.devices)
        return (
            f"{parts}; {self.copies} copies; {self.objective} {self.cost * 1e3:.3g} ms, "
            f"within {self.gap:.1%} of a lower bound ({self.method})"
        )
