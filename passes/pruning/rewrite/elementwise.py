"""Operators that act on each element: evaluated on the numbers that are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from graphopt.ir import Node
from graphopt.passes.pruning.rewrite.dead import Dead, harmonized, unknown, where_known
from graphopt.passes.pruning.rewrite.scope import Scope
from graphopt.passes.pruning.rewrite.table import Treatment, treats
from graphopt.passes.support.evaluation import evaluate


@treats(
    "elementwise where __and__ __or__ __xor__ rsub floor_divide hardswish log_sigmoid square type_as elu selu celu "
    "min.other max.other hardsigmoid softshrink hardshrink relu6 logical_and logical_or true_divide"
)
class Elementwise(Treatment):
    """y = f(a, b, …): known where all operands are, or where one decides."""

    def dead(self, node: Node, operands: Sequence[Dead | None], scope: Scope) -> Sequence[Dead]:
        """f of the numbers."""
        given = [d for d in operands if d is not None]
        if node.attributes.symbols or not any(d.anything for d in given):
            return [unknown(result) for result in node.results]
        given = harmonized(given)
        present = iter(given)
        results = evaluate(node, [None if d is None else next(present).values for d in operands])
        known = _everywhere([d.known for d in given])
        decides = DECIDERS.get(node.op.base)
        if decides is not None:
            known = known | decides(node, given)
        return [where_known(value, _wide(result), known) for value, result in zip(node.results, results)]


def _everywhere(known: Sequence[torch.Tensor]) -> torch.Tensor:
    found = known[0]
    for other in known[1:]:
        found = found & other
    return found


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


Decider = Callable[[Node, list[Dead]], torch.Tensor]


def _product(node: Node, operands: list[Dead]) -> torch.Tensor:
    """0 · x = 0, for every finite x. The numbers that stand for unknown ones are finite, so the result is 0 already."""
    return operands[0].zero | operands[1].zero if len(operands) > 1 else operands[0].zero


def _quotient(node: Node, operands: list[Dead]) -> torch.Tensor:
    """0 / x = 0."""
    return operands[0].zero


def _choice(node: Node, operands: list[Dead]) -> torch.Tensor:
    """Whichever is chosen, it is the same."""
    if len(operands) < 3:
        return torch.zeros((), dtype=torch.bool)
    _, a, b = operands
    return a.known & b.known & (a.values == b.values)


def _filled(node: Node, operands: list[Dead]) -> torch.Tensor:
    """Filled or not, it is the same."""
    x = operands[0]
    number = operands[2].values if len(operands) > 2 else node.attributes["value"]
    known = x.known & (x.values == number)
    return known & operands[2].known if len(operands) > 2 else known


def _added_product(node: Node, operands: list[Dead]) -> torch.Tensor:
    """x + 0 · y = x."""
    x, a, b = operands
    return x.known & (a.zero | b.zero)


DECIDERS: dict[str, Decider] = {
    "aten.mul": _product,
    "aten.__and__": _product,
    "aten.logical_and": _product,
    "aten.div": _quotient,
    "aten.true_divide": _quotient,
    "aten.where": _choice,
    "aten.masked_fill": _filled,
    "aten.addcmul": _added_product,
}


@treats(
    "contiguous clone detach alias dropout alpha_dropout feature_dropout _to_copy to lift_fresh_copy resolve_conj "
    "resolve_neg native_dropout"
)
class Same(Treatment):
    """The operand itself, in evaluation; a cast between floats rounds, which is no loss here."""

    def dead(self, node: Node, operands: Sequence[Dead | None], scope: Scope) -> Sequence[Dead]:
        """What is known of the operand."""
        x = operands[0]
        result = node.results[0]
        rest = [unknown(other) for other in node.results[1:]]
        if x is None or not x.anything:
            return [unknown(result), *rest]
        return [Dead(x.values.to(unknown(result).values.dtype), x.known), *rest]


@treats("prelu")
class Slopes(Treatment):
    """x or a · x, with one slope a channel (axis 1)."""

    def dead(self, node: Node, operands: Sequence[Dead | None], scope: Scope) -> Sequence[Dead]:
        """A negative number needs a slope that is known."""
        x, slopes = operands
        assert x is not None and slopes is not None
        if slopes.values.numel() > 1:
            slopes = slopes.through(lambda t: t.reshape([1, -1, *[1] * (x.rank - 2)]))
        else:
            slopes = slopes.through(lambda t: t.reshape([1] * x.rank))
        values = torch.where(x.values >= 0, x.values, x.values * slopes.values)
        return [where_known(node.results[0], values, x.known & (slopes.known | (x.values >= 0)))]
