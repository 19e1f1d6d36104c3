"""Sketches: what is kept of every value of a run, so that two graphs can be compared inside, without another run.

A small tensor is kept as it is. Of a large one x, cut into rows x₁, x₂, … of about 1024 elements, what is kept is

    sᵢ = xᵢ · r          with a fixed pseudo-random r, ½ ≤ |rⱼ| ≤ 1

A difference d in row i moves sᵢ by d·r, which is not small unless d is, but for the rarest of chances; and the size of
the sᵢ tells that of x, since the signs of r are random: E[sᵢ²] = Σⱼ rⱼ²xᵢⱼ². It costs one pass over x and keeps a
thousandth of it. Elements that are NaN, infinite or astronomical (a mask of −3e38) would drown the rest of their row;
they are counted as such, and left out of the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch

from graphopt.ir import Node, Value

SMALL = 2048
"""Tensors of up to this many elements are kept whole."""
ROW = 1024
HUGE = 1e30
"""From here on a number stands for infinity, as in a mask of −3e38."""


SAME_ORDER = frozenset(
    {
        "aten.view",
        "aten.reshape",
        "aten._unsafe_view",
        "aten.flatten",
        "aten.unflatten",
        "aten.unsqueeze",
        "aten.squeeze",
        "aten.contiguous",
        "aten.clone",
        "aten.alias",
        "aten.detach",
    }
)
"""Operators that keep the elements in their order: the sums are those of the operand."""


class Sums(NamedTuple):
    """The sketch of a large tensor. sums: sᵢ, and behind them those of the codes of special elements, if any."""

    shape: torch.Size
    dtype: torch.dtype
    sums: torch.Tensor


class Sketches(dict[Value, Any]):
    """The sketches of a run's values: tensors, `Sums`, or numbers. Is the observer of an interpreter.

    Only values of the graph itself are kept, not those of its regions, which may run many times. What is known already
    is left as it is.
    """

    def __call__(self, node: Node, results: Sequence[Any]) -> None:
        if node.results and node.results[0] in self:
            return
        if node.op.base in SAME_ORDER:
            operand = node._operands[0]
            known = self.get(operand) if operand is not None else None
            if (
                isinstance(known, Sums)
                and known.shape.numel() == results[0].numel()
                and known.dtype == results[0].dtype
            ):
                self[node.results[0]] = Sums(results[0].shape, known.dtype, known.sums)
                return
        for value, result in zip(node.results, results):
            if value._uses:
                self[value] = sketch(result)


def sketch(value: Any) -> Any:
    """The sketch of a value; None for what is neither a tensor nor a number."""
    if isinstance(value, torch.Tensor):
        size = value.numel()
        if size > SMALL:
            return Sums(value.shape, value.dtype, _sums(value))
        # A view would keep all that it looks into alive.
        whole = value.untyped_storage().nbytes() <= 2 * SMALL * value.element_size()
        return value if whole else value.clone()
    return value if isinstance(value, int | float | complex) else None


def differ(a: Any, b: Any, limit: float) -> bool:
    """True if two sketches tell that the values differ by more than `limit` times their scale."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return _tensors_differ(a, b, limit)
    if isinstance(a, Sums) and isinstance(b, Sums):
        if a.shape != b.shape or a.dtype != b.dtype or a.sums.shape != b.sums.shape:
            return True
        if torch.equal(a.sums, b.sums):
            return False
        return _far(a.sums, b.sums, limit if a.dtype.is_floating_point or a.dtype.is_complex else 0.0)
    if isinstance(a, int | float | complex) and isinstance(b, int | float | complex):
        return not (a == b or (a != a and b != b) or abs(a - b) <= limit * abs(a))
    return type(a) is not type(b)


def _tensors_differ(a: torch.Tensor, b: torch.Tensor, limit: float) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return True
    if torch.equal(a, b):
        return False
    if not (a.is_floating_point() or a.is_complex()):
        return True
    if a.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    ordinary = (a.abs() < HUGE) & (b.abs() < HUGE)
    if not bool(ordinary.all()):
        same = (a.isnan() & b.isnan()) | (a >= HUGE) & (b >= HUGE) | (a <= -HUGE) & (b <= -HUGE)
        if not bool((same | ordinary).all()):
            return True
        a, b = a[ordinary], b[ordinary]
    return _far(a, b, limit)


def _far(a: torch.Tensor, b: torch.Tensor, limit: float) -> bool:
    if not a.numel():
        return False
    return bool((a - b).abs_().max() > limit * a.abs().max())


def _sums(value: torch.Tensor) -> torch.Tensor:
    if value.dtype is not torch.float64 or value.is_cuda:
        value = torch.view_as_real(value.resolve_conj()) if value.is_complex() else value
        value = value.detach().to("cpu", torch.float64)
    flat = value.reshape(-1)
    sums = _project(flat)
    return sums if abs(float(sums.sum())) < HUGE else _special_sums(flat)


def _special_sums(flat: torch.Tensor) -> torch.Tensor:
    """The sums of the ordinary elements, and those of a code for each that is none."""
    special = ~(flat.abs() < HUGE)
    codes = flat.isnan().double() + 2 * (flat >= HUGE).double() + 3 * (flat <= -HUGE).double()
    return torch.cat([_project(flat.masked_fill(special, 0.0)), _project(codes)])


def _project(flat: torch.Tensor) -> torch.Tensor:
    size = flat.numel()
    row = _row(size)
    if row:
        return torch.mv(flat.view(-1, row), _weights()[:row])
    whole = size // ROW * ROW
    sums = torch.mv(flat[:whole].view(-1, ROW), _weights()[:ROW])
    return torch.cat([sums, torch.dot(flat[whole:], _weights()[: size - whole])[None]])


@lru_cache(maxsize=4096)
def _row(size: int) -> int:
    """A length of rows that leaves no rest, near 1024; 0 if there is none."""
    return next((row for row in range(ROW, 2 * ROW + 1) if size % row == 0), 0) or next(
        (row for row in range(ROW, ROW // 4, -1) if size % row == 0), 0
    )


@cache
def _weights() -> torch.Tensor:
    """r: random magnitudes in [½, 1] with random signs, always the same."""
    generator = torch.Generator().manual_seed(0x5EED)
    magnitudes = torch.rand(2 * ROW, generator=generator, dtype=torch.float64) / 2 + 0.5
    return magnitudes * (2 * torch.randint(2, (2 * ROW,), generator=generator, dtype=torch.float64) - 1)
