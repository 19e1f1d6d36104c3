"""Sample inputs: made up from types, and a second set at other sizes. The global random generator is never touched."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from math import prod
from types import MappingProxyType
from typing import Any

import torch

from graphopt.analysis import bind_sizes
from graphopt.ir import Graph, ScalarType, Symbol, TensorType, Value
from graphopt.ir.dims import Dim, UnboundSymbolError, evaluate, symbols_of

SEED = 0x9E3779B9
Preference = Callable[[int, int], Iterator[int]]
"""Sizes to try in place of a size, in order of preference, given the size and the step between allowed ones."""

FIRST_SIZES = (4, 5, 6, 7, 8, 9, 10, 11)
"""Sizes for symbols when inputs are made up: small, distinct, and away from 0 and 1."""

LARGEST = 1 << 28
"""Inputs of more elements are not made up: a damaged file may say any size."""


def synthesize(graph: Graph) -> list[Any] | None:
    """Make inputs from types alone: standard normal numbers. None unless every input is a floating-point tensor of at
    most `LARGEST` elements.

    An integer input may be an index, a mask or a length; a made-up value would not be a fair sample.
    """
    if not all(isinstance(v.type, TensorType) and v.type.dtype.is_floating for v in graph.inputs):
        return None
    sizes = first_sizes(graph.symbols())
    generator = torch.Generator().manual_seed(SEED)
    types = [v.type for v in graph.inputs if isinstance(v.type, TensorType)]
    try:
        shapes = [[evaluate(d, sizes) for d in type_.shape] for type_ in types]
    except UnboundSymbolError:
        return None
    if any(prod(shape) > LARGEST for shape in shapes):
        return None
    return [_normal(type_, shape, generator) for type_, shape in zip(types, shapes)]


def first_sizes(symbols: Sequence[Symbol]) -> dict[str, int]:
    """Return distinct small sizes in the symbols' ranges."""
    found: dict[str, int] = {}
    for index, symbol in enumerate(symbols):
        wanted = FIRST_SIZES[index % len(FIRST_SIZES)]
        found[symbol.name] = next(_allowed(symbol, (wanted, *range(wanted + 1, wanted + 64))), _least(symbol))
    return found


def _normal(type_: TensorType, shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    made = torch.randn(shape, generator=generator, dtype=torch.float64).to(type_.dtype.storage)
    return made if type_.device == "cpu" else made.to(type_.device)


def variations(graph: Graph, inputs: Sequence[Any]) -> Iterator[tuple[list[Any], dict[str, int]]]:
    """Yield further input sets made from one, most telling first, each with the sizes that it has.

    First every symbolic dim at once at another, distinct size (near the given one, then doubled, then halved), by
    cropping or repeating; last the given sizes with other values. Floating-point numbers are scaled into
    [½, 1] of what they were, so they stay in their domain; integers are only taken from the given ones.
    """
    given = bind_sizes(graph.inputs, inputs)
    generator = torch.Generator().manual_seed(SEED)
    symbols = [s for s in graph.symbols() if s.name in given]
    derived = _derived(graph) if symbols else {}
    tried: list[dict[str, int]] = []
    for prefer in (_near, _doubled, _halved) if symbols else ():
        sizes = other_sizes(symbols, given, prefer, derived)
        if sizes is not None and sizes != given and sizes not in tried:
            tried.append(sizes)
            made = [resize(value, x, {**given, **sizes}, generator) for value, x in zip(graph.inputs, inputs)]
            yield made, {**given, **sizes}
    if any(isinstance(x, torch.Tensor) and x.is_floating_point() for x in inputs):
        yield [resize(value, x, given, generator) for value, x in zip(graph.inputs, inputs)], given


def other_sizes(
    symbols: Sequence[Symbol],
    given: Mapping[str, int],
    prefer: Preference,
    derived: Mapping[str, Collection[Dim]] = MappingProxyType({}),
) -> dict[str, int] | None:
    """Return another size for each symbol, distinct among themselves and from all given ones; None if none is free.

    derived: the dims that depend on each symbol alone. A size at which all of them differ is preferred: `(s + 3)//4` is
    the same at 127 and at 128, and so would be what a rewrite makes of it.
    """
    taken = set(given.values())
    found: dict[str, int] = {}
    for symbol in symbols:
        old, step, name = given[symbol.name], symbol.multiple_of, symbol.name
        choices = chain(prefer(old, step), _near(old, step), _halved(old, step), _doubled(old, step))
        wanted = [candidate for candidate in _allowed(symbol, choices) if candidate not in taken]
        dims = derived.get(name, ())
        telling = (s for s in wanted if all(evaluate(d, {name: s}) != evaluate(d, {name: old}) for d in dims))
        size = next(chain(telling, wanted), None)
        if size is None:
            size = old  # its range allows no other
        taken.add(size)
        found[symbol.name] = size
    return found if any(found[name] != given[name] for name in found) else None


def _derived(graph: Graph) -> dict[str, set[Dim]]:
    """The dims of a graph's values that depend on one symbol alone, by its name."""
    found: dict[str, set[Dim]] = {}
    for type_ in {value.type for node in graph for value in node.results if isinstance(value.type, TensorType)}:
        for dim in type_.shape:
            symbols = symbols_of(dim)
            if len(symbols) == 1:
                found.setdefault(symbols[0].name, set()).add(dim)
    return found


def _near(size: int, step: int) -> Iterator[int]:
    """Smaller sizes first, since they cost less."""
    for distance in range(1, 9):
        yield size - distance * step
        yield size + distance * step


def _doubled(size: int, step: int) -> Iterator[int]:
    yield from (2 * size, 3 * size, 4 * size)


def _halved(size: int, step: int) -> Iterator[int]:
    yield from (size // 2, size // 4)


def _allowed(symbol: Symbol, candidates: Iterable[int]) -> Iterator[int]:
    """The candidates in a symbol's range. 0 and 1 behave differently, so they are not samples of what others do."""
    for size in candidates:
        if size >= max(symbol.min, 2) and (symbol.max is None or size <= symbol.max) and size % symbol.multiple_of == 0:
            yield size


def _least(symbol: Symbol) -> int:
    step = max(symbol.multiple_of, 1)
    return max(-(-symbol.min // step) * step, 0 if symbol.max == 0 else step)


def resize(value: Value, given: Any, sizes: Mapping[str, int], generator: torch.Generator) -> Any:
    """Crop or repeat one input to the sizes that its type has there."""
    if isinstance(value.type, ScalarType):
        dim = value.type.value
        return given if dim is None or isinstance(dim, int) else evaluate(dim, sizes)
    if not isinstance(value.type, TensorType) or not isinstance(given, torch.Tensor):
        return given
    made = given.detach()
    for axis, dim in enumerate(value.type.shape):
        made = _resize_axis(made, axis, dim, sizes)
    if made.is_floating_point() and made.numel():
        factors = torch.rand(made.shape, generator=generator, dtype=torch.float64) / 2 + 0.5
        made = (made.double() * factors.to(made.device)).to(made.dtype)
    return made


def _resize_axis(tensor: torch.Tensor, axis: int, dim: Dim, sizes: Mapping[str, int]) -> torch.Tensor:
    old, new = tensor.shape[axis], evaluate(dim, sizes)
    if new == old:
        return tensor
    if old == 0:
        return tensor.new_zeros([new if i == axis else s for i, s in enumerate(tensor.shape)])
    signed = UNSELECTABLE.get(tensor.dtype)
    stored = tensor if signed is None else tensor.view(signed)
    return stored.index_select(axis, torch.arange(new, device=tensor.device) % old).view(tensor.dtype)


UNSELECTABLE = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
"""Types that PyTorch selects no elements of, and those of the same bits."""
