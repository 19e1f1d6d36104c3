"""What decomposition did: methods and ranks, what they save and lose, and the spectra that they were chosen by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SHOWN = 5
"""The notes name so many layers, those that lose the most."""

POINTS = 64
"""Singular values that a report keeps of a layer at most."""


@dataclass(frozen=True)
class Point:
    """An option that was looked at. error: relative, of the layer's output. milliseconds: where they were measured."""

    method: str
    ranks: tuple[int, ...]
    error: float
    macs: int
    parameters: int
    milliseconds: float | None = None


@dataclass(frozen=True)
class DecomposedLayer:
    """One layer.

    full: the ranks at which the method reproduces it. error: of its output, relative, on calibration data where there
    is some, else of its weight. weight_error: of its weight. macs, parameters: before and after. milliseconds: alone,
    before and after, where they were measured. spectrum: singular values of its weight, whitened where there is data,
    over the largest, at most `POINTS` of them, evenly. curve: what else was looked at.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    method: str
    ranks: tuple[int, ...]
    full: tuple[int, ...]
    error: float
    weight_error: float
    macs: tuple[int, int]
    parameters: tuple[int, int]
    milliseconds: tuple[float, float] | None = None
    spectrum: tuple[float, ...] = ()
    curve: tuple[Point, ...] = ()
    factors: tuple[str, ...] = ()

    def line(self) -> str:
        """As a sentence."""
        ranks = "×".join(map(str, self.ranks))
        timed = "" if self.milliseconds is None else ", {:.3g} → {:.3g} ms".format(*self.milliseconds)
        saved = f"{self.macs[0]:,} → {self.macs[1]:,} multiply-adds{timed}"
        if not self.macs[0]:
            saved = f"{self.parameters[0]:,} → {self.parameters[1]:,} parameters"
        return f"{self.name} {list(self.shape)}: {self.method} of rank {ranks}, error {self.error:.3g}, {saved}"


@dataclass
class DecompositionReport:
    """macs, parameters: of the whole model, before and after. data_aware: whether errors are those of outputs on data.
    seconds: of the whole model on the engine, before and after, where they were measured. left: why layers stay, by
    name. remarks: on what did not go smoothly."""

    macs: tuple[int, int]
    parameters: tuple[int, int]
    data_aware: bool
    layers: list[DecomposedLayer] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    seconds: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Sentences: the whole, then the layers that lose most, then what stays."""
        (macs, fewer), (weights, less) = self.macs, self.parameters
        whole = f"decomposed {len(self.layers)} of {len(self.layers) + len(self.left)} layers: "
        whole += f"{macs:,} → {fewer:,} multiply-adds, {weights:,} → {less:,} parameters"
        if self.seconds is not None:
            whole += ", {:.3g} → {:.3g} ms".format(*(1e3 * s for s in self.seconds))
        worst = sorted(self.layers, key=lambda layer: -layer.error)[:SHOWN]
        return [
            whole,
            *(layer.line() for layer in worst),
            *self.remarks,
            *(f"{name} stays: {why}" for name, why in self.left.items()),
        ]


def sampled(values: Sequence[float]) -> tuple[float, ...]:
    """At most `POINTS` of a spectrum, evenly, over the first."""
    largest = values[0] if len(values) and values[0] > 0 else 1.0
    count = min(len(values), POINTS)
    picked = [round(i * (len(values) - 1) / max(count - 1, 1)) for i in range(count)]
    return tuple(float(values[i] / largest) for i in picked)
