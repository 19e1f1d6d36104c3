"""Constant tensors that hold one number."""

from __future__ import annotations

from graphopt.ir import Value

LIMIT = 1 << 16
"""Larger constants are not scanned: a rule about numbers is not worth reading a weight matrix."""


def uniform_value(value: Value) -> float | int | None:
    """Return the number that every element of a small constant equals, or None. NaN is never uniform."""
    if value.constant is None:
        return None
    tensor = value.constant.tensor
    count = tensor.numel()
    if not 0 < count <= LIMIT or tensor.is_complex():
        return None
    if count == 1:
        number = tensor.item()
        return number if number == number else None
    first = tensor.reshape(-1)[0]
    if not bool((tensor == first).all()):
        return None
    number = first.item()
    if number == 0 and tensor.is_floating_point() and bool(tensor.signbit().any() != first.signbit()):
        return None
    return number if number == number else None
