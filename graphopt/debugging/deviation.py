"""How far a value is from what it should be, and how far it may be.

For a value y, a reference r and d = y − r, over the elements that are finite in both:

    max_abs  = max|d|                    max_rel = max|d| / max|r|
    sqnr     = 10·log10(Σr² / Σd²) dB    cosine  = Σyr / (‖y‖·‖r‖)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from graphopt.passmanager.compare import flat, wide
from graphopt.validation import ENGINE_FACTOR, ENGINE_ULP, UNREFEREED_ULP


@dataclass(frozen=True, slots=True)
class Deviation:
    """The distance of a value from a reference; infinities mean a difference from a reference of zeros.

    max_abs, scale: the largest |difference| and the largest |reference|. rms: √(Σ difference² / Σ reference²).
    cosine: of the angle between the two; 1 for two zeros. elements: how many were compared.
    mismatches: elements that differ, for integers and bools; for floats those that are NaN or infinite on one side.
    problem: what makes the two incomparable (other shapes), or "".
    """

    max_abs: float = 0.0
    scale: float = 0.0
    rms: float = 0.0
    cosine: float = 1.0
    elements: int = 0
    mismatches: int = 0
    problem: str = ""

    @property
    def max_rel(self) -> float:
        """The largest difference in terms of the reference's largest magnitude."""
        return _ratio(self.max_abs, self.scale)

    @property
    def sqnr(self) -> float:
        """Signal to quantization noise ratio in dB; infinite without any difference."""
        return -20 * math.log10(self.rms) if self.rms else math.inf

    @property
    def is_exact(self) -> bool:
        """True if nothing differs."""
        return not (self.max_abs or self.mismatches or self.problem)

    def to_dict(self) -> dict[str, Any]:
        """Return the measures as JSON values (infinities as strings)."""
        found: dict[str, Any] = {
            name: number(getattr(self, name)) for name in ("max_abs", "max_rel", "rms", "sqnr", "cosine", "scale")
        }
        found.update(elements=self.elements, mismatches=self.mismatches)
        return {**found, "problem": self.problem} if self.problem else found

    def __str__(self) -> str:
        if self.problem:
            return self.problem
        if self.is_exact:
            return "exact"
        text = (
            f"SQNR {self.sqnr:.1f} dB, max {self.max_abs:.3g} ({self.max_rel:.2g} of the scale), cos {self.cosine:.6f}"
        )
        return f"{text}, {self.mismatches} of {self.elements} elements mismatch" if self.mismatches else text


def deviation(value: Any, reference: Any) -> Deviation:
    """Measure a value (a tensor, a number, or a sequence of these) against a reference.

    >>> print(deviation(torch.tensor([1.0, 2.1]), torch.tensor([1.0, 2.0])))
    SQNR 27.0 dB, max 0.1 (0.05 of the scale), cos 0.999815
    """
    got, want = flat([value]), flat([reference])
    if len(got) != len(want):
        return Deviation(problem=f"{len(got)} values in place of {len(want)}")
    found = [_deviation(a, b) for a, b in zip(got, want)]
    return max(found, key=lambda d: (bool(d.problem), d.mismatches, d.rms), default=Deviation())


def _deviation(value: Any, reference: Any) -> Deviation:
    if value is None or reference is None or isinstance(value, str) or isinstance(reference, str):
        same = value is reference or value == reference
        return Deviation() if same else Deviation(problem=f"is {value!r}, should be {reference!r}")
    a, b = (torch.as_tensor(v) for v in (value, reference))
    if a.shape != b.shape:
        return Deviation(problem=f"has shape {list(a.shape)}, should have {list(b.shape)}")
    floating = a.is_floating_point() or a.is_complex()
    got, want = wide(a), wide(b)
    mismatches = 0 if floating else int(got.ne(want).sum())
    finite = got.isfinite() & want.isfinite()
    if not bool(finite.all()):
        same = (got == want) | (got.isnan() & want.isnan()) | finite
        mismatches += int((~same).sum())
        got, want = got[finite], want[finite]
    if not want.numel():
        return Deviation(elements=a.numel(), mismatches=mismatches)
    return _measured(got, want, a.numel(), mismatches)


def _measured(got: torch.Tensor, want: torch.Tensor, elements: int, mismatches: int) -> Deviation:
    difference = got - want
    norm, own = torch.linalg.vector_norm(want).item(), torch.linalg.vector_norm(got).item()
    energy = torch.linalg.vector_norm(difference).item()
    cosine = 1.0 if not energy else torch.dot(got, want).item() / (norm * own) if norm and own else 0.0
    return Deviation(
        max_abs=difference.abs().max().item(),
        scale=want.abs().max().item(),
        rms=_ratio(energy, norm),
        cosine=max(-1.0, min(1.0, cosine)),
        elements=elements,
        mismatches=mismatches,
    )


def _ratio(part: float, whole: float) -> float:
    if part == 0:
        return 0.0
    return part / whole if whole else math.inf


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a value may be from the reference.

    relative: the largest `max_rel`. None: what rounding may do, as for engines: 16 times the original's own error at
    the value plus 64 ulp of its scale (1024 ulp where that error is not known). Integers, bools, NaN and infinities
    must be right in any case.
    """

    relative: float | None = None

    def allowed(self, found: Deviation, own: Deviation | None, ulp: float) -> float:
        """The largest `max_abs`. own: the error of the original itself; ulp: the unit of the value's dtype."""
        if self.relative is not None:
            return self.relative * found.scale
        if own is None:
            return UNREFEREED_ULP * ulp * found.scale
        return ENGINE_FACTOR * own.max_abs + ENGINE_ULP * ulp * max(found.scale, own.scale)

    def holds(self, found: Deviation, own: Deviation | None, ulp: float) -> bool:
        """True if a value is within the tolerance."""
        if found.problem or found.mismatches > (own.mismatches if own is not None else 0):
            return False
        return found.max_abs <= self.allowed(found, own, ulp)


def ulp_of(value: Any) -> float:
    """The spacing of numbers just above 1 in a value's dtype; 0 for integers and bools."""
    if isinstance(value, torch.Tensor):
        return torch.finfo(value.dtype).eps if value.is_floating_point() or value.is_complex() else 0.0
    return torch.finfo(torch.float64).eps if isinstance(value, float) else 0.0


def number(value: float) -> float | str:
    """Return a number as JSON has it: infinities and NaN as strings."""
    return value if math.isfinite(value) else str(value)
