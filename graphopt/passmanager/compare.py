"""Comparing the outputs of two graphs: bit by bit, by value, and by how far they are apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Pair = tuple[int, Any, Any]


def flat(outputs: Sequence[Any]) -> list[Any]:
    """Return outputs with sequences opened."""
    found: list[Any] = []
    for output in outputs:
        if isinstance(output, list | tuple):
            found += flat(output)
        else:
            found.append(output)
    return found


def pairs(a: Sequence[Any], b: Sequence[Any], skip: frozenset[int] = frozenset()) -> Iterator[Pair]:
    """Yield `(index, left, right)` for each pair of outputs that is to be compared."""
    for index, (x, y) in enumerate(zip(flat(a), flat(b))):
        if index not in skip:
            yield index, x, y


def form_difference(a: Any, b: Any) -> str | None:
    """Return how two outputs differ in kind, dtype or shape, or None."""
    if isinstance(a, torch.Tensor) != isinstance(b, torch.Tensor):
        return f"was a {type(a).__name__}, is a {type(b).__name__}"
    if not isinstance(a, torch.Tensor):
        return None
    if a.dtype != b.dtype:
        return f"was {a.dtype}, is {b.dtype}"
    if a.shape != b.shape:
        return f"had shape {list(a.shape)}, has {list(b.shape)}"
    return None


def exact_difference(a: Any, b: Any, *, bitwise: bool) -> str | None:
    """Return how two outputs differ, or None if they are the same bits (the same values up to sign of zero and NaN)."""
    found = form_difference(a, b)
    if found is not None:
        return found
    if not isinstance(a, torch.Tensor):
        return None if _same_objects(a, b) else f"was {a}, is {b}"
    different = _different_bits(a, b) if bitwise else _different_values(a, b)
    count = int(different.sum())
    if not count:
        return None
    return f"{count} of {different.numel()} elements differ{_example(a, b, different)}"


def _same_objects(a: Any, b: Any) -> bool:
    """Equality of what is no tensor: numbers (NaN equals NaN), strings, arrays of strings, None."""
    if hasattr(a, "shape"):
        return a.shape == getattr(b, "shape", None) and bool((a == b).all())
    return bool(a == b or (a != a and b != b))


def _different_bits(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if a.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    if not a.is_floating_point():
        return a.ne(b)
    integer = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return a.contiguous().view(integer).ne(b.contiguous().view(integer))


def _different_values(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if a.dtype.itemsize == 1 and a.is_floating_point():
        a, b = a.double(), b.double()
    different = a.ne(b)
    if a.is_floating_point() or a.is_complex():
        different &= ~(a.isnan() & b.isnan())
    return different


def _example(a: torch.Tensor, b: torch.Tensor, different: torch.Tensor) -> str:
    if different.shape != a.shape:
        return ""
    index = tuple(different.nonzero()[0].tolist())
    return f", as {a[index].item()!r} → {b[index].item()!r} at {list(index)}"


def is_inexact(value: Any) -> bool:
    """True for floating-point and complex tensors and numbers, whose rounding may differ."""
    if isinstance(value, torch.Tensor):
        return value.is_floating_point() or value.is_complex()
    return isinstance(value, float | complex)


def wide(value: Any) -> torch.Tensor:
    """Return a flat float64 tensor of a floating-point or complex output."""
    tensor = value if isinstance(value, torch.Tensor) else torch.tensor(value)
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.detach().reshape(-1).to("cpu", torch.float64)


@dataclass(frozen=True, slots=True)
class Distance:
    """How far an output is from a reference, over the elements that are finite in both.

    scale: the largest finite magnitude of the reference. energy, signal: sums of squares of difference and reference.
    """

    max_abs: float
    scale: float
    energy: float
    signal: float

    @property
    def relative(self) -> float:
        """The largest difference in terms of the scale."""
        if self.max_abs == 0:
            return 0.0
        return self.max_abs / self.scale if self.scale else math.inf

    @property
    def relative_rms(self) -> float:
        """√(energy of the difference / energy of the reference)."""
        if self.energy == 0:
            return 0.0
        return math.sqrt(self.energy / self.signal) if self.signal else math.inf


def distance(value: Any, reference: Any) -> Distance:
    """Measure an output against a float64 reference of the same shape."""
    got, want = wide(value), wide(reference)
    finite = got.isfinite() & want.isfinite()
    if not bool(finite.all()):
        got, want = got[finite], want[finite]
    if not want.numel():
        return Distance(0.0, 0.0, 0.0, 0.0)
    difference = (got - want).abs_()
    return Distance(
        difference.max().item(), want.abs().max().item(), difference.square().sum().item(), want.square().sum().item()
    )


def special_difference(value: Any, before: Any, reference: Any) -> str | None:
    """Return how the pattern of NaN and infinities differs from the graph's before, or None.

    An element that was NaN or infinite only for lack of range, and is finite in float64, may become finite.
    """
    got, old, want = wide(value), wide(before), wide(reference)
    if bool(got.isfinite().all()) and bool(old.isfinite().all()):
        return None
    same = (got == old) | (got.isnan() & old.isnan()) | (got.isfinite() & old.isfinite())
    repaired = got.isfinite() & ~old.isfinite() & want.isfinite()
    wrong = ~(same | repaired)
    count = int(wrong.sum())
    if not count:
        return None
    index = int(wrong.nonzero()[0])
    return f"{count} elements became or ceased to be NaN or infinite, as {old[index].item()} → {got[index].item()}"


def ulp(value: Any) -> float:
    """The spacing of numbers just above 1 in an output's dtype."""
    if isinstance(value, torch.Tensor):
        return torch.finfo(value.dtype).eps
    return torch.finfo(torch.float64).eps
