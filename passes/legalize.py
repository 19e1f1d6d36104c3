"""Rewrite operators that a target lacks, or runs by a kernel much slower than their parts.

    everywhere       xⁿ → products by repeated squaring, n = 4 … 16      x^1.5 → x · √x
    ONNX Runtime     mish(x) → x · m / (m + 2), m = e (e + 2), e = exp(min(x, 20))
                     softmax over an axis with others behind it → exp(x − max x) / Σ exp(x − max x), and its logarithm
                     linear layers that read the same value → one layer, and a split (`rules.siblings`)
                     attention → the operator of opset 23, over packed heads where they are split (`rules.packing`)

Why, measured on one core for 10⁶ numbers in ONNX Runtime 1.32: x⁴ 10.6 ms, two products 0.6; x^1.5 12.7 against 0.6;
`Mish` 22 against 2.5; `Softmax` over axis 1 of [1, 256, 64, 64] 57 against 3.2. All reassociate.

mish(x) = x tanh(log(1 + eˣ)), and tanh(log u) = (u² − 1) / (u² + 1) with u = 1 + e gives m / (m + 2). Beyond 20 the
quotient is 1 to the last bit, so the clamp only keeps e² finite.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from graphopt.ir import Graph, Value
from graphopt.passes.rules import packing, siblings
from graphopt.passes.rules.conditions import is_floating, is_number
from graphopt.passes.support.lossless import LosslessRules
from graphopt.passmanager import PassContext, PassResult
from graphopt.rewrite import Contract, Match, Rewriter, Rule, aten, var
from graphopt.rewrite.rule import Replacement

_LARGEST_POWER = 16
x = var("x")


class _Reassociating(Rule):
    contract = Contract.REASSOCIATING

    def guard(self, match: Match) -> bool:
        """Floats only."""
        return is_floating(match["x"])


class PowInteger(_Reassociating):
    """xⁿ → products by repeated squaring."""

    name = "pow-integer"
    pattern = aten.pow.Tensor_Scalar(x, var("n", is_number))

    def guard(self, match: Match) -> bool:
        """2, 3 and negative exponents have kernels of their own, or need a reciprocal."""
        exponent = match["n"]
        return super().guard(match) and exponent == int(exponent) and 4 <= exponent <= _LARGEST_POWER

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """From the lowest bit of the exponent up."""
        exponent, square = int(match["n"]), match["x"]
        product: Value | None = None
        while True:
            if exponent % 2:
                product = square if product is None else rewriter.create("aten.mul.Tensor", product, square).result
            exponent //= 2
            if not exponent:
                return product
            square = rewriter.create("aten.mul.Tensor", square, square).result


class PowThreeHalves(_Reassociating):
    """x^1.5 → x · √x."""

    name = "pow-three-halves"
    pattern = aten.pow.Tensor_Scalar(x, 1.5)

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """A square root and a product."""
        root = rewriter.create("aten.sqrt", match["x"]).result
        return rewriter.create("aten.mul.Tensor", match["x"], root).result


class MishByParts(_Reassociating):
    """mish(x) → x · m / (m + 2)."""

    name = "mish-by-parts"
    pattern = aten.mish(x)

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Seven operators."""
        capped = rewriter.create("aten.clamp", match["x"], None, 20.0).result
        e = rewriter.create("aten.exp", capped).result
        m = rewriter.create("aten.mul.Tensor", e, rewriter.create("aten.add.Scalar", e, 2.0).result).result
        below = rewriter.create("aten.add.Scalar", m, 2.0).result
        ratio = rewriter.create("aten.div.Tensor", m, below).result
        return rewriter.create("aten.mul.Tensor", match["x"], ratio).result


class SoftmaxByParts(_Reassociating):
    """softmax over an axis that is not the last → maximum, difference, exponential, sum, quotient."""

    name = "softmax-by-parts"
    pattern = (aten.softmax.int(x, var("axis")), aten.log_softmax.int(x, var("axis")))

    def guard(self, match: Match) -> bool:
        """There are elements behind the axis."""
        shape = match["x"].shape
        return super().guard(match) and bool(shape) and any(d != 1 for d in shape[match["axis"] % len(shape) + 1 :])

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Five operators."""
        axis = (match["axis"],)
        largest = rewriter.create("aten.amax", match["x"], axis, True).result
        shifted = rewriter.create("aten.sub.Tensor", match["x"], largest).result
        powers = rewriter.create("aten.exp", shifted).result
        total = rewriter.create("aten.sum.dim_IntList", powers, axis, True).result
        if match.root.op.base == "aten.softmax":
            return rewriter.create("aten.div.Tensor", powers, total).result
        return rewriter.create("aten.sub.Tensor", shifted, rewriter.create("aten.log", total).result).result


EVERYWHERE: tuple[Rule, ...] = (PowInteger(), PowThreeHalves())
BY_PARTS: tuple[Rule, ...] = (*EVERYWHERE, MishByParts(), SoftmaxByParts(), *siblings.RULES)
TABLES: dict[str, tuple[Rule, ...]] = {"onnx": BY_PARTS, "onnxruntime": (*BY_PARTS, *packing.RULES)}
"""The rules for each target; a target that is not listed gets `EVERYWHERE`. A file for any runtime holds no operator of
the newest opsets."""


@dataclass(frozen=True)
class Legalize(LosslessRules):
    """Rewrite what a target lacks or runs slowly.

    target: the name of the target; by default the one that is compiled for.
    """

    contract = Contract.REASSOCIATING

    target: str = ""

    def rules(self) -> Iterable[Rule]:
        """The target's table."""
        return TABLES.get(self.target, EVERYWHERE)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place."""
        if not self.target:
            return replace(self, target=context.target).run(graph, context)
        return super().run(graph, context)
