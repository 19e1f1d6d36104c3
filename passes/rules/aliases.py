"""Operators under another name: one name each, so that rules, passes and backends look for one.

    __and__ → bitwise_and    clip → clamp    concat → cat    true_divide → div    special_expit → sigmoid    …

Bitwise: PyTorch calls the same kernel. A rule applies only to overloads whose schemas are the same.
"""

from __future__ import annotations

from graphopt.errors import GraphOptError
from graphopt.ir import Op
from graphopt.ops import get_op
from graphopt.rewrite import Contract, Match, Rewriter, Rule
from graphopt.rewrite.pattern import OpPattern
from graphopt.rewrite.rule import Replacement

_NAMES = """
__and__ bitwise_and   __or__ bitwise_or   __xor__ bitwise_xor   absolute abs   negative neg   clip clamp
concat cat   concatenate cat   true_divide div   divide div   multiply mul   subtract sub   fix trunc
greater gt   greater_equal ge   less lt   less_equal le   not_equal ne   arccos acos   arcsin asin   arctan atan
arccosh acosh   arcsinh asinh   arctanh atanh   arctan2 atan2   moveaxis movedim   special_expit sigmoid
special_erf erf   special_erfc erfc   special_erfinv erfinv   special_exp2 exp2   special_expm1 expm1
special_log1p log1p   special_logit logit   special_psi digamma   special_gammaln lgamma   special_round round
special_sinc sinc   special_i0 i0   special_softmax softmax   special_log_softmax log_softmax
"""
_WORDS = _NAMES.split()
ALIASES = {f"aten.{alias}": f"aten.{name}" for alias, name in zip(_WORDS[::2], _WORDS[1::2])}
_targets: dict[Op, Op | None] = {}


def canonical_operator(op: Op) -> Op | None:
    """The operator of the same schema under its usual name, or None if `op` goes by that already."""
    if op not in _targets:
        _targets[op] = _find(op)
    return _targets[op]


def _find(op: Op) -> Op | None:
    name = ALIASES.get(op.base)
    if name is None:
        return None
    overload = op.name.removeprefix(op.base)
    # `special_softmax` has one overload, which is `softmax.int`.
    for suffix in (overload, overload or ".int"):
        try:
            found = get_op(name + suffix)
        except GraphOptError:
            continue
        if [(p.name, p.kind, p.type) for p in found.params] == [(p.name, p.kind, p.type) for p in op.params]:
            return found
    return None


class UsualName(Rule):
    """An alias becomes the operator that it is one of."""

    name = "usual-name"
    contract = Contract.BITWISE
    pattern = tuple(OpPattern(alias, rest=True) for alias in ALIASES)

    def guard(self, match: Match) -> bool:
        """The usual operator has this overload."""
        return canonical_operator(match.root.op) is not None

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Create it with the same arguments."""
        root, op = match.root, canonical_operator(match.root.op)
        assert op is not None
        return rewriter.rebuild(root, root.operands, op=op).results


RULES: tuple[Rule, ...] = (UsualName(),)
