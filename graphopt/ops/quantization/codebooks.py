"""Numbers as indices into codebooks: the operators `graphopt.lookup` and `graphopt.unpack`.

    lookup(I, C, s)[r, c·d + t] = C[r // group_size, I[r, c], t] · s[r, block of c·d + t]

A code is one number, or a vector of d neighbours. Indices of b bits are stored in bit planes: b is a sum of powers of
two, b = 4 + 1 say, and each plane fills its bytes exactly. Of a plane of w bits, the first part of the indices lies in
the lowest w bits of its bytes, the next part above it; so unpacking is a shift and a mask for each part.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from graphopt.ops.quantization.library import LIBRARY, register_kernel

LIBRARY.define("unpack(Tensor input, int bits, int size) -> Tensor")
LIBRARY.define(
    "lookup(Tensor indices, Tensor codebook, Tensor? scale=None, int group_size=0, ScalarType? output_dtype=None) "
    "-> Tensor"
)


def planes(bits: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Of each bit plane its width, the lowest bit that it holds, and its bytes for `size` indices.

    >>> list(planes(5, 10))
    [(4, 0, 5), (1, 4, 2)]
    """
    lowest = 0
    for width in (8, 4, 2, 1):
        if bits & width:
            yield width, lowest, -(-size * width // 8)
            lowest += width


def packed_codes(indices: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack indices below 2^bits, bits from 1 to 8, along the last dim: [..., size] → [..., bytes] of uint8.

    >>> packed_codes(torch.tensor([1, 2, 3, 7]), 3)
    tensor([249,   8], dtype=torch.uint8)
    """
    found = []
    for width, lowest, count in planes(bits, indices.shape[-1]):
        part = (indices.to(torch.int32) >> lowest) & ((1 << width) - 1)
        part = torch.nn.functional.pad(part, (0, count * (8 // width) - part.shape[-1]))
        shifts = torch.arange(8 // width, dtype=torch.int32, device=part.device) * width
        found.append((part.unflatten(-1, (-1, count)) << shifts[:, None]).sum(-2))
    return torch.cat(found, -1).to(torch.uint8)


def unpack(input: torch.Tensor, bits: int, size: int) -> torch.Tensor:
    """The inverse of `packed_codes`: [..., bytes] → [..., size] of uint8.

    >>> unpack(torch.tensor([249, 8], dtype=torch.uint8), 3, 4)
    tensor([1, 2, 3, 7], dtype=torch.uint8)
    """
    found = torch.zeros(*input.shape[:-1], size, dtype=torch.uint8, device=input.device)
    start = 0
    for width, lowest, count in planes(bits, size):
        part = input[..., start : start + count]
        shifts = torch.arange(8 // width, dtype=torch.uint8, device=input.device) * width
        numbers = ((part.unsqueeze(-2) >> shifts[:, None]) & ((1 << width) - 1)).flatten(-2)[..., :size]
        found |= numbers << lowest
        start += count
    return found


def lookup(
    indices: torch.Tensor,
    codebook: torch.Tensor,
    scale: torch.Tensor | None = None,
    group_size: int = 0,
    output_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Replace indices by their codes, times a scale.

    indices: integers, [*, columns / d]. codebook: [groups, codes, d]. scale: [*, blocks], for blocks of equal size
    along the columns. group_size: how many rows of indices [rows, columns / d] share a codebook; the last group may be
    smaller; 0 if there is one codebook in all.

    Returns [*, columns] in `output_dtype`, by default that of the codebook. Narrow numbers are widened to multiply. It
    differentiates by the codebook and the scale.

    >>> lookup(torch.tensor([[0, 1], [1, 1]]), torch.tensor([[[-1.0], [2.0]]]), torch.tensor([[1.0], [10.0]]))
    tensor([[-1.,  2.],
            [20., 20.]])
    """
    result: torch.Tensor = torch.ops.graphopt.lookup(indices, codebook, scale, group_size, output_dtype)
    return result


def _lookup(
    indices: torch.Tensor,
    codebook: torch.Tensor,
    scale: torch.Tensor | None = None,
    group_size: int = 0,
    output_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    groups, codes, _ = codebook.shape
    flat = indices.long()
    if group_size:
        flat = flat + (torch.arange(flat.shape[0], device=flat.device) // group_size * codes)[:, None]
    found = codebook.reshape(groups * codes, -1)[flat].flatten(-2)
    if scale is not None:
        double = torch.float64 in (codebook.dtype, scale.dtype)
        wide = torch.float64 if double else torch.float32
        found = (found.to(wide).unflatten(-1, (scale.shape[-1], -1)) * scale.to(wide).unsqueeze(-1)).flatten(-2)
    return found.to(output_dtype or codebook.dtype)


def _fake_unpack(input: torch.Tensor, bits: int, size: int) -> torch.Tensor:
    return input.new_empty((*input.shape[:-1], size))


def _fake_lookup(
    indices: torch.Tensor,
    codebook: torch.Tensor,
    scale: torch.Tensor | None = None,
    group_size: int = 0,
    output_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    shape = (*indices.shape[:-1], indices.shape[-1] * codebook.shape[-1])
    return codebook.new_empty(shape, dtype=output_dtype or codebook.dtype)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    indices, codebook, scale, ctx.group_size, ctx.output_dtype = inputs
    ctx.save_for_backward(indices, codebook, scale)


def _derivative(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    indices, codebook, scale = ctx.saved_tensors
    with torch.enable_grad():
        codes = codebook.detach().requires_grad_()
        factor = None if scale is None else scale.detach().requires_grad_()
        result = _lookup(indices, codes, factor, ctx.group_size, ctx.output_dtype)
        read = [codes] if factor is None else [codes, factor]
        by_codes, *by_scale = torch.autograd.grad(result, read, gradient)
    return None, by_codes, by_scale[0] if by_scale else None, None, None


register_kernel("unpack", unpack, _fake_unpack)
register_kernel("lookup", _lookup, _fake_lookup)
torch.library.register_autograd("graphopt::lookup", _derivative, setup_context=_remember, lib=LIBRARY)
