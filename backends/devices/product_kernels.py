"""Products of 8-bit numbers as tensor cores compute them: `torch._int_mm` and `torch._scaled_mm`.

    int8_product(x, W, c, s, b)      = (x Wᵀ − c) · s + b          c = z Σₖ Wₖ, with the zero point z of x
    float8_product(x, W, s_x, s, b)  = (x Wᵀ · s_x) · s + b

Kernels want sizes that are multiples of 8 or 16, and more than 16 rows: weights are stored so, what is read is filled
up with zeros, and what is too much is cut off. Integers are exact: sums stay in 32 bits up to 2¹⁷ columns.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from graphopt.ir import Trait
from graphopt.ops.torch_dialects import register_torch_op

INT8, FLOAT8 = "graphopt.int8_product", "graphopt.float8_product"
MULTIPLES = {INT8: 8, FLOAT8: 16}
_ROWS = 32
_LIBRARY = torch.library.Library("graphopt", "FRAGMENT")
_LIBRARY.define(
    "int8_product(Tensor x, Tensor weight, Tensor correction, Tensor scale, Tensor? bias, int size) -> Tensor"
)
_LIBRARY.define(
    "float8_product(Tensor x, Tensor weight, Tensor input_scale, Tensor scale, Tensor? bias, int size) -> Tensor"
)


def padded(weight: torch.Tensor, multiple: int) -> torch.Tensor:
    """A matrix with rows and columns of zeros up to a multiple.

    >>> padded(torch.ones(3, 8, dtype=torch.int8), 8).shape
    torch.Size([8, 8])
    """
    rows, columns = weight.shape
    if rows % multiple == 0 and columns % multiple == 0:
        return weight.contiguous()
    whole = weight.new_zeros(-(-rows // multiple) * multiple, -(-columns // multiple) * multiple)
    whole.view(torch.uint8)[:rows, :columns] = weight.view(torch.uint8)
    return whole


def _rows(x: torch.Tensor, columns: int) -> torch.Tensor:
    """x [*, K] as a matrix of at least 32 rows and so many columns."""
    rows = x.reshape(-1, x.shape[-1])
    missing = (0, columns - rows.shape[1], 0, max(_ROWS - rows.shape[0], 0))
    if not any(missing):
        return rows.contiguous()
    return functional.pad(rows.view(torch.uint8), missing).view(x.dtype)


def _int8_product(
    x: torch.Tensor,
    weight: torch.Tensor,
    correction: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    size: int,
) -> torch.Tensor:
    if x.dtype is torch.uint8:  # the same bits less 128, which the correction knows
        x = (x ^ 128).view(torch.int8)
    sums = torch._int_mm(_rows(x, weight.shape[1]), weight.t())[: x.numel() // x.shape[-1], :size]
    return _scaled((sums - correction).float(), x, scale, bias)


def _float8_product(
    x: torch.Tensor,
    weight: torch.Tensor,
    input_scale: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    size: int,
) -> torch.Tensor:
    one = torch.ones((), device=x.device)
    sums = torch._scaled_mm(
        _rows(x, weight.shape[1]), weight.t(), input_scale.reshape(()), one, out_dtype=torch.float32
    )
    return _scaled(sums[: x.numel() // x.shape[-1], :size], x, scale, bias)


def _scaled(sums: torch.Tensor, x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    y = sums * scale.reshape(-1)
    return (y if bias is None else y + bias).reshape(*x.shape[:-1], -1)


def _fake(
    x: torch.Tensor, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: object, size: int
) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], size), dtype=torch.float32)


for _name, _kernel in (("int8_product", _int8_product), ("float8_product", _float8_product)):
    _LIBRARY.impl(_name, _kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"graphopt::{_name}", _fake, lib=_LIBRARY)
    register_torch_op(f"graphopt.{_name}", (Trait.PURE,))
