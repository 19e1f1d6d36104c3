"""Holding each input of a call to the type that it was captured with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from graphopt.analysis import bind_sizes
from graphopt.errors import InputError
from graphopt.ir import Dim, DType, ScalarKind, ScalarType, Symbol, TensorType, Value
from graphopt.ir.dims import linear_in
from graphopt.ir.types import type_symbols

InputCheck = Callable[[Any], None]
"""Takes an input; raises InputError if it does not fit."""

_NUMBERS = {ScalarKind.INT: (int,), ScalarKind.FLOAT: (float, int), ScalarKind.BOOL: (bool,)}


def make_check(value: Value) -> InputCheck:
    """Return the check of one graph input. Sizes of symbols are left to `check_ranges`."""
    type_ = value.type
    if isinstance(type_, TensorType):
        return _TensorCheck(value.name, type_) if type_.dtype is not DType.STRING else _strings_check(value.name, type_)
    if isinstance(type_, ScalarType):
        return _number_check(value.name, type_)
    return lambda given: None


def _strings_check(name: str, type_: TensorType) -> InputCheck:
    def check(given: Any) -> None:
        if not isinstance(given, np.ndarray) or given.dtype.kind not in "OUST":
            raise InputError(f"input {name!r} must be a NumPy array of strings ({type_!r}), got {_kind(given)}")
        fits = [not isinstance(dim, int) or size == dim for size, dim in zip(given.shape, type_.shape)]
        if given.ndim != type_.rank or not all(fits):
            raise InputError(f"input {name!r} must be {type_!r}, got shape {list(given.shape)}")

    return check


class _TensorCheck:
    """Says yes with a few comparisons, and finds the reason only where it must say no."""

    def __init__(self, name: str, type_: TensorType) -> None:
        self.name = name
        self.type = type_
        self.dtype = type_.dtype.storage
        self.device = torch.device(type_.device)
        self.rank = type_.rank
        self.shape = tuple(d for d in type_.shape) if all(isinstance(d, int) for d in type_.shape) else None
        self.fixed = [(axis, dim) for axis, dim in enumerate(type_.shape) if isinstance(dim, int)]

    def __call__(self, given: Any) -> None:
        if not isinstance(given, torch.Tensor):
            raise InputError(f"input {self.name!r} must be a tensor ({self.type!r}), got {_kind(given)}")
        if given.dtype is self.dtype and given.device == self.device and given.layout is torch.strided:
            if self.shape is not None:
                if given.shape == self.shape:
                    return
            elif given.dim() == self.rank and all(given.shape[axis] == dim for axis, dim in self.fixed):
                return
        reason = self._reason(given)
        if reason is not None:
            raise InputError(f"input {self.name!r} must be {reason}")

    def _reason(self, given: torch.Tensor) -> str | None:
        if given.dtype is not self.dtype:
            return (
                f"{self.dtype}, got {given.dtype}; convert it with .to({self.dtype}), or compile anew with inputs of "
                "that dtype"
            )
        if given.device.type != self.device.type or self.device.index not in (None, given.device.index):
            return f"on device {self.type.device!r}, got a tensor on {str(given.device)!r}; move it there with .to()"
        if given.layout is not torch.strided:
            return f"dense, got layout {given.layout}; convert it with .to_dense()"
        if given.dim() != self.rank:
            return f"of rank {self.rank} ({self.type!r}), got shape {list(given.shape)}"
        for axis, dim in self.fixed:
            if given.shape[axis] != dim:
                return (
                    f"{self.type!r}, got shape {list(given.shape)}: dim {axis} was captured with size {dim}; compile "
                    "with dynamic_shapes to leave it free"
                )
        return None


def _number_check(name: str, type_: ScalarType) -> InputCheck:
    allowed = _NUMBERS[type_.kind]

    def check(given: Any) -> None:
        if type(given) not in allowed:
            shown = f"a tensor of shape {list(given.shape)}" if isinstance(given, torch.Tensor) else repr(given)
            raise InputError(f"input {name!r} must be a number ({type_.kind.value}), got {shown}")

    return check


class SizeCheck:
    """Holds the sizes of a call to the symbols of its inputs: equal where they share one, and in its range."""

    def __init__(self, inputs: Sequence[Value]) -> None:
        self.inputs = inputs
        self._places: dict[Symbol, list[tuple[int, int]]] = {}
        self._others = False
        for index, value in enumerate(inputs):
            for axis, dim in enumerate(value.type.shape if isinstance(value.type, TensorType) else ()):
                symbol = _bare(dim)
                if symbol is not None:
                    self._places.setdefault(symbol, []).append((index, axis))
                elif not isinstance(dim, int):
                    self._others = True
            self._others |= isinstance(value.type, ScalarType) and not isinstance(value.type.value, int | None)

    def __call__(self, flat: Sequence[Any]) -> None:
        if self._others or not all(self._fits(symbol, places, flat) for symbol, places in self._places.items()):
            check_ranges(self.inputs, bind_sizes(self.inputs, flat))

    def _fits(self, symbol: Symbol, places: Sequence[tuple[int, int]], flat: Sequence[Any]) -> bool:
        index, axis = places[0]
        size = flat[index].shape[axis]
        if size < symbol.min or (symbol.max is not None and size > symbol.max) or size % symbol.multiple_of:
            return False
        return len(places) == 1 or all(flat[i].shape[a] == size for i, a in places)


def _bare(dim: Dim) -> Symbol | None:
    """The symbol that a dim is, if it is nothing more."""
    if isinstance(dim, int):
        return None
    linear = linear_in(dim)
    return linear[0] if linear is not None and linear[1:] == (1, 0) else None


def check_ranges(inputs: Sequence[Value], bindings: Mapping[str, int]) -> None:
    """Hold sizes to the ranges of their symbols: outside, what was proved from the range may be wrong.

    Raises:
        InputError: names the input and the range.
    """
    for value in inputs:
        if not isinstance(value.type, TensorType):
            continue
        for symbol in type_symbols(value.type):
            size = bindings.get(symbol.name)
            low, high = symbol.min, symbol.max
            if size is None:
                continue
            if size < low or (high is not None and size > high):
                raise InputError(
                    f"input {value.name!r}: {symbol.name}={size} is outside of "
                    f"[{low}, {'inf' if high is None else high}]; give dynamic_shapes a wider range"
                )
            if size % symbol.multiple_of:
                raise InputError(
                    f"input {value.name!r}: {symbol.name}={size} is not a multiple of {symbol.multiple_of}"
                )


def _kind(given: Any) -> str:
    kind = type(given).__name__
    if kind == "ndarray":
        return "a NumPy array; convert it with torch.from_numpy"
    return f"{given!r} ({kind})" if isinstance(given, int | float | str | None) else f"a {kind}"
