"""Binding symbols to sizes: from the shapes of the inputs, and from results whose shapes depend on data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from graphopt.errors import InputError
from graphopt.ir import ScalarType, TensorType, Type, Value
from graphopt.ir.dims import Dim, evaluate, linear_in, symbols_of


def bind_sizes(values: Sequence[Value], inputs: Sequence[Any]) -> dict[str, int]:
    """Return symbol name → size for a call, solving `a*s + b = size` where a dim is not a bare symbol.

    Raises:
        InputError: a tensor of another rank, a dim that cannot hold the given size, or two inputs that disagree.
    """
    bindings: dict[str, int] = {}
    compound: list[tuple[Dim, int, str]] = []
    for value, given in zip(values, inputs):
        if isinstance(value.type, TensorType) and isinstance(given, torch.Tensor) and given.dim() != value.type.rank:
            raise InputError(f"input {value.name!r} has shape {tuple(given.shape)}, expected {value.type!r}")
        for dim, size in dims_with_sizes(value.type, given):
            if isinstance(dim, int) or linear_in(dim) is not None:
                _bind(bindings, dim, size, value.name)
            else:
                compound.append((dim, size, value.name))
    for dim, size, name in compound:
        if all(s.name in bindings for s in symbols_of(dim)) and evaluate(dim, bindings) != size:
            raise InputError(f"input {name!r} has size {size}, where {dim} is {evaluate(dim, bindings)}")
    return bindings


def dims_with_sizes(type_: Type, given: Any) -> Iterable[tuple[Dim, int]]:
    """Pair each dim of a type with the size that a runtime value has there."""
    if isinstance(type_, TensorType) and isinstance(given, torch.Tensor):
        return zip(type_.shape, given.shape)
    if isinstance(type_, ScalarType) and type_.value is not None and isinstance(given, int):
        return ((type_.value, given),)
    return ()


def bind_fresh(bindings: dict[str, int], type_: Type, given: Any) -> None:
    """Bind the symbols that a data-dependent result introduces."""
    for dim, size in dims_with_sizes(type_, given):
        if not isinstance(dim, int):
            linear = linear_in(dim)
            if linear is not None and linear[0].name not in bindings:
                bindings[linear[0].name] = (size - linear[2]) // linear[1]


def _bind(bindings: dict[str, int], dim: Dim, size: int, name: str) -> None:
    if isinstance(dim, int):
        if dim != size:
            raise InputError(f"input {name!r} has size {size} where the graph was captured with {dim}")
        return
    linear = linear_in(dim)
    if linear is None:
        return
    symbol, factor, offset = linear
    bound, rest = divmod(size - offset, factor)
    known = bindings.setdefault(symbol.name, bound)
    if rest or evaluate(dim, {symbol.name: known}) != size:
        raise InputError(f"input {name!r} has size {size}, which does not fit {dim} with {symbol.name}={known}")
