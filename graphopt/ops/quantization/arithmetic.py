"""Quantization as arithmetic on tensors:

    Q(x) = saturate(round(x / scale) + zero_point)        D(q) = (q − zero_point) · scale

Rounding goes to the nearest, ties to even. Both are computed in single precision (half-precision operands are widened),
in double where an operand is double; so Q has the bits of ONNX Runtime's kernels. NaN becomes the least integer.
"""

from __future__ import annotations

import torch

from graphopt.ops.quantization.formats import Format


def quantized(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    format_: Format,
    axis: int | None,
    block_size: int,
    saturate: bool = True,
) -> torch.Tensor:
    """Q(x). saturate: of a float format, bound what lies beyond its range; otherwise it becomes NaN or infinity."""
    ratio = quotient(x, scale, format_, axis, block_size)
    if format_.is_float:
        return _to_float_format(ratio, format_, saturate)
    return _to_integer(ratio, zero_point, format_, axis, block_size)


def dequantized(
    q: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    axis: int | None,
    block_size: int,
    output_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """D(q), in `output_dtype`, by default that of the scale."""
    compute = torch.float64 if torch.float64 in (scale.dtype, output_dtype) else torch.float32
    if zero_point is None:
        number = q.to(compute)
    elif q.dtype is torch.int32:  # whose difference single precision would round twice
        number = (q.long() - spread(zero_point, q.shape, axis, block_size).long()).to(compute)
    else:
        number = q.to(compute) - spread(zero_point, q.shape, axis, block_size).to(compute)
    product = number * spread(scale, q.shape, axis, block_size).to(compute)
    return product.to(output_dtype or scale.dtype)


def inside(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    format_: Format,
    axis: int | None,
    block_size: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x / scale, and where it is inside the range before rounding, so that Q does not saturate."""
    ratio = quotient(x, scale, format_, axis, block_size)
    offset = ratio.round() if not format_.is_float else ratio
    if zero_point is not None:
        offset = offset + spread(zero_point, x.shape, axis, block_size).to(ratio.dtype)
    return ratio, (offset >= format_.low) & (offset <= format_.high)


def quotient(x: torch.Tensor, scale: torch.Tensor, format_: Format, axis: int | None, block_size: int) -> torch.Tensor:
    """x / scale in the working precision."""
    wide = torch.float64 in (x.dtype, scale.dtype) or format_.bits > 24
    compute = torch.float64 if wide else torch.float32
    return x.to(compute) / spread(scale, x.shape, axis, block_size).to(compute)


def spread(parameter: torch.Tensor, shape: torch.Size, axis: int | None, block_size: int) -> torch.Tensor:
    """Bring a scale or zero point to a form that broadcasts to `shape`.

    Without an axis it holds one number; with an axis alone one for each index along it; with a block size it has the
    tensor's rank, and each of its elements stands for `block_size` neighbours along the axis (the last may be fewer).

    Raises:
        ValueError: it has another shape.
    """
    if axis is None:
        if parameter.numel() != 1:
            raise ValueError(f"a scale or zero point of shape {list(parameter.shape)} needs an axis")
        return parameter.reshape(())
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"axis {axis} is none of a tensor of {len(shape)} dims")
    axis %= len(shape)
    if not block_size:
        if parameter.dim() != 1 or parameter.shape[0] != shape[axis]:
            raise ValueError(
                f"a scale or zero point along axis {axis} of a tensor of shape {list(shape)} has shape "
                f"[{shape[axis]}], not {list(parameter.shape)}"
            )
        return parameter.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    blocks = -(-shape[axis] // block_size)
    wanted = [*shape[:axis], blocks, *shape[axis + 1 :]]
    if list(parameter.shape) != wanted:
        raise ValueError(
            f"a scale or zero point for blocks of {block_size} along axis {axis} of a tensor of shape {list(shape)} "
            f"has shape {wanted}, not {list(parameter.shape)}"
        )
    repeated = parameter.unsqueeze(axis + 1).expand(*wanted[: axis + 1], block_size, *wanted[axis + 1 :])
    return repeated.flatten(axis, axis + 1).narrow(axis, 0, shape[axis])


def _to_integer(
    ratio: torch.Tensor, zero_point: torch.Tensor | None, format_: Format, axis: int | None, block_size: int
) -> torch.Tensor:
    """Round and saturate. `fmax` and `fmin` take the number where the other is NaN."""
    number = ratio.round_()
    if zero_point is not None:
        number = number.add_(spread(zero_point, ratio.shape, axis, block_size).to(ratio.dtype))
    low = torch.full((), format_.low, dtype=ratio.dtype, device=ratio.device)
    high = torch.full((), format_.high, dtype=ratio.dtype, device=ratio.device)
    return torch.fmin(torch.fmax(number, low), high).to(format_.storage)


def _to_float_format(ratio: torch.Tensor, format_: Format, saturate: bool) -> torch.Tensor:
    assert format_.mantissa is not None and format_.exponent is not None
    if format_.bits == 8:
        if saturate:
            return ratio.clamp(format_.low, format_.high).to(format_.storage)
        if format_.storage is torch.float8_e4m3fn:  # PyTorch saturates; 464 is the last to be rounded to 448
            ratio = ratio.masked_fill(ratio.abs() > 464, torch.nan)
        return ratio.to(format_.storage)
    bounded = ratio.clamp(format_.low, format_.high)
    # The grid has the spacing 2^(e − mantissa) between 2^e and 2^(e+1), and that of the least normals below them.
    exponent = torch.frexp(bounded).exponent.sub(1).clamp_(min=format_.exponent)
    step = torch.ldexp(torch.ones_like(bounded), exponent - format_.mantissa)
    return (bounded / step).round_().mul_(step).to(format_.storage)
