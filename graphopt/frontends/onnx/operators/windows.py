"""Padding of sliding windows: the attributes of convolutions and poolings."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.frontends.onnx.application import Application
from graphopt.ir.dim_ops import ceildiv, dim_max, floordiv
from graphopt.ir.dims import Dim


def padding(
    a: Application, sizes: Sequence[Dim], kernel: list[int], strides: list[int], dilations: list[int]
) -> tuple[list[Dim], list[Dim]]:
    """Return the padding before and after each spatial dim, from `pads` or `auto_pad`.

    SAME pads to ⌈size/stride⌉ outputs; an odd amount has its extra element after (upper) or before (lower).
    """
    mode = a.attr("auto_pad", "NOTSET")
    rank = len(kernel)
    if mode in ("NOTSET", ""):
        pads = a.attr("pads") or [0] * (2 * rank)
        return list(pads[:rank]), list(pads[rank:])
    if mode == "VALID":
        return [0] * rank, [0] * rank
    before: list[Dim] = []
    after: list[Dim] = []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations):
        extent = (k - 1) * dilation + 1
        total = extent - 1 if stride == 1 else dim_max((ceildiv(size, stride) - 1) * stride + extent - size, 0)
        small = floordiv(total, 2)
        large = total - small
        before.append(small if mode == "SAME_UPPER" else large)
        after.append(large if mode == "SAME_UPPER" else small)
    return before, after


def is_plain(before: list[Dim], after: list[Dim]) -> bool:
    """True if the padding is what PyTorch's operators take: known, and alike on both sides."""
    return before == after and all(isinstance(amount, int) for amount in before)


def interleaved(before: Sequence[Dim], after: Sequence[Dim]) -> list[Dim]:
    """The padding as PyTorch's `pad` takes it, the last dim first."""
    return [amount for pair in zip(before[::-1], after[::-1]) for amount in pair]
