"""Example sizes for symbols, and what can be learnt of a result's size from runs at several of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import prod
from random import Random
from typing import Any

from graphopt.ir import Attributes, Call, Expr, Symbol, TensorType
from graphopt.ir.dims import Dim, evaluate, from_symbol, product, symbols_of
from graphopt.ir.types import substitute_type

# Apart by orders of magnitude, so that a threshold or a rounded division shows.
_MAGNITUDES = (3, 19, 131, 4_099, 1_048_583)


def hints(call: Call, symbols: Sequence[Symbol], start: int) -> dict[str, int]:
    """An example size for each symbol: within its range, and apart from each other and the sizes in the call.

    Sizes 0 and 1 are avoided, since PyTorch specialises on them.
    """
    taken = {d for t in call.operand_types if isinstance(t, TensorType) for d in t.shape if isinstance(d, int)}
    for value in call.attributes.values():
        taken.update(d for d in (value if isinstance(value, tuple) else (value,)) if type(d) is int)
    found: dict[str, int] = {}
    for sym in symbols:
        found[sym.name] = _hint(sym, start + 18 * len(found), taken)
        taken.add(found[sym.name])
    return found


def _hint(sym: Symbol, start: int, taken: set[int]) -> int:
    step = sym.multiple_of
    low = -(-max(sym.min, 2) // step) * step
    first = max(low, -(-(low + start - 2) // step) * step)
    if sym.max is not None and first > sym.max:
        first = low
    candidates = range(first, first + 64 * step, step) if sym.max is None else range(low, sym.max + 1, step)
    for candidate in (first, *candidates):
        if candidate not in taken:
            return candidate
    return first if sym.max is None or first <= sym.max else sym.max // step * step


def examples(call: Call, symbols: Sequence[Symbol]) -> Iterator[dict[str, int]]:
    """Sizes of several magnitudes for all symbols, in no simple relation to each other."""
    for number, magnitude in enumerate(_MAGNITUDES):
        yield {sym.name: _example(sym, Random(31 * index + number), magnitude) for index, sym in enumerate(symbols)}


def _example(sym: Symbol, random: Random, magnitude: int) -> int:
    """A size of this magnitude; where the symbol's range ends before, any one in the range."""
    if sym.max is None or 2 * magnitude <= sym.max:
        return _hint(sym, random.randrange(magnitude, 2 * magnitude), set())
    step = sym.multiple_of
    sizes = range(-(-max(sym.min, 2) // step) * step, sym.max + 1, step)
    return random.choice(sizes) if sizes else sym.max // step * step


def at_sizes(call: Call, sizes: Mapping[str, int]) -> Call:
    """The call with numbers in the place of its symbols."""
    types = tuple([None if t is None else substitute_type(t, sizes) for t in call.operand_types])
    attributes = Attributes({name: _attribute_at(value, sizes) for name, value in call.attributes.items()})
    return Call(call.op, types, attributes)


def _attribute_at(value: Any, sizes: Mapping[str, int]) -> Any:
    if isinstance(value, Expr):
        return evaluate(value, sizes)
    return tuple([_attribute_at(item, sizes) for item in value]) if isinstance(value, tuple) else value


def fit(symbols: Sequence[Symbol], sizes: Sequence[Mapping[str, int]], values: Sequence[int]) -> Dim | None:
    """The dim a·p + b, p a product of up to three symbols, that all examples agree on; None if there is none, or if
    there are two.

    >>> n = Symbol("n")
    >>> print(fit([n], [{"n": 3}, {"n": 19}, {"n": 131}], [7, 39, 263]))
    2*n + 1
    """
    if len(set(values)) == 1:
        return values[0]
    found: dict[Dim, None] = {}
    for count in range(1, min(len(symbols), 3) + 1):
        for chosen in combinations(symbols, count):
            points = [prod(at[s.name] for s in chosen) for at in sizes]
            line = _line(points, values)
            if line is not None:
                found[product(map(from_symbol, chosen)) * line[0] + line[1]] = None
    return next(iter(found)) if len(found) == 1 else None


def _line(points: Sequence[int], values: Sequence[int]) -> tuple[int, int] | None:
    run = points[-1] - points[0]
    slope, rest = divmod(values[-1] - values[0], run) if run else (0, 1)
    offset = values[0] - slope * points[0]
    if rest or any(slope * x + offset != y for x, y in zip(points, values)):
        return None
    return slope, offset


def agree(a: Dim, b: Dim) -> bool:
    """Compare two dims at a few sizes."""
    symbols = dict.fromkeys((*symbols_of(a), *symbols_of(b)))
    for start in (0, 1, 5, 24):
        values = {s.name: _hint(s, start + 7 * i, set()) for i, s in enumerate(symbols)}
        if evaluate(a, values) != evaluate(b, values):
            return False
    return True
