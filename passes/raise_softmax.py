"""Raise softmax and its logarithm where they are written out.

    eˣ / Σ eˣ → softmax(x)                  also of x − max x, which is the same function
    log softmax(x), x − log Σ eˣ → log_softmax(x)

The operators subtract the maximum, so they are finite where the written-out form overflows. Reassociating.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from graphopt.ir import TensorType
from graphopt.passes.rules.conditions import is_floating
from graphopt.passes.support.lossless import LosslessRules
from graphopt.rewrite import Contract, Match, Rewriter, Rule, aten, either, var
from graphopt.rewrite.pattern import OpPattern, Pattern
from graphopt.rewrite.rule import Replacement

x, _DIMS = var("x"), var("dims")
_SHIFTED = aten.sub.Tensor(x, either(aten.amax(x, _DIMS, True), aten.detach(aten.amax(x, _DIMS, True))))


def _sum(value: Pattern) -> OpPattern:
    return aten.sum.dim_IntList(value, _DIMS, True, ...)


def _forms(operand: Pattern) -> tuple[OpPattern, ...]:
    powers = aten.exp(operand)
    return aten.div.Tensor(powers, _sum(powers)), aten.mul.Tensor(powers, aten.reciprocal(_sum(powers)))


class _FromParts(Rule):
    contract = Contract.REASSOCIATING
    operator = ""

    def guard(self, match: Match) -> bool:
        """Floats; the sum is over one dim, and casts nothing."""
        value, dims = match["x"], match["dims"]
        one = isinstance(dims, int) or (isinstance(dims, tuple) and len(dims) == 1)
        return one and is_floating(value) and isinstance(value.type, TensorType) and value.type.rank > 0

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Create the operator."""
        dims = match["dims"]
        return rewriter.create(self.operator, match["x"], dims if isinstance(dims, int) else dims[0]).result


class SoftmaxFromParts(_FromParts):
    """eˣ / Σ eˣ → softmax(x)."""

    name = "raise-softmax"
    operator = "aten.softmax.int"
    pattern = (*_forms(_SHIFTED), *_forms(x))


class LogSoftmaxFromParts(_FromParts):
    """log softmax(x), x − log Σ eˣ → log_softmax(x)."""

    name = "raise-log-softmax"
    operator = "aten.log_softmax.int"
    pattern = (
        aten.log(aten.softmax.int(x, _DIMS)),
        aten.sub.Tensor(_SHIFTED, aten.log(_sum(aten.exp(_SHIFTED)))),
        aten.sub.Tensor(x, aten.log(_sum(aten.exp(x)))),
        aten.sub.Tensor(x, aten.logsumexp(x, _DIMS, True)),
    )


RULES: tuple[Rule, ...] = (SoftmaxFromParts(), LogSoftmaxFromParts())


@dataclass(frozen=True)
class RaiseSoftmax(LosslessRules):
    """Make softmax of its parts."""

    contract = Contract.REASSOCIATING

    def rules(self) -> Iterable[Rule]:
        """Both."""
        return RULES
