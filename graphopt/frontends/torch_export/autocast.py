"""Autocast: the traced graph keeps it as a region; here its casts become explicit.

Autocast runs an operator in the low precision, in float32, or in the widest of its operands' dtypes. Which of these
it chose shows in the traced result's dtype, so no table of operators is needed: a result in the low precision means
that the operands were narrowed to it, a float32 one that they were widened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from graphopt.frontends.builder import Builder
from graphopt.ir import DType, TensorType, Value, from_torch


@dataclass(frozen=True)
class Autocast:
    """An autocast region: the device it is for, and its low precision."""

    device: str
    dtype: DType

    def cast(
        self, builder: Builder, operands: Sequence[Any], attributes: Mapping[str, Any], results: Sequence[Any]
    ) -> list[Any]:
        """Cast the operands of an operator whose traced results are `results`, as autocast did."""
        wanted = self._computed_in(operands, attributes, results)
        if wanted is None:
            return list(operands)
        return [self._cast(builder, operand, wanted) if self._is_eligible(operand) else operand for operand in operands]

    def _computed_in(
        self, operands: Sequence[Any], attributes: Mapping[str, Any], results: Sequence[Any]
    ) -> DType | None:
        found = {r.dtype for r in results if isinstance(r, torch.Tensor) and r.is_floating_point()}
        given = {operand.dtype for operand in operands if self._is_eligible(operand)}
        if len(found) != 1 or not given or isinstance(attributes.get("dtype"), DType):
            return None
        result = from_torch(found.pop())
        natural = DType.F32 if DType.F32 in given else next(iter(given))
        if result is self.dtype and given != {self.dtype}:
            return self.dtype
        if result is DType.F32 and (natural is not DType.F32 or len(given) > 1):
            return DType.F32
        return None

    def _is_eligible(self, operand: Any) -> bool:
        if not isinstance(operand, Value) or not isinstance(operand.type, TensorType):
            return False
        type_ = operand.type
        return type_.dtype.is_floating and type_.dtype is not DType.F64 and type_.device.startswith(self.device)

    def _cast(self, builder: Builder, value: Value, dtype: DType) -> Value:
        return builder.cast(value, value.type.with_dtype(dtype))  # type: ignore[union-attr]
