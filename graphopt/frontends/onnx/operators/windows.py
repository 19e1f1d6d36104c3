"""Padding of sliding windows: the attributes of convolutions and poolings."""

from __future__ import annotations

from graphopt.frontends.onnx.application import Application, Declined
from graphopt.ir.dim_ops import ceildiv, dim_max
from graphopt.ir.dims import Dim


def padding(
    a: Application, sizes: list[Dim], kernel: list[int], strides: list[int], dilations: list[int]
) -> tuple[list[int], list[int]]:
    """Return the padding before and after each spatial dim, from `pads` or `auto_pad`.

    SAME pads to ⌈size/stride⌉ outputs; an odd amount has its extra element after (upper) or before (lower).

    Raises:
        Declined: SAME, and the size is not known.
    """
    mode = a.attr("auto_pad", "NOTSET")
    rank = len(kernel)
    if mode in ("NOTSET", ""):
        pads = a.attr("pads") or [0] * (2 * rank)
        return list(pads[:rank]), list(pads[rank:])
    if mode == "VALID":
        return [0] * rank, [0] * rank
    before, after = [], []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations):
        extent = (k - 1) * dilation + 1
        total = extent - 1 if stride == 1 else dim_max((ceildiv(size, stride) - 1) * stride + extent - size, 0)
        if not isinstance(total, int):
            raise Declined(f"auto_pad {mode} of a dim whose size is not known, with stride {stride}")
        small, large = total // 2, total - total // 2
        before.append(small if mode == "SAME_UPPER" else large)
        after.append(large if mode == "SAME_UPPER" else small)
    return before, after


def interleaved(before: list[int], after: list[int]) -> list[int]:
    """The padding as PyTorch's `pad` takes it, the last dim first."""
    return [amount for pair in zip(before[::-1], after[::-1]) for amount in pair]
