"""Sizes of values in bytes and shapes in numbers, with symbols bound; each type is looked at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

from graphopt.ir import Symbol, TensorType, Type
from graphopt.ir.dims import evaluate
from graphopt.ir.types import type_symbols


class TypeSizes:
    """Bytes of types at given sizes. A symbol without a size takes the least that its range allows (at least 1).

    bindings: the sizes in use, those that were assumed included. assumed: the latter alone.

    Types are shared between nodes and clones, so they are told apart by identity: hashing one costs more than this.
    """

    def __init__(self, bindings: Mapping[str, int] | None = None) -> None:
        self.bindings: dict[str, int] = dict(bindings or {})
        self.assumed: dict[str, int] = {}
        self._numbers: dict[int, int] = {}
        self._by_type: dict[Type | None, int] = {}
        self._alive: list[Type | None] = []
        self._bytes: list[int] = []
        self._symbols: dict[int, tuple[Symbol, ...]] = {}

    def number(self, type_: Type | None) -> int:
        """A small number that stands for a type; equal types have the same."""
        number = self._numbers.get(id(type_))
        return self._add(type_) if number is None else number

    def bytes(self, type_: Type) -> int:
        """The size of a tensor of this type in bytes; 0 for what is no tensor."""
        return self._bytes[self.number(type_)]

    def assumed_in(self, numbers: Iterable[int]) -> dict[str, int]:
        """The sizes that were assumed for the symbols of these types."""
        names = (s.name for n in sorted(numbers) for s in self._symbols.get(n, ()))
        return {name: self.assumed[name] for name in names if name in self.assumed}

    def _add(self, type_: Type | None) -> int:
        number = self._by_type.get(type_)
        if number is None:
            number = self._by_type[type_] = len(self._bytes)
            self._bytes.append(self._measure(type_, number))
        self._numbers[id(type_)] = number
        self._alive.append(type_)  # its identity must not pass to another type
        return number

    def _measure(self, type_: Type | None, number: int) -> int:
        if type_ is None:
            return 0
        symbols = type_symbols(type_)
        if symbols:
            self._symbols[number] = symbols
            self._assume(symbols)
        return type_bytes(type_, self.bindings)

    def _assume(self, symbols: Iterable[Symbol]) -> None:
        for symbol in symbols:
            if symbol.name not in self.bindings:
                step = max(symbol.multiple_of, 1)
                self.bindings[symbol.name] = self.assumed[symbol.name] = max(-(-symbol.min // step) * step, step)


def type_bytes(type_: Type, bindings: Mapping[str, int]) -> int:
    """Return the size of a tensor of this type in bytes; 0 for what is no tensor."""
    if not isinstance(type_, TensorType):
        return 0
    numel = prod(d if isinstance(d, int) else max(evaluate(d, bindings), 0) for d in type_.shape)
    return (numel * type_.dtype.bits + 7) // 8
