"""What lowerings of several families share: type promotion, numbers as operands."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.records import Tensor
from graphopt.ir import DType, Expr, from_torch
from graphopt.ir.dims import Dim

FALSE_STRINGS = (False, None, "follow")
"""Values of a `training` attribute under which an emitted graph behaves as in evaluation."""


def as_tensor(e: Emitter, x: Any, dtype: DType) -> Tensor:
    """A tensor or number as a tensor of `dtype`."""
    return e.cast(x, dtype) if isinstance(x, Tensor) else e.scalar(x, dtype)


def common_dtype(x: Any, y: Any) -> DType:
    """The type to which PyTorch promotes two operands (tensors or numbers)."""
    return _common(_operand_key(x), _operand_key(y))


def _operand_key(x: Any) -> tuple[Any, bool]:
    if isinstance(x, Tensor):
        return x.dtype, not x.dims
    return (int if isinstance(x, Expr) else type(x)), True


@lru_cache(maxsize=1024)
def _common(x: tuple[Any, bool], y: tuple[Any, bool]) -> DType:
    def sample(key: tuple[Any, bool]) -> Any:
        kind, scalar = key
        return torch.empty(() if scalar else (1,), dtype=kind.torch) if isinstance(kind, DType) else kind(1)

    return from_torch(torch.result_type(sample(x), sample(y)))


def equals(e: Emitter, x: Tensor, value: float) -> Tensor:
    """Where `x` is a number, as bools."""
    return e.op("Equal", x, value, dtype=DType.BOOL)


def pair(values: Sequence[int] | int | None, count: int, default: Sequence[int] = ()) -> list[int]:
    """A size for each spatial dim, given as one number, as many, or none (the default)."""
    if values is None or values == ():
        return list(default)
    given = [values] if isinstance(values, int) else list(values)
    return given * count if len(given) == 1 else given


def static(dim: Dim) -> int | None:
    """The dim as a number, if it is one."""
    return dim if isinstance(dim, int) else None
