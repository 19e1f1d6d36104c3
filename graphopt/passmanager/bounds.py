"""How far an output may be from what it should be, and by how much one is too far."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from graphopt.passmanager.compare import (
    Distance,
    distance,
    exact_difference,
    form_difference,
    is_inexact,
    special_difference,
    ulp,
    wide,
)

OWN_ERRORS = 4.0
ULPS = 8.0
FLOAT64_LIMIT = 1e-9
UNREFEREED_ULPS = 64.0
"""The bound in ulp where the graph cannot run in float64, and so its own error is not known."""


class Complaint(NamedTuple):
    """What is wrong with an output.

    gap: by how much each element (flat) breaks its bound, for a difference that rounding might excuse; else None.
    """

    message: str
    gap: torch.Tensor | None = None


def working_complaint(old: Any, new: Any, referee: Any, own: Distance | None) -> Complaint | None:
    """Judge an output in the working precision: |new − referee| ≤ 4·(the original's own error) + 8 ulp of its scale.

    old: the original's output. referee: the same in float64. own: the distance of the two; None if that is not known.
    """
    complaint = _common_complaint(old, new, referee)
    if complaint is not None or not is_inexact(old):
        return complaint
    measured = distance(new, referee)
    unit = ulp(old)
    limit = OWN_ERRORS * own.max_abs + ULPS * unit * own.scale if own else UNREFEREED_ULPS * unit * measured.scale
    if measured.max_abs <= limit:
        return None
    message = (
        f"error {measured.max_abs:.3g} against the original in float64, allowed {limit:.3g} "
        f"(the original's own is {own.max_abs if own else 0:.3g}, the scale {measured.scale:.3g})"
    )
    return Complaint(message, _gap(new, referee, limit))


def surely_close(old: Any, new: Any) -> bool:
    """True if `working_complaint` cannot complain, whatever the referee R says: where |new − old| ≤ 8 ulp of the scale,
    |new − R| ≤ |new − old| + |old − R| ≤ 8 ulp of the scale + the original's own error."""
    if form_difference(old, new) is not None or not is_inexact(old) or special_difference(new, old, old) is not None:
        return False
    measured = distance(new, old)
    return measured.max_abs <= ULPS * ulp(old) * measured.scale


def float64_complaint(old: Any, new: Any, relative_limit: float, floor: float = 0.0) -> Complaint | None:
    """Judge an output in float64 against the graph before: |new − old| ≤ limit·scale, or the floor if that is more."""
    complaint = _common_complaint(old, new, old)
    if complaint is not None or not is_inexact(old):
        return complaint
    measured = distance(new, old)
    limit = max(relative_limit * measured.scale, floor)
    if measured.max_abs <= limit:
        return None
    found = f"in float64 the results differ by {measured.max_abs:.3g} at a scale of {measured.scale:.3g}"
    return Complaint(f"{found}, allowed {limit:.3g}", _gap(new, old, limit))


def relative_bound(work: Any, own: Distance | None) -> tuple[float, float]:
    """The bound of `working_complaint` as a share of the output's scale, and the part of it that stands where sums
    cancel to a scale of zero: the original's own error."""
    if own is None:
        return UNREFEREED_ULPS * ulp(work), 0.0
    if not own.scale:
        return ULPS * ulp(work), OWN_ERRORS * own.max_abs
    return OWN_ERRORS * own.relative + ULPS * ulp(work), 0.0


def _common_complaint(old: Any, new: Any, referee: Any) -> Complaint | None:
    """Form, integers, and the places of NaN and infinities."""
    found = form_difference(old, new)
    if found is not None:
        return Complaint(found)
    if is_inexact(old):
        found = special_difference(new, old, referee)
        return None if found is None else Complaint(found)
    found = exact_difference(old, new, bitwise=False)
    if found is None:
        return None
    if not isinstance(new, torch.Tensor):
        return Complaint(found)
    return Complaint(found, (new.double() - old.double()).abs().reshape(-1).cpu())


def _gap(new: Any, reference: Any, limit: float) -> torch.Tensor:
    gap = (wide(new) - wide(reference)).abs_().nan_to_num_(nan=0.0, posinf=0.0)
    return (gap - limit).clamp_(min=0)
