"""Control flow whose way is known.

    cond(true, f, g, x) → f(x)

Bitwise: the same nodes run, outside a region.
"""

from __future__ import annotations

from graphopt.ir import Graph, Node, Value
from graphopt.rewrite import Contract, Match, Rewriter, Rule, constant
from graphopt.rewrite.pattern import Dialect
from graphopt.rewrite.rule import Replacement

_higher_order = Dialect("higher_order")


class CondConstant(Rule):
    """The branch that is taken, inlined."""

    name = "cond-constant"
    contract = Contract.BITWISE
    pattern = _higher_order.cond(constant("predicate"), ...)

    def check(self, match: Match) -> str | None:
        """The branch must not write back to anything."""
        return "the branch updates a buffer" if _taken(match).mutations else None

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Copy the branch's nodes before the root."""
        return inline(_taken(match), [v for v in match.root.operands[1:] if v is not None], rewriter)


def _taken(match: Match) -> Graph:
    predicate = match["predicate"].constant.tensor
    return match.root.regions[0 if bool(predicate.item()) else 1]


def inline(region: Graph, operands: list[Value], rewriter: Rewriter) -> list[Value]:
    """Copy the nodes of `region` to where the rewriter stands, and return its outputs there."""
    values: dict[Value, Value] = dict(zip(region.inputs, operands))
    for value in region.constants.values():
        assert value.constant is not None
        values[value] = rewriter.graph.add_constant(value.name, value.type, value.constant)
    for node in region:
        copy = Node(
            node.op,
            [None if v is None else values[v] for v in node.operands],
            node.attributes,
            [r.type for r in node.results],
            regions=tuple(inner.clone() for inner in node.regions),
            location=node.location,
            names=[r.name for r in node.results],
        )
        values.update(zip(node.results, rewriter.insert(copy).results))
    return [values[v] for v in region.outputs]


RULES: tuple[Rule, ...] = (CondConstant(),)
