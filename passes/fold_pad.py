"""Fold a constant pad into the padding of the convolution or pooling behind it.

    conv(pad(x, p), padding=q) → conv(x, padding=p+q)                   zeros, the same on both sides of each axis
    avg_pool(pad(x, p)) → avg_pool(x, padding=p)                        zeros, counted in the mean
    max_pool(pad(x, p)) → max_pool(x, padding=p)                        −∞; or zeros where x ≥ 0
    pad(pad(x, p), q) → pad(x, p+q)                                     one value, nothing cropped

A pooling pads by at most half its window, so each window holds an element of x; beside it a zero changes the maximum
of numbers ≥ 0 no more than −∞ does. The convolution may choose another kernel, hence reassociating; the rest is exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from graphopt.ir import Node
from graphopt.passes.rules.clamps import nonnegative
from graphopt.passes.support.lossless import LosslessRules
from graphopt.rewrite import Contract, Match, Rewriter, Rule, produced_by
from graphopt.rewrite.pattern import OpPattern
from graphopt.rewrite.rule import Replacement

_PADS = frozenset({"aten.constant_pad_nd", "aten.pad"})
_CONVS = {f"aten.conv{n}d": n for n in (1, 2, 3)}
_AVERAGES = {f"aten.avg_pool{n}d": n for n in (1, 2, 3)}
_MAXIMA = {f"aten.max_pool{n}d": n for n in (1, 2, 3)}


def pad_value(node: Node) -> float | None:
    """The number that a constant pad writes; None for other modes."""
    if node.op.base == "aten.pad" and node.attr("mode") != "constant":
        return None
    value = node.attributes.get("value")
    return 0 if value is None else value


def pad_sizes(node: Node) -> tuple[int, ...] | None:
    """The sizes of a pad, last axis first, begin before end; None if one is symbolic or negative."""
    sizes = node.attributes["pad"]
    return sizes if all(isinstance(s, int) and s >= 0 for s in sizes) else None


def symmetric(node: Node, spatial: int) -> tuple[int, ...] | None:
    """The padding of each of the last `spatial` axes, first axis first; None if the pad does anything else."""
    sizes = pad_sizes(node)
    if sizes is None:
        return None
    pairs = list(zip(sizes[::2], sizes[1::2]))
    if any(begin != end for begin, end in pairs) or any(begin for begin, _ in pairs[spatial:]):
        return None
    axes = [begin for begin, _ in pairs[:spatial]]
    return tuple(reversed(axes + [0] * (spatial - len(axes))))


def _roots(names: Iterable[str]) -> tuple[OpPattern, ...]:
    return tuple(OpPattern(name, (produced_by(_PADS, "pad"),), rest=True) for name in names)


class _FoldPad(Rule):
    """The pad goes into an attribute `padding` of the root."""

    spatial: dict[str, int]

    def padding(self, match: Match) -> tuple[int, ...] | str:
        """The padding of the root afterwards, or why there is none."""
        root, pad = match.root, match.node("pad")
        spatial = self.spatial[root.op.base]
        added, own = symmetric(pad, spatial), root.attr("padding")
        if added is None:
            return "the pad is not the same on both sides of the spatial axes"
        if isinstance(own, str) or not all(isinstance(p, int) for p in own):
            return "the padding is no list of numbers"
        own = own * spatial if len(own) == 1 else own
        return tuple(a + b for a, b in zip(added, own))

    def check(self, match: Match) -> str | None:
        """The padding must exist, and mean the same."""
        padding = self.padding(match)
        return padding if isinstance(padding, str) else self.refuse(match, padding)

    def refuse(self, match: Match, padding: tuple[int, ...]) -> str | None:
        """Why the root's padding would not mean what the pad does."""
        raise NotImplementedError

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Make the root again on the source of the pad."""
        root, source = match.root, match.node("pad").operands[0]
        return rewriter.rebuild(root, (source, *root.operands[1:]), padding=self.padding(match)).result


class PadIntoConv(_FoldPad):
    """conv(pad(x)) → conv(x)."""

    name = "pad-into-conv"
    contract = Contract.REASSOCIATING
    spatial = _CONVS
    pattern = _roots(_CONVS)

    def refuse(self, match: Match, padding: tuple[int, ...]) -> str | None:
        """Convolutions pad with zeros."""
        return None if pad_value(match.node("pad")) == 0 else "the pad is not of zeros"


class _PadIntoPool(_FoldPad):
    contract = Contract.VALUE_EXACT

    def refuse(self, match: Match, padding: tuple[int, ...]) -> str | None:
        """Poolings pad by at most half a window; with `ceil_mode` a window may start in the padding."""
        root = match.root
        kernel = root.attr("kernel_size")
        kernel = kernel * len(padding) if len(kernel) == 1 else kernel
        if any(2 * p > k for p, k in zip(padding, kernel)) or root.attr("ceil_mode"):
            return "the pooling cannot pad so much, or rounds its size up"
        return self.refuse_value(match, pad_value(match.node("pad")))

    def refuse_value(self, match: Match, value: float | None) -> str | None:
        """Why the pooling's own padding would not act like the value padded with."""
        raise NotImplementedError


class PadIntoAveragePool(_PadIntoPool):
    """avg_pool(pad(x)) → avg_pool(x)."""

    name = "pad-into-average-pool"
    spatial = _AVERAGES
    pattern = _roots(_AVERAGES)

    def refuse_value(self, match: Match, value: float | None) -> str | None:
        """Zeros that are counted."""
        counted = match.root.attr("count_include_pad") or match.root.attributes.get("divisor_override") is not None
        return None if value == 0 and counted else "the pad is not of zeros that count"


class PadIntoMaxPool(_PadIntoPool):
    """max_pool(pad(x)) → max_pool(x)."""

    name = "pad-into-max-pool"
    spatial = _MAXIMA
    pattern = _roots(_MAXIMA)

    def refuse_value(self, match: Match, value: float | None) -> str | None:
        """−∞, or zeros beside numbers that are not negative."""
        root, source = match.root, match.node("pad").operands[0]
        if any(d != 1 for d in root.attr("dilation")):
            return "a dilated window may hold padding alone"
        if value == -math.inf or (value == 0 and source is not None and nonnegative(source)):
            return None
        return "the pad may exceed the numbers in the window"


class MergePads(Rule):
    """pad(pad(x)) → pad(x)."""

    name = "merge-pads"
    contract = Contract.BITWISE
    pattern = _roots(_PADS)

    def check(self, match: Match) -> str | None:
        """One value, and sizes that are known and not negative."""
        root, pad = match.root, match.node("pad")
        value = pad_value(root)
        if value is None or value != pad_value(pad) or math.copysign(1, value) != math.copysign(1, pad_value(pad) or 0):
            return "the pads write different values"
        if pad_sizes(root) is None or pad_sizes(pad) is None:
            return "a size is symbolic or negative"
        return None

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Add the sizes."""
        inner, outer = pad_sizes(match.node("pad")), pad_sizes(match.root)
        assert inner is not None and outer is not None
        length = max(len(inner), len(outer))
        first, second = (sizes + (0,) * (length - len(sizes)) for sizes in (inner, outer))
        sizes = tuple(a + b for a, b in zip(first, second))
        value = pad_value(match.root)
        return rewriter.create("aten.constant_pad_nd", match.node("pad").operands[0], sizes, value).result


RULES: tuple[Rule, ...] = (MergePads(), PadIntoConv(), PadIntoAveragePool(), PadIntoMaxPool())


@dataclass(frozen=True)
class FoldPad(LosslessRules):
    """Fold constant pads into convolutions and poolings, and pads into pads."""

    contract = Contract.REASSOCIATING

    def rules(self) -> Iterable[Rule]:
        """Pads first, then what stands behind them."""
        return RULES
